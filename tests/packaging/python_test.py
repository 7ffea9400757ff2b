"""The wheel, installed into a fresh environment: what a notebook does, and the command line beside it.

    python_test.py WHEEL_FOLDER PYTHON COMPRESS_PROGRAM SOURCE TOOLS_PYTHON
"""
import glob
import os
import pathlib
import subprocess
import sys
import tempfile
import textwrap
import unittest

WHEELS, PYTHON, PROGRAM, SOURCE, TOOLS = (os.path.abspath(word) for word in sys.argv[1:6])
MODEL = pathlib.Path(SOURCE) / "examples/fashion_mnist/cnn.onnx"
SKIPPED = 77


def call(*words, **options):
    result = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, **options)
    if result.returncode != 0:
        raise AssertionError(f"{words}\n{result.stdout[-2000:]}\n{result.stderr[-3000:]}")
    return result.stdout


def numpy_folder():
    """Where numpy is that this Python can import: nothing is downloaded."""
    code = "import numpy, pathlib, sys; print(pathlib.Path(numpy.__file__).parent.parent, sys.version_info[:2])"
    versions = subprocess.run([PYTHON, "-c", "import sys; print(sys.version_info[:2])"], capture_output=True, text=True,
                              check=True).stdout.strip()
    for python in (TOOLS, PYTHON):
        found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
        if found.returncode == 0 and found.stdout.strip().endswith(versions):
            return found.stdout.split(" (")[0]
    return None


