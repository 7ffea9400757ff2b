"""Training by several processes under Open MPI's mpirun: the bytes of one process, one voice, one end.

    mpi_test.py COMPRESS MAKE_FIXTURES [LIBCOMPRESS_MPI]

Skipped, visibly, where mpirun is missing or the library was not built.
"""
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import zipfile

COMPRESS = os.path.abspath(sys.argv[1])
MAKE_FIXTURES = os.path.abspath(sys.argv[2])
LIBRARY = sys.argv[3] if len(sys.argv) > 3 else ""
# As root, on fewer processors than ranks; in a container processes may not read each other's memory.
MPIRUN = ("mpirun", "--allow-run-as-root", "--oversubscribe", "--mca", "btl_vader_single_copy_mechanism", "none")


def skip_reason():
    if shutil.which("mpirun") is None:
        return "skipped: no mpirun (Debian: openmpi-bin)"
    if not LIBRARY:
        return "skipped: libcompress_mpi.so was not built (Debian: libopenmpi-dev)"
    return ""


@unittest.skipIf(skip_reason(), skip_reason())
class Ranks(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="compress-mpi-")
        cls.addClassCleanup(folder.cleanup)
        cls.fixtures = pathlib.Path(folder.name)
        subprocess.run([MAKE_FIXTURES, cls.fixtures, "/usr/share/datasets/fashion-mnist"], check=True)

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="compress-mpi-")
        self.addCleanup(folder.cleanup)
        self.dir = pathlib.Path(folder.name)
        # Few samples: what is tested is who computes what.
        self.learn = self.learning()

    def learning(self, **other):
        options = {"data": self.fixtures / "test.npz", "batch": 4, "accumulate": 4, "epochs": 2, "threads": 1,
                   "samples": 120, **other}
        return (*(word for name, value in options.items() for word in (f"--{name}", value)), "--no-verify")

    def environment(self, **more):
        # Sessions of Open MPI have long paths, and what a killed one leaves is to be gone with the test.
        return {**os.environ, "TMPDIR": str(self.dir), "OMP_WAIT_POLICY": "passive", **more}

    def call(self, *words, expect=0, **environment):
        result = subprocess.run([str(word) for word in words], cwd=self.dir, env=self.environment(**environment),
                                capture_output=True, text=True, check=False, timeout=120)
        self.assertEqual(result.returncode, expect, f"{words}\n{result.stdout[-800:]}\n{result.stderr[-2500:]}")
        return result

    def ranks(self, size, *words, **more):
        return self.call(*MPIRUN, "-n", size, COMPRESS, *words, **more)

    def one_error(self, result, says):
        """Of ours; mpirun adds its own words."""
        lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        self.assertEqual(len(lines), 1, result.stderr)
        self.assertIn(says, lines[0])
        self.assertEqual(result.stdout.replace("-", "").strip(), "")

    def sha(self, name):
        return hashlib.sha256((self.dir / name).read_bytes()).hexdigest()

    def test_ranks_make_the_bytes_of_one(self):
        found = {}
        for size in (1, 2, 3, 4):
            words = ("distill", self.fixtures / "dense.onnx", "--teacher", self.fixtures / "conv.onnx", "--loss",
                     "kl:T=2,alpha=0.5", "-o", f"{size}.onnx", "--report", f"{size}.json", "--teacher-cache",
                     f"{size}.npz", *self.learn, "--seed", 5)
            result = self.call(COMPRESS, *words) if size == 1 else self.ranks(size, *words)
            self.assertNotIn("error", result.stderr)
            report = json.loads((self.dir / f"{size}.json").read_text())
            details = report["passes"][0]["details"]
            self.assertTrue(report["changed"])
            self.assertEqual(details["updates"], 2 * 7)
            found[size] = (self.sha(f"{size}.onnx"), self.sha(f"{size}.npz"), details["lr"], details["epochs"],
                           result.stdout.count("distill") or result.stdout.count("parameters"))
        for size in (2, 3, 4):
            self.assertEqual(found[size], found[1])

    def test_steps_of_a_recipe_and_of_layers(self):
        steps = [{"prune": {"sparsity": 0.5}}, {"train": {"init": "keep", "batch": 4, "accumulate": 2, "epochs": 1,
                                                          "samples": 80}},
                 {"distill": {"qat": "int8", "batch": 4, "accumulate": 3, "epochs": 1, "lr": 1e-4, "samples": 80}}]
        (self.dir / "recipe.json").write_text(json.dumps({"schema": "compress.recipe/1", "steps": steps}))
        words = ("run", self.fixtures / "conv.onnx", "--recipe", "recipe.json", "--data", self.fixtures / "test.npz",
                 "--threads", 1, "--no-verify")
        self.call(COMPRESS, *words, "-o", "one.onnx")
        self.ranks(2, *words, "-o", "two.onnx")
        self.assertEqual(self.sha("one.onnx"), self.sha("two.onnx"))
        self.call(COMPRESS, "prune", self.fixtures / "dense.onnx", "-o", "copy.onnx", "--sparsity", 0.7, "--no-verify")
        words = ("distill", "copy.onnx", "--teacher", self.fixtures / "dense.onnx", "--blockwise", *self.learn)
        self.call(COMPRESS, *words, "-o", "one_b.onnx", "--report", "one.json")
        self.ranks(2, *words, "-o", "two_b.onnx")
        self.assertTrue(json.loads((self.dir / "one.json").read_text())["changed"])
        self.assertEqual(self.sha("one_b.onnx"), self.sha("two_b.onnx"))

    def test_a_killed_rank_and_the_resumed_run(self):
        words = ("train", self.fixtures / "conv.onnx", *self.learning(epochs=12, batch=2))
        self.call(COMPRESS, *words, "-o", "whole.onnx")
        state = ("--checkpoint", "state.npz", "--checkpoint-seconds", 0)
        with subprocess.Popen([str(word) for word in (*MPIRUN, "-n", 2, COMPRESS, *words, *state, "-o", "killed.onnx")],
                              cwd=self.dir, env=self.environment(), stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL) as job:
            deadline = time.monotonic() + 60
            while not (self.dir / "state.npz").exists() and job.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            children = pathlib.Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
            self.assertEqual(len(children), 2)
            os.kill(int(children[1]), signal.SIGKILL)
            self.assertNotEqual(job.wait(60), 0)
        self.assertTrue((self.dir / "state.npz").exists())
        self.assertFalse((self.dir / "killed.onnx").exists())
        shutil.copy(self.dir / "state.npz", self.dir / "again.npz")
        self.ranks(2, *words, *state, "-o", "two.onnx")
        self.call(COMPRESS, *words, "--checkpoint", "again.npz", "-o", "one.onnx")
        self.assertEqual(self.sha("two.onnx"), self.sha("whole.onnx"))
        self.assertEqual(self.sha("one.onnx"), self.sha("whole.onnx"))

    def with_labels(self, label):
        """The data, with this label everywhere."""
        path = self.dir / "other.npz"
        with zipfile.ZipFile(self.fixtures / "test.npz") as source, zipfile.ZipFile(path, "w") as target:
            for name in source.namelist():
                content = source.read(name)
                if name == "label.npy":
                    count = 400
                    content = content[:-8 * count] + struct.pack(f"<{count}q", *[label] * count)
                target.writestr(name, content)
        return path

    def test_a_rank_that_fails_ends_all(self):
        words = ["train", self.fixtures / "conv.onnx", "-o", "y.onnx", *self.learn, "--validation", 0]
        other = list(words)
        other[other.index("--data") + 1] = self.with_labels(99)
        for first, second in ((words, other), (other, words)):
            result = self.call(*MPIRUN, "-n", 1, COMPRESS, *first, ":", "-n", 1, COMPRESS, *second, expect=2)
            self.one_error(result, "has the label 99; the model has classes 0 to 9")
        # Two that would not make the same.
        result = self.call(*MPIRUN, "-n", 1, COMPRESS, *words, ":", "-n", 1, COMPRESS, *words, "--lr", 0.5, expect=2)
        self.one_error(result, "rank 1: it trains another model, with other options")
        self.assertFalse((self.dir / "y.onnx").exists())

    def test_what_cannot_be_is_one_line(self):
        train = ("train", self.fixtures / "conv.onnx", "-o", "y.onnx", *self.learn)
        result = self.ranks(2, "train", self.fixtures / "conv.onnx", "-o", "y.onnx", *self.learning(accumulate=1), expect=2)
        self.one_error(result, "give --accumulate 2")
        result = self.ranks(2, "train", "none.onnx", "-o", "y.onnx", *self.learn, expect=1)
        self.one_error(result, "none.onnx")
        result = self.ranks(2, *train, expect=1, COMPRESS_MPI_LIBRARY="/nowhere/libcompress_mpi.so")
        self.one_error(result, "2 processes were started to train together, and MPI cannot be loaded: /nowhere/")
        result = self.ranks(2, "optimize", self.fixtures / "conv.onnx", "-o", "y.onnx", expect=2)
        self.one_error(result, "2 processes were started, and optimize has work for one")
        result = self.ranks(2, "quantize", self.fixtures / "conv.onnx", "-o", "y.onnx", "--data", self.fixtures / "test.npz",
                            "--max-drop", "1%", expect=2)
        self.one_error(result, "quantize has work for one")
        self.assertFalse((self.dir / "y.onnx").exists())
        # A launcher of another MPI: both would be rank 0 of 1.
        pmi = {"PMI_SIZE": "2", "PMI_RANK": "0"}
        result = self.call(COMPRESS, *train, expect=1, **pmi)
        self.one_error(result, "2 processes were started, and MPI finds 1")
        result = self.call(COMPRESS, *train, expect=1, SLURM_STEP_NUM_TASKS="2", SLURM_PROCID="0")
        self.one_error(result, "give it --mpi=pmix")

    def test_runs_of_their_own(self):
        one = f"{COMPRESS} train {self.fixtures}/conv.onnx -o $OMPI_COMM_WORLD_RANK.onnx " + " ".join(map(str, self.learn))
        self.call(*MPIRUN, "-n", 2, "-x", "COMPRESS_MPI=off", "sh", "-c", one)
        self.assertEqual(self.sha("0.onnx"), self.sha("1.onnx"))
        # One of one needs no library.
        self.ranks(1, "train", self.fixtures / "conv.onnx", "-o", "alone.onnx", *self.learn,
                   COMPRESS_MPI_LIBRARY="/nowhere/libcompress_mpi.so")
        self.assertEqual(self.sha("alone.onnx"), self.sha("0.onnx"))
        # Those of a batch have the machine to themselves, whoever started it.
        recipe = {"schema": "compress.recipe/1",
                  "steps": [{"train": {"batch": 4, "accumulate": 4, "epochs": 2, "samples": 120}}]}
        (self.dir / "recipe.json").write_text(json.dumps(recipe))
        batch = (f"{COMPRESS} batch {self.fixtures}/conv.onnx -o out$OMPI_COMM_WORLD_RANK --recipe recipe.json "
                 f"--no-verify --data {self.fixtures}/test.npz")
        (self.dir / "list.txt").write_text(f"{self.fixtures}/conv.onnx\n")
        batch = batch.replace(f"{self.fixtures}/conv.onnx", "list.txt")
        self.call(*MPIRUN, "-n", 2, "sh", "-c", batch)
        outputs = sorted(self.dir.glob("out*/**/*.onnx"))
        self.assertEqual(len(outputs), 2)

    def test_the_line_of_the_documentation(self):
        page = (pathlib.Path(__file__).resolve().parents[2] / "docs/training.md").read_text()
        line = re.search(r"\$ (mpirun (?:.*\\\n)+.*)", page)[1]
        for name, fixture in (("student", "conv"), ("teacher", "dense")):
            shutil.copy(self.fixtures / f"{fixture}.onnx", self.dir / f"{name}.onnx")
        shutil.copy(self.fixtures / "test.npz", self.dir / "train.npz")
        allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                   "OMPI_MCA_rmaps_base_oversubscribe": "1"}
        path = f"{pathlib.Path(COMPRESS).parent}:{os.environ['PATH']}"
        self.call("bash", "-c", line + " --time-budget 0.1", PATH=path, **allowed)
        self.assertTrue((self.dir / "out.onnx").exists() and (self.dir / "run.npz").exists())

    def test_verification_and_gates_are_rank_0s(self):
        words = ("train", self.fixtures / "conv.onnx", "-o", "y.onnx", *self.learn[:-1], "--time-budget", 0.1)
        result = self.ranks(2, *words, "--gate", "top1>=1.1", "--report", "y.json", expect=3)
        self.assertEqual(result.stdout.count("top1>=1.1"), 1, result.stdout)
        self.assertEqual(json.loads((self.dir / "y.json").read_text())["result"], "failed")
        self.assertTrue((self.dir / "y.onnx").exists())


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
