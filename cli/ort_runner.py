"""Runs models in ONNX Runtime for `compress verify --engine onnxruntime` and `--explain`.

Talks over its standard input and output. A message is one line of JSON; where it has "tensors"
([{name, dtype, shape}]), their bytes follow, little-endian, row-major, one after the other. Each
request gets one answer: {"ok": true, ...} or {"ok": false, "error": TEXT}.

    hello     -> python, onnxruntime, numpy (versions); missing: the package that is not installed
    optimize  model, to -> saves the optimized graph there, layout changes left out
    open      model, threads -> inputs, outputs (names)
    run       tensors -> tensors: the outputs
    feed      tensors: kept for `time` and `load`
    time      -> ns: of one run on what was fed
    load      clients, seconds -> ns: of every run that the clients made, wall_ns
    resources -> peak_bytes: largest resident set so far, minus that before the model was opened;
                 cpu_percent: processor time over time of the runs that `time` made
    profile   model, threads, tensors -> events: {node, op, kernel, ts, dur, inputs, outputs} of one
                 run, in microseconds
"""
import sys

# The working folder is no place to take packages from.
sys.path = [path for path in sys.path if path not in ("", ".")]

import glob  # noqa: E402
import json  # noqa: E402
import tempfile  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402

REQUESTS = sys.stdin.buffer
ANSWERS = sys.stdout.buffer
# What libraries print must not get between the answers.
sys.stdout = sys.stderr


def status_bytes(field):
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 0


class Runner:
    def __init__(self):
        self.session = None
        self.feeds = None
        self.resident = 0
        self.seconds = [0.0, 0.0]  # of the processor, of the clock

    def hello(self, request, tensors):
        versions = {"python": ".".join(map(str, sys.version_info[:3]))}
        for name in ("numpy", "onnxruntime"):
            try:
                versions[name] = __import__(name).__version__
            except Exception as error:
                return {"ok": False, "missing": name, "error": describe(error), **versions}
        return versions

    def options(self, request):
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = request.get("threads", 1)
        options.inter_op_num_threads = 1
        # Threads spin within a run, as they do by default, but not after it: the cores then belong
        # to whoever is measured next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return options

    def optimize(self, request, tensors):
        import onnxruntime
        options = self.options(request)
        options.optimized_model_filepath = request["to"]
        onnxruntime.InferenceSession(
            request["model"], options, providers=["CPUExecutionProvider"],
            disabled_optimizers=["NhwcTransformer", "NchwcTransformer"])
        return {}

    def open(self, request, tensors):
        import onnxruntime
        self.resident = status_bytes("VmRSS")
        self.session = onnxruntime.InferenceSession(
            request["model"], self.options(request), providers=["CPUExecutionProvider"])
        return {"inputs": [x.name for x in self.session.get_inputs()],
                "outputs": [x.name for x in self.session.get_outputs()]}

    def run(self, request, tensors):
        import numpy
        names = [x.name for x in self.session.get_outputs()]
        values = []
        for name, value in zip(names, self.session.run(None, tensors)):
            if not isinstance(value, numpy.ndarray) or value.dtype.hasobject:
                raise TypeError(f"output '{name}' is no tensor of numbers")
            values.append(numpy.ascontiguousarray(value).reshape(value.shape))
        return {"tensors": [{"name": name, "dtype": value.dtype.name, "shape": list(value.shape)}
                            for name, value in zip(names, values)]}, values

    def feed(self, request, tensors):
        self.feeds = tensors
        self.session.run(None, tensors)
        return {}

    def time(self, request, tensors):
        processor, start = time.process_time(), time.perf_counter_ns()
        self.session.run(None, self.feeds)
        ns = time.perf_counter_ns() - start
        self.seconds[0] += time.process_time() - processor
        self.seconds[1] += ns * 1e-9
        return {"ns": ns}

    def load(self, request, tensors):
        clients = [[] for _ in range(request["clients"])]
        failures = []
        start = time.perf_counter_ns()
        end = start + int(request["seconds"] * 1e9)

        def client(times):
            try:
                now = time.perf_counter_ns()
                while now < end or not times:
                    self.session.run(None, self.feeds)
                    done = time.perf_counter_ns()
                    times.append(done - now)
                    now = done
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=client, args=(times,)) for times in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return {"ns": [t for times in clients for t in times],
                "wall_ns": time.perf_counter_ns() - start}

    def resources(self, request, tensors):
        processor, clock = self.seconds
        return {"peak_bytes": max(status_bytes("VmHWM") - self.resident, 0),
                "cpu_percent": 100 * processor / clock if clock else 0.0}

    def profile(self, request, tensors):
        import onnxruntime
        with tempfile.TemporaryDirectory(prefix="compress-profile-") as folder:
            options = self.options(request)
            options.enable_profiling = True
            options.profile_file_prefix = folder + "/run"
            session = onnxruntime.InferenceSession(request["model"], options,
                                                   providers=["CPUExecutionProvider"])
            for _ in range(3):
                session.run(None, tensors)
            session.end_profiling()
            with open(glob.glob(folder + "/run*")[0]) as file:
                events = json.load(file)
        runs = [e for e in events if e.get("name") == "model_run"]
        start = runs[-1]["ts"]
        suffix = "_kernel_time"
        return {"events": [
            {"node": e["name"][:-len(suffix)], "op": e["args"].get("op_name", ""),
             "kernel": e["args"].get("provider", ""), "ts": e["ts"] - start, "dur": e["dur"],
             "inputs": shapes(e["args"].get("input_type_shape")),
             "outputs": shapes(e["args"].get("output_type_shape"))}
            for e in events
            if e.get("cat") == "Node" and e["name"].endswith(suffix) and e["ts"] >= start]}


def shapes(rows):
    """[{"float": [1, 2]}, ...] without the types."""
    return [list(shape) for row in rows or [] for shape in row.values()]


def describe(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def read_tensors(request):
    if "tensors" not in request:
        return {}
    import numpy
    out = {}
    for tensor in request["tensors"]:
        dtype = numpy.dtype(tensor["dtype"])
        count = 1
        for dim in tensor["shape"]:
            count *= dim
        data = REQUESTS.read(count * dtype.itemsize)
        out[tensor["name"]] = numpy.frombuffer(data, dtype).reshape(tensor["shape"])
    return out


def main():
    runner = Runner()
    for line in REQUESTS:
        values = []
        try:
            request = json.loads(line)
            answer = getattr(runner, request["do"])(request, read_tensors(request))
            if isinstance(answer, tuple):
                answer, values = answer
            answer = {"ok": True, **answer}
        except Exception as error:
            answer = {"ok": False, "error": describe(error)}
        ANSWERS.write(json.dumps(answer).encode() + b"\n")
        for value in values:
            ANSWERS.write(value.data if value.size else b"")
        ANSWERS.flush()


main()
