"""Arrays, and iterators of them, as the data sets of a command."""
import itertools
import os
import pickle
import tempfile
from collections.abc import Mapping

ROLES = ("data", "calibration_data", "eval_data", "train_data")
# How many samples a command takes where nothing else is said (docs/data.md).
CALIBRATION_SAMPLES, EVALUATION_SAMPLES = 128, 1000


def is_path(value):
    return isinstance(value, (str, os.PathLike))


def is_array(value):
    return hasattr(value, "__array__") or hasattr(value, "__array_interface__")


def describe(name, value):
    """(name, type, shape, bytes) of an array, whose memory is not copied where it lies in one piece."""
    import numpy as np

    array = np.asarray(value)
    shape = array.shape
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind in "OSU":
        raise TypeError(f"'{name or 'data'}' is an array of {array.dtype}, not of numbers")
    flat = np.ascontiguousarray(array).reshape(-1)
    return name, array.dtype.name, shape, memoryview(flat.view(np.uint8))


def describe_sample(sample):
    """A sample is an array, a mapping of inputs to arrays, or a pair of either and its label."""
    label = None
    if isinstance(sample, tuple) and len(sample) == 2:
        sample, label = sample
    arrays = dict(sample) if isinstance(sample, Mapping) else {"": sample}
    if label is not None:
        arrays["label"] = label
    return [describe(name, array) for name, array in arrays.items()]


class Spool:
    """Samples of an iterator that gives each only once, in a file without a name: memory holds one."""

    def __init__(self, samples, limit):
        self.file = tempfile.TemporaryFile(prefix="compress-")
        self.ends = []
        for sample in itertools.islice(samples, limit):
            self.ends.append(self.file.tell())
            pickle.dump(sample, self.file, protocol=5)

    def __len__(self):
        return len(self.ends)

    def __getitem__(self, index):
        self.file.seek(self.ends[index])
        return pickle.load(self.file)


def source(value, labels, limit):
    """What the extension module makes a data set of."""
    if is_array(value):
        value = {"data": value}
    if isinstance(value, Mapping):
        arrays = dict(value)
        if labels is not None:
            arrays["label"] = labels
        return "arrays", [describe(name, array) for name, array in arrays.items()]
    if labels is not None:
        raise TypeError("labels of an iterator come with its samples: (inputs, label)")
    if not (hasattr(value, "__len__") and hasattr(value, "__getitem__")):
        if hasattr(value, "get_next"):  # ONNX Runtime's CalibrationDataReader
            value = iter(value.get_next, None)
        value = Spool(value, limit)
    return "samples", len(value), lambda index: describe_sample(value[index])