class Wheel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="compress-python-")
        cls.addClassCleanup(folder.cleanup)
        cls.dir = pathlib.Path(folder.name)
        call(PYTHON, "-m", "venv", cls.dir / "venv")
        cls.python = cls.dir / "venv/bin/python"
        wheel, = glob.glob(f"{WHEELS}/*.whl")
        call(cls.python, "-m", "pip", "--disable-pip-version-check", "install", "--no-index", "--no-deps", wheel)
        site, = (cls.dir / "venv/lib").glob("python*/site-packages")
        (site / "numpy.pth").write_text(NUMPY + "\n")

    def script(self, code):
        prelude = f"""
            import io, itertools, json, numpy as np, os, sys
            import compress_onnx as co
            MODEL = {str(MODEL)!r}
            rng = np.random.default_rng(7)
            images = rng.random((96, 1, 28, 28), dtype=np.float32)
            labels = rng.integers(0, 10, 96)
            def fails(kind, text, function, *args, **options):
                try:
                    function(*args, **options)
                except kind as error:
                    assert text in str(error), str(error)
                    return error
                raise AssertionError("did not fail: " + text)
        """
        text = textwrap.dedent(prelude) + textwrap.dedent(code)
        return call(self.python, "-c", text, cwd=self.dir, env={**os.environ, "COMPRESS_PYTHON": "/nowhere"})

    def compress(self, *words):
        return call(PROGRAM, *words, cwd=self.dir)

    def test_notebook(self):
        """Quantizes on numpy data, verifies against float, and gives the command line's bytes."""
        self.script("""
            np.savez("data.npz", data=images, label=labels)
            result = co.quantize(MODEL, mode="static", data=images, labels=labels, samples=32, time_budget=0,
                                 gate=["size_ratio<=0.5"])
            open("numpy.onnx", "wb").write(result.model)
            assert bytes(result) == result.model
            assert result.report["schema"] == "compress.report/1" and result.report["changed"]
            assert result.report["accuracy"]["labelled"] and result.report["accuracy"]["samples"] == 64
            assert result.report["resources"]["candidate"]["peak_memory_bytes"] > 0
            report = co.verify(open(MODEL, "rb").read(), result.model, data=images, time_budget=0)
            sqnr = report["similarity"]["outputs"][0]["sqnr_db"]
            assert 10 < sqnr < 80, sqnr
            float_y, int_y = co.infer(MODEL, images), co.infer(result.model, images)
            (name, expected), = float_y.items()
            assert expected.shape == (96, 10) and np.abs(expected - int_y[name]).max() > 0
            one = co.infer(MODEL, iter(images))[name]
            assert np.allclose(one, expected, atol=1e-4)
            statistics = co.calibrate(MODEL, data=images, samples=32)
            again = co.quantize(MODEL, "by_statistics.onnx", statistics=statistics, mode="static", no_verify=True)
            assert again.model == "by_statistics.onnx" and os.path.getsize(again.model) == len(bytes(again))
        """)
        self.compress("quantize", MODEL, "-o", "flags.onnx", "--mode", "static", "--data", "data.npz", "--samples", "32",
                      "--no-verify")
        self.assertEqual((self.dir / "flags.onnx").read_bytes(), (self.dir / "numpy.onnx").read_bytes())

    def test_data_in_every_form(self):
        """Arrays, sequences, iterators, readers: the same samples give the same bytes, and iterators are drawn from
        one sample at a time."""
        self.script("""
            def quantized(data, **more):
                return co.quantize(MODEL, mode="static", calibration_data=data, samples=16, no_verify=True, **more).model
            class Reader:
                def __init__(self): self.left = iter(images[:16])
                def get_next(self):
                    image = next(self.left, None)
                    return None if image is None else {NAME: image[None]}
            NAME = co.inspect(MODEL)["inputs"][0]["name"]
            expected = quantized(images[:16])
            assert quantized({NAME: images[:16]}) == expected
            assert quantized(list(images[:16])) == expected
            assert quantized([{NAME: image} for image in images[:16]]) == expected
            assert quantized(Reader()) == expected
            drawn = []
            def endless():
                for i in itertools.count():
                    drawn.append(i)
                    yield images[i % 96], labels[i % 96]
            assert quantized(endless()) == expected and len(drawn) == 16
            assert quantized(images[16:32]) != expected
            labelled = co.quantize(MODEL, mode="static", data=[(x, int(y)) for x, y in zip(images, labels)],
                                   time_budget=0).report
            assert labelled["accuracy"]["labelled"]
            fails(co.CompressError, "takes", quantized, rng.random((8, 3, 5), dtype=np.float32))
            fails(ZeroDivisionError, "", quantized, (1 / 0 for _ in range(3)))
            fails(TypeError, "not of numbers", quantized, np.array(["a"]))
        """)

    def test_options_and_errors(self):
        self.script("""
            fails(TypeError, "did you mean 'sparsity'", co.prune, MODEL, sparsty=0.5)
            assert fails(co.CompressError, "sparsity", co.prune, MODEL, sparsity=2).code == "usage"
            assert fails(co.CompressError, "no.onnx", co.prune, "no.onnx").code == "io"
            fails(co.CompressError, "", co.inspect, b"junk")
            fails(TypeError, "bytes", co.inspect, 7)
            failed = fails(co.GateFailed, "size_ratio<=0.01", co.quantize, MODEL, mode="dynamic", gate="size_ratio<=0.01",
                           op_types=["Gemm"], time_budget=0)
            assert failed.result.model and failed.report["result"] == "failed"
            class Proto:
                def SerializeToString(self): return open(MODEL, "rb").read()
            sparse = co.prune(Proto(), sparsity=0.5, scope="global", no_verify=True)
            assert 0.4 < sparse.report["candidate"]["sparsity"] < 0.6
            both = co.run(MODEL, {"schema": "compress.recipe/1", "steps": [{"prune": {"sparsity": 0.5}}]}, no_verify=True)
            alone = co.prune(MODEL, sparsity=0.5, no_verify=True)
            assert co.inspect(both.model)["nodes"] == co.inspect(alone.model)["nodes"]
            assert "calibrator" in co.quantize.__doc__
            import inspect
            assert "block" not in inspect.signature(co.prune).parameters
            assert "sparsity" in inspect.signature(co.prune).parameters
            nothing = co.optimize(sparse.model, no_verify=True)
            assert any("nothing optimized" in note for note in nothing.notes), nothing.notes
        """)
        site, = (self.dir / "venv/lib").glob("python*/site-packages")
        stub = (site / "compress_onnx/__init__.pyi").read_text()
        self.assertIn("scope: Optional[Literal['layer', 'global']] = ...", stub)
        compile(stub, "__init__.pyi", "exec")

    def test_differences_and_batches(self):
        self.script("""
            sparse = co.prune(MODEL, sparsity=0.5, no_verify=True).model
            found = co.diff(MODEL, sparse)
            assert found["schema"] == "compress.diff/1" and found["sparsity"][0] < 0.1 < 0.4 < found["sparsity"][1]
            assert not found["added"] and len(found["changed_constants"]) >= 2
            assert co.diff(MODEL, open(MODEL, "rb").read())["changed_constants"] == []
            os.mkdir("zoo")
            open("zoo/a.onnx", "wb").write(open(MODEL, "rb").read())
            open("zoo/broken.onnx", "wb").write(b"junk")
            json.dump({"schema": "compress.recipe/1", "steps": [{"prune": {"sparsity": 0.5}}]}, open("half.json", "w"))
            summary = co.batch("zoo", "zoo_out", recipe=["half.json"], no_verify=True, workers=2)
            status = {os.path.basename(row["model"]): row["status"] for row in summary["rows"]}
            assert status == {"a.onnx": "done", "broken.onnx": "failed"}, summary
            assert open("zoo_out/a_half.onnx", "rb").read() == sparse
            again = co.batch("zoo", "zoo_out", recipe="half.json", no_verify=True)
            assert sorted(row["status"] for row in again["rows"]) == ["failed", "kept"], again
            fails(co.CompressError, "nowhere", co.batch, "nowhere", "zoo_out", recipe="half.json")
            fails(TypeError, "did you mean 'recipe'", co.batch, "zoo", "zoo_out", recipes="half.json")
        """)

    def test_other_threads_run_and_interrupts_end(self):
        self.script("""
            import signal, threading, time
            ticks, stop = [], threading.Event()
            def tick():
                while not stop.is_set():
                    ticks.append(time.monotonic())
                    time.sleep(0.005)
            thread = threading.Thread(target=tick)
            thread.start()
            start = time.monotonic()
            co.infer(MODEL, np.repeat(images, 40, axis=0))
            during = [t for t in ticks if t > start]
            stop.set()
            thread.join()
            assert len(during) > 3, len(during)
            # Minutes of work, ended by Ctrl-C within seconds; then everything works as before.
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            start = time.monotonic()
            fails(KeyboardInterrupt, "", co.verify, MODEL, MODEL, time_budget=120)
            assert time.monotonic() - start < 10
            assert not [name for name in os.listdir() if name.endswith(".tmp")]
            assert len(co.infer(MODEL, images[:2])) == 1
            # A command inside another's data would wait for itself.
            def nested():
                yield co.infer(MODEL, images[:1])
            class Nested:
                def __len__(self): return 2
                def __getitem__(self, i): return co.infer(MODEL, images[:1])
            fails(co.CompressError, "while it was being read", co.infer, MODEL, Nested())
        """)

    def test_command_line(self):
        version = call(self.python, "-m", "compress_onnx", "--version")
        self.assertEqual(version, self.compress("--version"))
        failed = subprocess.run([self.python, "-m", "compress_onnx", "inspect", "no.onnx"], capture_output=True, text=True,
                                check=False)
        self.assertEqual(failed.returncode, 1)
        self.assertRegex(failed.stderr, r"^error: .*no\.onnx.*\n$")


if __name__ == "__main__":
    NUMPY = numpy_folder()
    if NUMPY is None:
        print("skipped: no numpy for", PYTHON)
        sys.exit(SKIPPED)
    unittest.main(argv=sys.argv[:1])
