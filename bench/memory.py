"""Peak memory of float runs: ours and ONNX Runtime's, a process of its own for each model and engine.

    python bench/memory.py --engine build/bin/bench_engine [--threads N] [--warm] MODEL.onnx...

Counted is the most resident memory (VmHWM) after three runs: of the whole process, which for ONNX Runtime
means Python and numpy, too, and less what the process had at its peak before it read the model, the feed in memory.
With --warm each engine has run a model of one convolution and one product before that: their code and tables of
operators, some 15 MB, are in memory then, and what is left is the model's. Pages of the mapped model file count.
Both engines run the same feed.
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


def write_small_model(path):
    import numpy
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = [("w", (8, 8, 3, 3)), ("m", (16, 16))]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
         helper.make_node("MatMul", ["c", "m"], ["y"])], "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 16, 16])],
        [numpy_helper.from_array(numpy.ones(shape, numpy.float32), name) for name, shape in weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


def onnxruntime_run(model, feed, threads, small):
    import numpy
    import onnxruntime

    feeds = {name: array.copy() for name, array in numpy.load(feed).items()}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if small:
        session = onnxruntime.InferenceSession(small, options, providers=["CPUExecutionProvider"])
        session.run(None, {"x": numpy.ones((1, 8, 16, 16), numpy.float32)})
        del session
    before = peak()
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
    return (after - before) / 1024, after / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warm", action="store_true", help="leave the engines' own start out")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--small", help=argparse.SUPPRESS)
    parser.add_argument("models", nargs="+")
    args = parser.parse_args()
    if args.child:
        return onnxruntime_run(args.models[0], args.child, args.threads, args.small)
    ratios = []
    print(f"{'model':26}{'ours MB':>9}{'ORT MB':>9}{'ratio':>7}   whole process: ours MB, ORT MB")
    with tempfile.TemporaryDirectory() as folder:
        feed = os.path.join(folder, "feed.npz")
        small = os.path.join(folder, "small.onnx")
        if args.warm:
            write_small_model(small)
        for model in args.models:
            options = ["--threads", str(args.threads)]
            if args.warm:
                options += ["--small", small]
            subprocess.run([args.engine, "--write-feed", feed, model], check=True)
            ours = measured([args.engine, "--memory", feed, *options, model])
            theirs = measured([sys.executable, __file__, "--engine", args.engine, "--child", feed,
                               *options, model])
            name = pathlib.Path(model).stem
            if ours is None or theirs is None:
                print(f"{name:26} not run by {'us' if ours is None else 'ONNX Runtime'}")
                continue
            ratios.append(ours[0] / theirs[0])
            print(f"{name:26}{ours[0]:9.1f}{theirs[0]:9.1f}{ratios[-1]:7.2f}{ours[1]:26.1f}{theirs[1]:8.1f}",
                  flush=True)
    if ratios:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"geometric mean of {len(ratios)}: {mean:.2f}; largest: {max(ratios):.2f}")


if __name__ == "__main__":
    main()
