"""Makes ONNX models smaller and faster, and proves it: the program `compress`, in process.

    import compress_onnx as co
    result = co.quantize("model.onnx", mode="static", data=images)      # a numpy array
    open("int8.onnx", "wb").write(result.model)
    print(result.report["candidate"]["size_ratio"])

Options are the flags of the command line, with the same names (dashes become underscores) and
defaults; help(co.quantize) lists them.
"""
import json as _json
import os as _os
import sys as _sys
import tempfile as _tempfile

# Threads that wait for work soon sleep; read when the library of threads is loaded, so it is said before.
_waiting = {} if "OMP_WAIT_POLICY" in _os.environ else {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "5000"}
_waiting = {_name: _value for _name, _value in _waiting.items() if _name not in _os.environ}
_os.environ.update(_waiting)
from . import _core, _data, _options  # noqa: E402
from ._core import CompressError  # noqa: E402

for _name in _waiting:
    del _os.environ[_name]

__version__ = _core.version
__all__ = ["CompressError", "GateFailed", "Result", "batch", "calibrate", "diff", "distill", "infer", "inspect", "optimize",
           "prune", "quantize", "run", "train", "verify"]

# A model's memory is measured in a process of its own: this package, from where it is.
_core.set_self_command([
    _sys.executable, "-c",
    f"import sys; sys.path.insert(0, {_os.path.dirname(_os.path.dirname(_os.path.abspath(__file__)))!r}); "
    "from compress_onnx.__main__ import main; main()"])
# engine="onnxruntime" and explain=True ask this Python's.
_os.environ.setdefault("COMPRESS_PYTHON", _sys.executable)
CompressError.__module__ = __name__
CompressError.__doc__ = "What went wrong, in one line; `code` is usage, invalid_model, unsupported, io or internal."

_GATE_FAILED = 3


class Result:
    """A model that was made: `model` is its bytes, or its path where one was given; `report` is the JSON
    report (docs/report.md); `notes` are the lines that the program prints beside it."""

    def __init__(self, model, report, notes):
        self.model, self.report, self.notes = model, report, notes

    def __bytes__(self):
        if isinstance(self.model, bytes):
            return self.model
        with open(self.model, "rb") as file:
            return file.read()

    def __repr__(self):
        before, after = self.report["reference"]["bytes"], self.report["candidate"]["bytes"]
        return f"<{self.report['command']}: {before:,} -> {after:,} bytes, {self.report['result']}>"


class GateFailed(CompressError):
    """A gate failed, or nothing changed with require_change. What was made is there all the same: `result`."""

    code = "gate"

    def __init__(self, report, result):
        gates = [row["expression"] for row in report.get("gates", []) if not row["passed"]]
        super().__init__(f"gate failed: {', '.join(gates)}" if gates else "nothing changed (require_change)")
        self.report, self.result = report, result


class _Command:
    """One command: its words, its temporary files, its data."""

    def __init__(self, name, options):
        self.name, self.options, self.words, self.sources = name, dict(options), [name], {}
        self.folder = _tempfile.TemporaryDirectory(prefix="compress-")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.folder.cleanup()

    def path(self, name):
        return _os.path.join(self.folder.name, name)

    def file(self, value, name):
        """The path of a file: given, or written from bytes or from what has SerializeToString()."""
        if _data.is_path(value):
            return _os.fspath(value)
        if hasattr(value, "SerializeToString"):
            value = value.SerializeToString()
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise TypeError(f"{self.name}(): a path, bytes or an onnx.ModelProto is wanted, not {type(value).__name__}")
        with open(self.path(name), "wb") as file:
            file.write(value)
        return self.path(name)

    def _limit(self, role):
        """How many samples are drawn from an iterator; None: all."""
        samples = self.options.get("samples") or _data.CALIBRATION_SAMPLES
        evaluation = self.options.get("eval_samples") or _data.EVALUATION_SAMPLES
        known = _options.table(self.name)
        if role == "train_data" or "train-data" in known and role == "data" or self.name == "infer":
            return None
        takes = {"eval_data": evaluation, "calibration_data": samples}
        if role in takes:
            return takes[role]
        return (samples if "samples" in known else 0) + (evaluation if "eval-samples" in known else 0)

    def attach(self):
        labels = self.options.get("labels")
        apart = labels is None or _data.is_path(labels)
        for role in _data.ROLES:
            value = self.options.get(role)
            if value is None or _data.is_path(value):
                continue
            name = f"<{role}>"
            self.sources[name] = _data.source(value, None if apart else labels, self._limit(role))
            self.options[role] = name
        if apart and labels is not None and self.sources:
            raise TypeError("labels of data given as arrays are an array, too")
        if not apart:
            if not self.sources:
                raise TypeError("labels given as an array belong to data given as arrays")
            del self.options["labels"]

    def run(self):
        for name in ("teacher", "statistics"):
            value = self.options.get(name)
            if value is not None and not _data.is_path(value):
                self.options[name] = self.file(value, name)
        self.attach()
        words = self.words + _options.words(self.name, self.options)
        return _core.run(words, self.sources, True)

    def reported(self):
        """Runs with a report: (failed, report, notes)."""
        self.words += ["--report", self.path("report.json"), "--quiet"]
        code, _, notes = self.run()
        with open(self.path("report.json"), encoding="utf-8") as file:
            return code == _GATE_FAILED, _json.load(file), notes


