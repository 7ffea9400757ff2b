"""examples/cluster: a zoo in shards, on Slurm (where Debian's slurm-wlm and munge are), as an indexed Job's command, and
by xargs; each must give the files of one batch that had the machine to itself.

    cluster_test.py PROGRAM SOURCE
"""
import array
import getpass
import os
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import zipfile

PROGRAM, SOURCE = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
EXAMPLES = SOURCE / "examples/cluster"
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
RECIPE = '{"schema": "compress.recipe/1", "steps": [{"prune": {"sparsity": 0.5}}]}'
# slurmctld and slurmd on this machine alone, without accounts or cgroups.
SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port1}
SlurmdPort={port2}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES State=UP
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def models(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.onnx"))}


def write_images(path, count):
    """Gray images [count, 1, 28, 28] with labels, as numpy would write them."""
    random = array.array("f", (((i * 2654435761) >> 7) % 256 for i in range(count * 784)))
    labels = array.array("q", (i % 10 for i in range(count)))
    with zipfile.ZipFile(path, "w") as archive:
        for name, dtype, shape, values in (("image", "<f4", (count, 1, 28, 28), random), ("label", "<i8", (count,), labels)):
            header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + values.tobytes())


class Slurm:
    """A cluster of one machine, in a folder, that ends with its `with`."""

    def __init__(self, folder):
        self.folder, self.daemons = folder, []
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def __enter__(self):
        folder = self.folder
        for name in ("state", "spool"):
            (folder / name).mkdir(parents=True)
        (folder / "munge.key").touch(0o600)
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "slurm.conf").write_text(SLURM_CONF.format(
            host=socket.gethostname().split(".")[0], port1=free_port(), port2=free_port(), folder=folder,
            user=getpass.getuser(), cpus=os.cpu_count()))
        self.start("munged", "--foreground", "--force", "--num-threads=1", *(
            f"--{flag}={folder}/munge.{end}" for flag, end in
            (("key-file", "key"), ("socket", "sock"), ("pid-file", "pid"), ("log-file", "log"), ("seed-file", "seed"))))
        self.wait_for((folder / "munge.sock").exists)
        self.start("slurmctld", "-D")
        self.start("slurmd", "-D")
        self.wait_for(lambda: "idle" in self.call("sinfo", "--noheader", "--format=%t", check=False))
        return self

    def __exit__(self, *_):
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def start(self, *words):
        with open(self.folder / f"{words[0]}.out", "w", encoding="utf-8") as log:
            self.daemons.append(subprocess.Popen(words, stdout=log, stderr=log, env=self.environment))

    def wait_for(self, ready, seconds=15):
        end = time.monotonic() + seconds
        while not ready():
            dead = [daemon.args[0] for daemon in self.daemons if daemon.poll() is not None]
            if dead or time.monotonic() > end:
                said = (self.folder / f"{(dead or [self.daemons[-1].args[0]])[0]}.out").read_text(errors="replace")
                self.__exit__()
                raise unittest.SkipTest(f"skipped: Slurm does not start here: {said[-300:]}")
            time.sleep(0.1)

    def call(self, *words, check=True):
        result = subprocess.run([str(word) for word in words], env=self.environment, cwd=self.folder, capture_output=True,
                                text=True, check=False)
        if check and result.returncode != 0:
            raise AssertionError(f"{words}\n{result.stdout}\n{result.stderr}")
        return result.stdout


