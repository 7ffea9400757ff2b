#!/usr/bin/env python3
"""Fashion-MNIST figures of docs/measured.md: runs every job for several seeds, keeps their reports, and prints means.

  bench/fashion_mnist.py [--out FOLDER] [--seeds 0,1,2] [--only NAME,...]

Jobs whose report is there are not run again, so it can be stopped and started. Needs Debian's dataset-fashion-mnist
and a built build/bin; about an hour and a half of two quiet cores for three seeds."""
import argparse
import gzip
import json
import os
import pathlib
import statistics
import struct
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = pathlib.Path("/usr/share/datasets/fashion-mnist")
LABELLED = 2000


def spec(out, name, images, labels):
    fields = {"idx": str(images), "scale": 255, "mean": 0, "std": 1, "dtype": "float32"}
    if labels:
        fields["labels"] = str(labels)
    (out / f"{name}.json").write_text(json.dumps(fields))


def part(out, name, first, last):
    """Images and labels [first, last) of the training set as IDX files of their own."""
    images = gzip.open(DATA / "train-images-idx3-ubyte.gz").read()
    labels = gzip.open(DATA / "train-labels-idx1-ubyte.gz").read()
    size = 28 * 28
    head = struct.pack(">IIII", 0x803, last - first, 28, 28)
    (out / f"{name}.idx3").write_bytes(head + images[16 + first * size:16 + last * size])
    head = struct.pack(">II", 0x801, last - first)
    (out / f"{name}.idx1").write_bytes(head + labels[8 + first:8 + last])


def prepare(out, programs):
    out.mkdir(parents=True, exist_ok=True)
    for name, prefix in (("train", "train"), ("test", "t10k")):
        spec(out, name, DATA / f"{prefix}-images-idx3-ubyte.gz", DATA / f"{prefix}-labels-idx1-ubyte.gz")
    if not (out / "rest.idx3").exists():
        part(out, "few", 0, LABELLED)
        part(out, "rest", LABELLED, 60000)
    spec(out, "few", out / "few.idx3", out / "few.idx1")
    spec(out, "rest", out / "rest.idx3", None)
    if not (out / "student.onnx").exists():
        subprocess.run([programs / "make_fashion_models", out], check=True)


def jobs(seed):
    """(name, command, model, further flags), in the order they need each other."""
    adam = ["--batch", "128", "--lr-schedule", "constant", "--epsilon", "1e-7", "--validation", "0"]
    teacher = f"cnn_{seed}"
    learn = ["--train-data", "train.json", *adam]
    yield "cnn", "train", "cnn", [*learn, "--epochs", "3", "--lr", "1e-3"]
    for percent in (50, 80, 90, 95):
        yield f"sparse_{percent}", "distill", f"pruned_{percent}_{seed}", [
            *learn, "--epochs", "1", "--lr", "1e-3", "--keep-sparsity"]
    yield "labels_2000", "train", "student", ["--train-data", "few.json", *adam, "--epochs", "40", "--lr", "1e-3"]
    yield "distilled", "train", "student", [
        "--train-data", "rest.json", "--teacher", f"{teacher}.onnx", "--loss", "kl:T=4,alpha=1", "--batch", "128",
        "--epochs", "6", "--lr", "2e-3", "--validation", "0"]
    yield "polynomial", "distill", teacher, [
        *learn, "--epochs", "2", "--lr", "1e-3", "--sparsity-schedule", "polynomial:final=0.5,end=1,every=100"]
    yield "control_1e-4", "distill", teacher, [*learn, "--epochs", "1", "--lr", "1e-4"]
    for kind in ("int8", "int4"):
        yield f"qat_{kind}", "distill", teacher, [*learn, "--epochs", "1", "--lr", "1e-4", "--qat", kind]
    yield "control_1e-3", "distill", teacher, [*learn, "--epochs", "1", "--lr", "1e-3"]


def run(out, programs, seed, name, command, model, flags):
    report = out / f"{name}_{seed}.report.json"
    if report.exists():
        return
    if model.startswith("pruned"):
        subprocess.run([programs / "compress", "prune", f"cnn_{seed}.onnx", "-o", f"{model}.onnx", "--sparsity",
                        str(int(model.split("_")[1]) / 100), "--scope", "global", "--no-verify", "--force"],
                       cwd=out, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([programs / "compress", command, f"{model}.onnx", "-o", f"{name}_{seed}.onnx", *flags, "--seed",
                    str(seed), "--eval-data", "test.json", "--eval-samples", "10000", "--time-budget", "1", "--force",
                    "--report", "partial.json"], cwd=out, check=True, stdout=subprocess.DEVNULL)
    os.replace(out / "partial.json", report)
    print(f"seed {seed}, {name}: {top1(report):.4f}", flush=True)


def top1(report):
    return json.loads(report.read_text())["accuracy"]["candidate"]["top1"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build/fashion_mnist_figures")
    parser.add_argument("--programs", type=pathlib.Path, default=ROOT / "build/bin")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    out, programs = args.out.resolve(), args.programs.resolve()
    prepare(out, programs)
    seeds = [int(s) for s in args.seeds.split(",")]
    only = [name for name in args.only.split(",") if name]
    for seed in seeds:
        for job in jobs(seed):
            if not only or job[0] in only:
                run(out, programs, seed, *job)
    for name, *_ in jobs(0):
        values = [top1(r) for s in seeds if (r := out / f"{name}_{s}.report.json").exists()]
        if values:
            print(f"{name:14} {statistics.mean(values):.4f}  " + " ".join(f"{v:.4f}" for v in values))


if __name__ == "__main__":
    sys.exit(main())
