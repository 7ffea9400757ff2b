"""Compares run_model with ONNX Runtime on every shared model.

    python tests/runtime/parity.py --tool build/bin/run_model --shared DIR [--only NAME] [--no-lower]
        [--cuda] [--first]

For each output: max |ours - theirs| <= tolerance * max(max |theirs|, 1e-3). A quantized model is
compared with ONNX Runtime's plain graph (with its optimisations on it differs from itself by up to a
quarter of the maximum). Op by op our convolutions add up in ONNX Runtime's order, so that the usual kind
of bound holds. Lowered, sums differ by 1e-7, values in the middle between two steps fall to the other
side, and every later layer makes more of it: there the SQNR is at least 20 dB, and the arg-max is the
same wherever ONNX Runtime's two highest are over two output steps apart.
Exits 1 where one fails.
"""

import argparse
import os
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime as ort

# Feeds at one or two sizes a model. "image": noise that a normalised picture could be.
R = np.random.default_rng(1)


def image(*shape):
    x = R.normal(size=shape)
    # Neighbouring pixels are alike in pictures: smooth the noise along the last two axes.
    for axis in (-1, -2):
        if shape[axis] > 2:
            x = (x + np.roll(x, 1, axis) + np.roll(x, 2, axis)) / 1.7
    return x.astype(np.float32)


def bert(batch, length):
    mask = np.ones((batch, length), np.int64)
    mask[-1, length // 2 :] = 0
    ids = R.integers(100, 20000, (batch, length))
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def gpt2(batch, length, past):
    feeds = {
        "input_ids": R.integers(0, 1000, (batch, length)).astype(np.int32),
        "position_ids": np.tile(np.arange(past, past + length, dtype=np.int32), (batch, 1)),
        "attention_mask": np.ones((batch, past + length), np.int32),
    }
    for i in range(5):
        feeds[f"past_{i}"] = R.normal(size=(2, batch, 4, past, 8)).astype(np.float32)
    return feeds


def silero(batch):
    return {
        "input": (0.1 * R.normal(size=(batch, 576))).astype(np.float32),
        "state": (0.1 * R.normal(size=(2, batch, 128))).astype(np.float32),
        "sr": np.array(16000, np.int64),
    }


def cifar(batch):
    return {"input": R.integers(0, 256, (batch, 32, 32, 3)).astype(np.float32)}


CASES = {
    "ad_autoencoder": [{"input": image(b, 640)} for b in (1, 5)],
    "dscnn_kws": [{"input": image(b, 49, 10, 1)} for b in (1, 3)],
    "efficientnet_lite0": [{"input": image(b, 3, 224, 224)} for b in (1, 2)],
    "magika_v3": [{"bytes": R.integers(0, 257, (b, 2048)).astype(np.int32)} for b in (1, 3)],
    "minilm_l6_v2": [bert(1, 16), bert(3, 41)],
    "mnist_cntk": [{"Input3": (R.random((1, 1, 28, 28)) * 255).astype(np.float32)}],
    "mobilenet_v1_025_bn": [{"input": image(b, 3, 224, 224)} for b in (1, 2)],
    "mobilenet_v2_qdq": [{"image": image(b, 3, 244, 244)} for b in (1, 2)],
    "nanodet_m": [{"input.1": image(1, 3, 416, 416)}],
    "ppocr_v2_cls": [{"x": image(1, 3, 48, 192)}, {"x": image(2, 3, 48, 160)}],
    "ppocr_v4_rec": [{"x": image(1, 3, 48, 160)}, {"x": image(2, 3, 48, 256)}],
    "resnet8_cifar10": [cifar(1), cifar(4)],
    "resnet_large_cifar10": [cifar(1), cifar(4)],
    "silero_vad_16k": [silero(1), silero(2)],
    "squeezenet_fp16": [{"data_0": (50 * image(1, 3, 224, 224)).astype(np.float16)}],
    "stories260k": [{"input_ids": R.integers(0, 512, s)} for s in ((1, 12), (2, 33))],
    "tiny_random_gpt2": [gpt2(1, 4, 3), gpt2(2, 1, 7)],
    "ultraface_rfb": [{"input": image(1, 3, 240, 320)}],
    "yunet_n_dynamic": [{"input": 60 * image(1, 3, 64, 96)}, {"input": 60 * image(2, 3, 160, 128)}],
}
TOLERANCE = {"squeezenet_fp16": 2e-2, "mobilenet_v2_qdq": 2e-2}
QUANTIZED = {"mobilenet_v2_qdq"}
MIN_SQNR = 20.0


def theirs(path, feeds, plain):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if plain:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds)))


def same_top(expected, actual):
    """Rows [n, classes] whose two highest are over two steps apart have the same arg-max."""
    step = np.diff(np.unique(expected)).min()  # values of one scale are whole steps apart
    highest = np.sort(expected, axis=1)
    clear = highest[:, -1] - highest[:, -2] > 2 * step
    return bool((expected.argmax(1) == actual.argmax(1))[clear].all())


def compare(name, feeds, args, folder):
    path = os.path.join(args.shared, "models", name + ".onnx")
    quantized = name in QUANTIZED
    expected = theirs(path, feeds, quantized)
    into, out = os.path.join(folder, "in.npz"), os.path.join(folder, "out.npz")
    np.savez(into, **feeds)
    command = [args.tool, path, into, out]
    if args.cuda:
        command.append("--cuda")
    if args.no_lower:
        command.append("--no-lower")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        return False, done.stderr.strip() or f"exit {done.returncode}"
    tolerance = TOLERANCE.get(name, 1e-4)
    worst, sqnr, same = 0.0, np.inf, True
    with np.load(out) as ours:
        for key, value in expected.items():
            if ours[key].shape != value.shape or ours[key].dtype != value.dtype:
                return False, f"{key}: {ours[key].dtype}{ours[key].shape}, not {value.dtype}{value.shape}"
            value = value.astype(np.float64)
            error = np.abs(ours[key].astype(np.float64) - value)
            worst = max(worst, error.max() / max(np.abs(value).max(), 1e-3))
            sqnr = min(sqnr, 10 * np.log10((value**2).sum() / max((error**2).sum(), 1e-30)))
            same = same and (not quantized or same_top(value, ours[key]))
    if quantized and not args.no_lower:
        text = f"{sqnr:.1f} dB of {MIN_SQNR:.0f}, arg-max {'the same' if same else 'OTHER'}"
        return bool(sqnr >= MIN_SQNR and same), text
    return bool(worst <= tolerance), f"{worst:.2e} of {tolerance:.0e}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tool", required=True)
    parser.add_argument("--shared", required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--no-lower", action="store_true")
    parser.add_argument("--cuda", action="store_true", help="on the device of COMPRESS_CUDA_LIBRARY")
    parser.add_argument("--first", action="store_true", help="each model at one size only")
    args = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, sizes in CASES.items():
            if args.only not in name:
                continue
            for feeds in sizes[:1] if args.first else sizes:
                good, text = compare(name, feeds, args, folder)
                shape = list(next(iter(feeds.values())).shape)
                print(f"{'ok  ' if good else 'FAIL'} {name:24} {str(shape):20} {text}", flush=True)
                failed += not good
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