class Cluster(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="compress-cluster-")
        cls.addClassCleanup(folder.cleanup)
        cls.dir = pathlib.Path(folder.name)
        zoo = cls.dir / "zoo"
        (zoo / "deep").mkdir(parents=True)
        for name in ("a", "b", "c", "deep/d", "deep/e"):
            shutil.copy(SOURCE / "examples/fashion_mnist/cnn.onnx", zoo / f"{name}.onnx")
        (cls.dir / "recipe.json").write_text(RECIPE)
        cls.flags = ("--recipe", str(cls.dir / "recipe.json"), "--no-verify")
        cls.call(PROGRAM, "batch", zoo, "-o", cls.dir / "whole", *cls.flags)
        cls.expected = models(cls.dir / "whole")
        assert len(cls.expected) == 5

    @classmethod
    def call(cls, *words, **environment):
        path = f"{PROGRAM.parent}:{os.environ['PATH']}"
        result = subprocess.run([str(word) for word in words], env={**os.environ, "PATH": path, **environment}, cwd=cls.dir,
                                capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise AssertionError(f"{words}\n{result.stdout}\n{result.stderr}")
        return result.stdout

    def check(self, folder, shards):
        """The same files, all shards took part, and their summaries are one."""
        self.assertEqual(models(folder), self.expected)
        reports = sorted(folder.glob("shard-*.json"))
        self.assertEqual(len(reports), shards)
        self.call(PROGRAM, "merge-reports", *reports, "--report", folder / "summary.csv")
        rows = (folder / "summary.csv").read_text().splitlines()
        self.assertEqual(len(rows), 1 + len(self.expected))

    def test_slurm_array_job(self):
        missing = [name for name in DAEMONS if shutil.which(name) is None]
        if missing:
            self.skipTest(f"skipped: no {', '.join(missing)} (Debian: slurm-wlm, munge)")
        with Slurm(self.dir / "slurm") as slurm:
            job = slurm.call("sbatch", "--parsable", "--array=1-3", "--cpus-per-task=1", "--mem=1000",
                             f"--export=ALL,COMPRESS={PROGRAM}", EXAMPLES / "slurm.sbatch", self.dir / "zoo",
                             self.dir / "by_slurm", *self.flags).strip()
            slurm.wait_for(lambda: not slurm.call("squeue", "--noheader", f"--jobs={job}", check=False), 120)
            said = "".join(path.read_text() for path in sorted(slurm.folder.glob(f"compress-{job}_*.log")))
            states = re.findall(r"JobState=(\w+)", slurm.call("scontrol", "show", "job", job))
        self.assertEqual(states, ["COMPLETED"] * 3, said)
        self.check(self.dir / "by_slurm", 3)

    def test_processes_that_train_together(self):
        """srun --mpi=pmix, as the documentation has it; tasks without PMIx do not overwrite each other."""
        missing = [name for name in (*DAEMONS, "mpirun") if shutil.which(name) is None]
        if missing or not (PROGRAM.parent / "libcompress_mpi.so").exists():
            self.skipTest(f"skipped: no {', '.join(missing) or 'libcompress_mpi.so'} (Debian: slurm-wlm, munge, libopenmpi-dev)")
        line = re.search(r"\$ srun (--mpi=pmix .*\\\n.*)", (SOURCE / "docs/training.md").read_text())[1].replace("\\\n", " ")
        words = line.replace("--ntasks=4", "--ntasks=2").replace("=8", "=1").replace("--threads 8", "--threads 1").split()
        self.assertEqual(words[3], "compress")
        words[3] = str(PROGRAM)
        words += ["--epochs", "1", "--no-verify", "--force"]
        shutil.copy(SOURCE / "examples/fashion_mnist/cnn.onnx", self.dir / "net.onnx")
        write_images(self.dir / "train.npz", 300)
        self.call(*words[3:])
        expected = (self.dir / "out.onnx").read_bytes()
        (self.dir / "out.onnx").unlink()
        with Slurm(self.dir / "slurm_mpi") as slurm:
            if "pmix" not in slurm.call("srun", "--mpi=list", check=False):
                self.skipTest("skipped: this Slurm has no PMIx")
            flags = ("--overcommit", f"--chdir={self.dir}")
            slurm.call("srun", *flags, *words)
            found = (self.dir / "out.onnx").read_bytes()
            with self.assertRaisesRegex(AssertionError, "error: srun started 2 tasks .* give it --mpi=pmix"):
                slurm.call("srun", *flags, "--ntasks=2", *words[3:])
            # One process of a job of several tasks is no rank of anything.
            job = slurm.call("sbatch", "--parsable", "--wait", "--ntasks=2", "--overcommit", f"--chdir={self.dir}",
                             f"--output={self.dir}/alone.log", "--wrap", " ".join(words[3:])).strip()
            state = re.search(r"JobState=(\w+)", slurm.call("scontrol", "show", "job", job))[1]
        self.assertEqual(state, "COMPLETED", (self.dir / "alone.log").read_text(errors="replace"))
        self.assertEqual(found, expected)
        self.assertEqual((self.dir / "out.onnx").read_bytes(), expected)

    def test_kubernetes_job(self):
        text = (EXAMPLES / "kubernetes.yaml").read_text()
        script = re.search(r"args:\n +- \|\n((?: {14}.*\n)+)", text)[1]
        completions, shards = re.search(r"completions: (\d+)", text)[1], re.search(r'SHARDS, value: "(\d+)"', text)[1]
        self.assertEqual(completions, shards)
        data = self.dir / "claim"
        shutil.copytree(self.dir / "zoo", data / "zoo")
        for index in range(2):
            self.call("/bin/sh", "-c", script, JOB_COMPLETION_INDEX=str(index), SHARDS="2", DATA=str(data),
                      RECIPE=str(self.dir / "recipe.json"))
        self.check(data / "out", 2)

    def test_lines_of_the_readme(self):
        lines = re.findall(r"\$ (seq 8 \| (parallel|xargs) .*)", (EXAMPLES / "README.md").read_text())
        self.assertEqual([tool for _, tool in lines], ["parallel", "xargs"])
        for line, tool in lines:
            if shutil.which(tool) is None:
                continue
            # Two shards of eight; before the flags, which name a folder that may hold an 8.
            line = line.replace(" 8 ", " 2 ").replace("/8", "/2")
            line = line.replace("--recipe cpu-int8", " ".join(self.flags))
            shutil.rmtree(self.dir / "out", ignore_errors=True)
            (self.dir / "out").mkdir()
            self.call("sh", "-c", line)
            self.check(self.dir / "out", 2)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
