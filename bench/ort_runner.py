"""The other side of bench/engine: ONNX Runtime, driven line by line over a pipe.

Arguments: MODEL FEED.npz THREADS. Each line on standard input runs the model once; the answer is the
run's nanoseconds. The first line out is "ready", or "failed REASON".
"""
import sys
import time

import numpy
import onnxruntime


def main():
    model, feed, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        feeds = dict(numpy.load(feed))
        session.run(None, feeds)
    except Exception as error:  # noqa: BLE001 - any failure is a result of the benchmark
        print("failed", str(error).splitlines()[0], flush=True)
        return
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter_ns()
        session.run(None, feeds)
        print(time.perf_counter_ns() - start, flush=True)


if __name__ == "__main__":
    main()
