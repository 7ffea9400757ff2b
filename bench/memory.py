"""Peak memory of float runs: ours and ONNX Runtime's, a process of its own for each model and engine.

    python bench/memory.py --engine build/bin/bench_engine [--threads N] MODEL.onnx...

Counted is the most resident memory (VmHWM) after three runs, less what the process had at its peak before it
read the model: the program itself, or Python with numpy and onnxruntime imported. Pages of the mapped model
file count. Both engines run the same feed.
"""
import argparse
import math
import os
import pathlib
import subprocess
import sys
import tempfile


def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def onnxruntime_run(model, feed, threads):
    import numpy
    import onnxruntime

    feeds = {name: array.copy() for name, array in numpy.load(feed).items()}
    before = peak()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    for _ in range(3):
        session.run(None, feeds)
    print(before, peak())


def measured(command):
    done = subprocess.run(command, capture_output=True, text=True,
                          env={**os.environ, "OMP_WAIT_POLICY": "passive"})
    if done.returncode != 0:
        return None
    before, after = map(int, done.stdout.split()[-2:])
    return (after - before) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("models", nargs="+")
    args = parser.parse_args()
    if args.child:
        return onnxruntime_run(args.models[0], args.child, args.threads)
    ratios = []
    print(f"{'model':26}{'ours MB':>9}{'ORT MB':>9}{'ratio':>7}")
    with tempfile.TemporaryDirectory() as folder:
        feed = os.path.join(folder, "feed.npz")
        for model in args.models:
            threads = ["--threads", str(args.threads)]
            ours = measured([args.engine, "--memory", feed, *threads, model])
            theirs = None
            if ours is not None:
                theirs = measured([sys.executable, __file__, "--engine", args.engine, "--child", feed,
                                   *threads, model])
            name = pathlib.Path(model).stem
            if ours is None or theirs is None:
                print(f"{name:26} not run by {'us' if ours is None else 'ONNX Runtime'}")
                continue
            ratios.append(ours / theirs)
            print(f"{name:26}{ours:9.1f}{theirs:9.1f}{ratios[-1]:7.2f}", flush=True)
    if ratios:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"geometric mean of {len(ratios)}: {mean:.2f}; largest: {max(ratios):.2f}")


if __name__ == "__main__":
    main()