def _make(name, model, output, options, words=()):
    """A command that writes a model."""
    with _Command(name, options) as command:
        target = command.path("output.onnx") if output is None else _os.fspath(output)
        command.words += [command.file(model, "model.onnx"), *words, "--output", target]
        failed, report, notes = command.reported()
        made = target
        if output is None and _os.path.exists(target):
            if _os.path.exists(target + ".data"):
                raise CompressError("weights outside the model's file cannot be returned as bytes; name an output")
            with open(target, "rb") as file:
                made = file.read()
        result = Result(made, report, notes)
        if failed:
            raise GateFailed(report, result)
        return result


_DATA = dict.fromkeys(_data.ROLES, "Data") | {"labels": "Data", "teacher": "Model", "statistics": "Model"}


@_options.documented("optimize", _DATA)
def optimize(model, output=None, **options):
    """Folds, fuses and tidies a model."""
    return _make("optimize", model, output, options)


@_options.documented("prune", _DATA)
def prune(model, output=None, **options):
    """Sets weights to zero."""
    return _make("prune", model, output, options)


@_options.documented("quantize", _DATA)
def quantize(model, output=None, **options):
    """Stores weights, and computes, in fewer bits."""
    return _make("quantize", model, output, options)


@_options.documented("distill", _DATA)
def distill(model, output=None, **options):
    """Trains a model on what another says, or on labels."""
    return _make("distill", model, output, options)


@_options.documented("train", _DATA)
def train(model, output=None, **options):
    """Trains a model from its start."""
    return _make("train", model, output, options)


@_options.documented("run", _DATA)
def run(model, recipe, output=None, **options):
    """Carries out a recipe: a mapping, a path, or a name of `compress recipes`."""
    if _data.is_path(recipe):
        return _make("run", model, output, options, ["--recipe", _os.fspath(recipe)])
    with _tempfile.NamedTemporaryFile("w", suffix=".json", prefix="compress-", encoding="utf-8") as file:
        _json.dump(recipe, file)
        file.flush()
        return _make("run", model, output, options, ["--recipe", file.name])


@_options.documented("batch", {})
def batch(source, output, **options):
    """Converts many models (a folder, a list, a manifest), each in a process of its own, into a folder. Gives the
    summary, whose rows tell what was made, kept, or failed and why; nothing is raised for a model that failed."""
    with _Command("batch", options) as command:
        command.words += [_os.fspath(source), "--output", _os.fspath(output), "--json", "--quiet"]
        return _json.loads(command.run()[1])


@_options.documented("calibrate", _DATA)
def calibrate(model, output=None, **options):
    """Runs data through a model; gives the bytes of the statistics that quantize(statistics=...) takes, or the
    path that was given."""
    with _Command("calibrate", options) as command:
        target = command.path("statistics.npz") if output is None else _os.fspath(output)
        command.words += [command.file(model, "model.onnx"), "--output", target, "--quiet"]
        command.run()
        if output is not None:
            return target
        with open(target, "rb") as file:
            return file.read()


@_options.documented("verify", _DATA)
def verify(reference, candidate, **options):
    """Compares two models: accuracy, distortion, speed, memory. Gives the report."""
    with _Command("verify", options) as command:
        command.words += [command.file(reference, "reference.onnx"), command.file(candidate, "candidate.onnx")]
        failed, report, _ = command.reported()
        if failed:
            raise GateFailed(report, None)
        return report


@_options.documented("infer", _DATA)
def infer(model, data=None, **options):
    """Runs a model; gives its outputs by name. Arrays are fed whole (with batch=N in slices of axis 0), samples of
    an iterator one by one; outputs are joined on axis 0."""
    import numpy as np

    with _Command("infer", options) as command:
        target = command.path("outputs.npz")
        command.words += [command.file(model, "model.onnx"), "--output", target, "--quiet"]
        if _data.is_array(data):
            data = {"data": data}
        if isinstance(data, _data.Mapping):
            np.savez(command.path("inputs.npz"), **data)
            data = command.path("inputs.npz")
        command.options["data"] = data
        command.run()
        with np.load(target) as arrays:
            return {name: arrays[name] for name in arrays.files}


@_options.documented("inspect", _DATA)
def inspect(model, **options):
    """What is in a model, and what could be made smaller."""
    with _Command("inspect", options) as command:
        command.words += [command.file(model, "model.onnx"), "--json"]
        return _json.loads(command.run()[1])


@_options.documented("diff", {})
def diff(before, after, **options):
    """What changed between two models: interface, operators, nodes, constants."""
    with _Command("diff", options) as command:
        command.words += [command.file(before, "before.onnx"), command.file(after, "after.onnx"), "--json"]
        return _json.loads(command.run()[1])
