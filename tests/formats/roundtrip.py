#!/usr/bin/env python3
"""ONNX Runtime gives the same outputs for a model and for what `onnx_copy` makes of it.

usage: roundtrip.py ONNX_COPY MODELS_FOLDER [--opset N] [--external]

Every model of the folder is rewritten by the program ONNX_COPY and run, before and after, on the same
seeded random input. Rewriting must not change a bit of the outputs; a converted opset may change the
order of additions, so there the outputs may differ by what float32 rounding explains.
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime as ort

# Sizes of dimensions that a model leaves open, by their name or place, where 1 would not do.
DIMENSIONS = {
    "mobilenet_v2_qdq": {2: 244, 3: 244},
    "ppocr_v2_cls": {2: 48, 3: 192},
    "ppocr_v4_rec": {2: 48, 3: 96},
    "yunet_n_dynamic": {2: 64, 3: 96},
    "minilm_l6_v2": {1: 7},
    "stories260k": {1: 7},
    "silero_vad_16k": {"sequence": 576},
    "tiny_random_gpt2": {"total_seq_len": 2},
}
INTEGER_LIMITS = {"magika_v3": 256, "minilm_l6_v2": 2, "stories260k": 100, "tiny_random_gpt2": 2}


def feeds(session, name):
    rng = np.random.default_rng(7)
    result = {}
    for value in session.get_inputs():
        sizes = DIMENSIONS.get(name, {})
        shape = [
            d if isinstance(d, int) and d > 0 else sizes.get(d, sizes.get(i, 1))
            for i, d in enumerate(value.shape)
        ]
        if value.type == "tensor(float)":
            result[value.name] = rng.normal(size=shape).astype(np.float32)
        elif value.type == "tensor(float16)":
            result[value.name] = rng.normal(size=shape).astype(np.float16)
        elif value.name == "sr":
            result[value.name] = np.array(16000, np.int64)
        else:
            kind = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}[value.type]
            result[value.name] = rng.integers(0, INTEGER_LIMITS.get(name, 2), shape).astype(kind)
    return result


def session(path):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1  # one order of additions
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def compare(reference, candidate, exact):
    for a, b in zip(reference, candidate, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{a.dtype}{a.shape} became {b.dtype}{b.shape}"
        if exact and a.tobytes() != b.tobytes():
            return "outputs differ"
        if not exact and a.dtype.kind == "f":
            # 2^10 roundings to the last bit of the largest value: more than any of these models adds up.
            limit = 2.0**10 * np.finfo(a.dtype).eps * max(float(np.abs(a).max(initial=0)), 1e-6)
            if not float(np.abs(a.astype(np.float64) - b).max(initial=0)) <= limit:
                return "outputs differ by more than rounding"
        elif not exact and not np.array_equal(a, b):
            return "outputs differ"
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("copy")
    parser.add_argument("models", type=pathlib.Path)
    parser.add_argument("--opset", type=int, default=0)
    parser.add_argument("--external", action="store_true")
    arguments = parser.parse_args()
    models = sorted(arguments.models.glob("*.onnx"))
    if not models:
        print("skipped: no models in", arguments.models)
        return 77
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for path in models:
            target = pathlib.Path(folder) / path.name
            command = [arguments.copy, str(path), str(target), str(arguments.opset), str(int(arguments.external))]
            made = subprocess.run(command, capture_output=True, text=True)
            original = session(path)
            data = feeds(original, path.stem)
            reference = original.run(None, data)
            try:
                made.check_returncode()
                problem = compare(reference, session(target).run(None, data), arguments.opset == 0)
            except subprocess.CalledProcessError:
                problem = made.stderr.strip()
            except Exception as error:  # ONNX Runtime's own classes have no common base
                problem = str(error)
            print(f"{path.stem}: {problem or 'same'}")
            failures += problem is not None
    print(f"{len(models) - failures} of {len(models)} the same")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
