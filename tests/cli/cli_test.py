"""The program as users call it: exit codes, one-line errors, JSON keys, bytes.

    cli_test.py COMPRESS MAKE_FIXTURES

Needs nothing but the two programs: the fixtures are a small real classifier and its data.
"""
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import json_schema  # noqa: E402

COMMANDS = ["optimize", "prune", "quantize", "distill", "train", "calibrate", "sensitivity", "verify", "infer",
            "inspect", "run", "batch", "merge-reports", "report", "recipes", "schema", "diff", "completion", "man"]
COMPRESS = os.path.abspath(sys.argv[1])
FIXTURES = tempfile.TemporaryDirectory(prefix="compress-cli-")
F = pathlib.Path(FIXTURES.name)
# Timing is not what is tested here.
QUICK = ["--time-budget", "0.2"]
REPORT_KEYS = ["schema", "tool", "recipe", "seed", "changed", "machine", "reference", "candidate",
               "passes", "accuracy", "similarity", "speed", "resources", "kernels", "gates",
               "result", "seconds", "peak_memory_bytes"]


def sha(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="compress-cli-")
        self.dir = pathlib.Path(self.folder.name)
        self.addCleanup(self.folder.cleanup)

    def run_program(self, *words, expect=0, env=None, **kwargs):
        result = subprocess.run([COMPRESS, *map(str, words)], capture_output=True, text=True,
                                cwd=self.dir, env={**os.environ, **(env or {})}, check=False,
                                timeout=120, **kwargs)
        self.assertEqual(result.returncode, expect,
                         f"{words}\n{result.stdout[-800:]}\n{result.stderr[-800:]}")
        return result

    def one_line(self, *words, expect, says="", env=None):
        """A failure is one line on standard error, and nothing on standard output."""
        result = self.run_program(*words, expect=expect, env=env)
        lines = result.stderr.splitlines()
        self.assertEqual(len(lines), 1, result.stderr)
        self.assertTrue(lines[0].startswith("error: "), lines[0])
        self.assertIn(says, lines[0])
        self.assertEqual(result.stdout, "")
        return lines[0]

    def report(self, *words, **kwargs):
        path = self.dir / "r.json"
        path.unlink(missing_ok=True)
        self.run_program(*words, "--report", path, **kwargs)
        return json.loads(path.read_text())

    def left(self):
        """Temporaries that somebody left."""
        return [p.name for p in self.dir.iterdir() if p.suffix not in (".onnx", ".json", ".npz")]


class Help(Case):
    def test_version(self):
        self.assertRegex(self.run_program("--version").stdout, r"^compress \d+\.\d+\.\d+")

    def test_help_names_every_command_and_no_other(self):
        text = self.run_program("--help").stdout
        for command in COMMANDS:
            self.assertRegex(text, rf"(?m)^  {command} ")
        self.assertNotIn("\n  measure-one", text)

    def test_help_of_every_command_teaches(self):
        for command in COMMANDS:
            text = self.run_program(command, "--help").stdout
            self.assertIn("Example", text, command)
            self.assertIn(f"compress {command}", text)

    def test_steps_show_their_options(self):
        text = self.run_program("quantize", "--help").stdout
        for flag in ("--mode", "--weights", "--exclude", "--calibrator", "--gate", "--samples",
                     "--force", "--threads", "--baseline", "--input-shape"):
            self.assertIn(flag, text)
        self.assertIn("--metric-output NAME[:AXIS] ", text)
        self.assertIn("--input-shape NAME:SHAPE ", text)
        self.assertIn("--threads N ", text)


class Usage(Case):
    def test_wrong_words(self):
        for words, says in (
                ((), "--help"),
                (("quantise", "x"), "did you mean 'quantize'"),
                (("quantize",), "MODEL"),
                (("quantize", "m.onnx", "--no-such-flag"), "--no-such-flag"),
                (("prune", "m.onnx", "--sparsty", "0.3", "-o", "y.onnx"), "did you mean '--sparsity'"),
                (("quantize", "m.onnx", "-o", "y.onnx", "--gat=top1>1"), "did you mean '--gate'"),
                (("prune", F / "conv.onnx", "-o", "y.onnx", "--op-types", "Cnv"), "did you mean 'Conv'"),
                (("quantize", F / "conv.onnx"), "-o"),
                (("quantize", F / "conv.onnx", "-o", "y.onnx", "--mode", "statik"), "'static'"),
                (("prune", F / "conv.onnx", "-o", "y.onnx", "--sparsity", "2"), "0..1"),
                (("optimize", F / "conv.onnx", "-o", "y.onnx", "--threads", "0"), "--threads"),
                (("optimize", F / "conv.onnx", "-o", "y.onnx", "--report", "r.txt"), ".json"),
                (("optimize", F / "conv.onnx", "-o", "y.onnx", "--input-shape", "x"), "NAME:SHAPE"),
                (("optimize", F / "conv.onnx", "-o", "y.onnx", "--disable", "no_such"), "no_such"),
                (("verify", F / "conv.onnx", F / "conv.onnx", "--gate", "top1"), "comparison"),
                (("verify", F / "conv.onnx", F / "conv.onnx", "--gate", "tpo1>1"), "tpo1"),
                (("verify", F / "conv.onnx", F / "conv.onnx", "--baseline", F / "none.json"), None),
                (("inspect",), "no model"),
                (("verify", F / "conv.onnx", F / "conv.onnx", "--engine", "tvm"), "--engine"),
                (("verify", F / "conv.onnx", F / "conv.onnx", "--batch", "1,x"), "1,4,16"),
                (("verify", F / "conv.onnx", F / "conv.onnx", "--batch", "0"), "--batch '0'"),
                (("verify", F / "conv.onnx", F / "conv.onnx", "--concurrency", "0"), "--concurrency"),
                (("verify", F / "conv.onnx", F / "conv.onnx", "--concurrency", "2",
                  "--time-budget", "0"), "--time-budget"),
                (("verify", F / "decoder.onnx", F / "decoder.onnx", "--generate", "0"), "--generate"),
                (("verify", F / "decoder.onnx", F / "decoder.onnx", "--generate", "4",
                  "--time-budget", "0"), "--time-budget"),
                (("verify", F / "decoder.onnx", F / "decoder.onnx", "--generate", "4", "--engine",
                  "onnxruntime"), "--generate"),
                (("verify", F / "decoder.onnx", F / "decoder.onnx", "--gate",
                  "tokens_per_second>=1"), "--generate"),
                (("verify", F / "conv.onnx", F / "conv.onnx", "--profile", "p.txt"), ".json"),
                (("verify", F / "conv.onnx", F / "conv.onnx", "--profile", "p.json", "--report",
                  "p.json"), "--report"),
                (("verify", F / "conv.onnx", F / "conv.onnx", "--engine", "onnxruntime",
                  "--no-lower"), "--no-lower"),
                (("infer", F / "conv.onnx", "--allow-random", "--profile", "p"), ".json"),
                (("calibrate", F / "conv.onnx", "-o", "s.npz"), "--data")):
            expect = 1 if says is None else 2
            self.one_line(*words, expect=expect, says=says or "none.json")
        self.assertEqual(list(self.dir.iterdir()), [])

    def test_static_without_data_says_so(self):
        self.one_line("quantize", F / "conv.onnx", "-o", "y.onnx", "--mode", "static", expect=2,
                      says="--data")

    def test_unknown_instruction_set(self):
        result = self.run_program("inspect", F / "conv.onnx", expect=2, env={"COMPRESS_ISA": "sse9"})
        self.assertIn("COMPRESS_ISA", result.stderr)


class BadModels(Case):
    def test_each_is_one_line(self):
        model = (F / "conv.onnx").read_bytes()
        bad = {"truncated.onnx": model[:len(model) // 2], "absurd.onnx": b"<html>404</html>",
               "empty.onnx": b"", "unsupported.onnx": (F / "unsupported.onnx").read_bytes()}
        for name, content in bad.items():
            (self.dir / name).write_bytes(content)
            line = self.one_line("infer", name, "--data", F / "test.npz", "-o", "y.npz", expect=1)
            self.assertIn("NoSuchOperator" if name.startswith("unsup") else name, line)
            if not name.startswith("unsup"):
                self.one_line("quantize", name, "-o", "y.onnx", "--mode", "dynamic", expect=1)
        self.one_line("infer", "missing.onnx", "--data", F / "test.npz", expect=1,
                      says="missing.onnx")
        self.one_line("infer", self.dir, "--data", F / "test.npz", expect=1)
        self.assertEqual(sorted(p.name for p in self.dir.iterdir()), sorted(bad))

    def test_what_cannot_be_run_is_written_and_said_to_be(self):
        result = self.run_program("optimize", F / "unsupported.onnx", "-o", "y.onnx", expect=1)
        line = result.stderr.splitlines()[-1]  # before it: that nothing was to be optimized
        self.assertIn("NoSuchOperator is not supported", line)
        self.assertIn("y.onnx is written but not verified", line)
        self.run_program("optimize", F / "unsupported.onnx", "-o", "z.onnx", "--no-verify")
        self.assertEqual(sha(self.dir / "y.onnx"), sha(self.dir / "z.onnx"))

    def test_infer_never_replaces_its_data(self):
        shutil.copy(F / "test.npz", self.dir / "x.npz")
        self.one_line("infer", F / "conv.onnx", "--data", "x.npz", "-o", "x.npz", "--force", expect=1,
                      says="is the data")
        self.assertEqual(sha(self.dir / "x.npz"), sha(F / "test.npz"))

    def test_control_characters_are_escaped(self):
        line = self.one_line("inspect", "a\x1b[31m\nb.onnx", expect=1)
        self.assertNotIn("\x1b", line)


    def test_a_bias_of_the_wrong_length_is_found_before_anything_is_written(self):
        for command in (("optimize",), ("quantize", "--mode", "weight-only")):
            line = self.one_line(command[0], F / "short_bias.onnx", "-o", "y.onnx", *command[1:], expect=1,
                                 says="a bias of shape [3] for 10 output channels")
            self.assertNotIn("''", line)
        self.assertEqual(list(self.dir.iterdir()), [])

    def test_nodes_without_a_name_are_told_by_what_they_make(self):
        report = self.report("quantize", F / "shapeless.onnx", "-o", "y.onnx", "--mode", "dynamic", "--no-verify",
                             expect=0)
        [row] = [row for step in report["passes"] for row in step["skipped"]]
        self.assertRegex(row["node"], r"^Conv -> \w+$")
        report = self.report("verify", F / "shapeless.onnx", F / "shapeless.onnx", "--data", F / "test.npz", *QUICK)
        self.assertTrue(report["kernels"])
        self.assertTrue(all(row["node"] for row in report["kernels"]))


class InputShapes(Case):
    def test_names_and_shapes_are_those_of_the_model(self):
        conv, fixed = F / "conv.onnx", F / "fixed.onnx"
        out = ("-o", "y.onnx")
        for command in (("optimize", conv, *out), ("quantize", conv, *out, "--mode", "dynamic"),
                        ("quantize", conv, *out, "--data", F / "test.npz", "--max-drop", "1%"),
                        ("run", conv, *out, "--recipe", "cpu-int8"), ("verify", conv, conv),
                        ("infer", conv, "--allow-random"), ("inspect", conv),
                        ("calibrate", conv, "-o", "s.npz", "--data", F / "test.npz"),
                        ("sensitivity", conv, "--data", F / "test.npz")):
            self.one_line(*command, "--input-shape", "imag:1x1x28x28", expect=2, says="did you mean 'image'")
            self.one_line(*command, "--input-shape", "image:1x28x28", expect=2, says="float32[?,1,28,28]")
            self.one_line(*command, "--input-shape", "image:1x3x28x28", expect=2, says="[1,3,28,28]")
        self.one_line("verify", conv, fixed, "--input-shape", "image:2x1x28x28", expect=2, says="fixed.onnx")
        self.one_line("inspect", conv, "--input-shape", "image:1x1x28x28", "--input-shape", "image:2x1x28x28",
                      expect=2, says="twice")
        self.assertEqual(list(self.dir.iterdir()), [])
        self.run_program("verify", conv, conv, "--input-shape", "image:2x1x28x28", *QUICK)

    def test_noise_needs_a_shape(self):
        line = self.one_line("infer", F / "shapeless.onnx", "--allow-random", expect=1, says="'image'")
        self.assertIn("what shape", line)
        self.run_program("infer", F / "shapeless.onnx", "--allow-random", "--input-shape", "image:1x1x28x28")
        line = self.one_line("quantize", F / "shapeless.onnx", "-o", "y.onnx", "--mode", "static", "--allow-random",
                             expect=1, says="what shape")
        self.assertIn("--input-shape", line)
        # Nothing is known against the model: what could not be run is noted.
        result = self.run_program("verify", F / "shapeless.onnx", F / "shapeless.onnx", *QUICK)
        self.assertRegex(result.stdout, "not run: .*--input-shape")

    def test_memory_is_measured_of_a_model_of_nothing(self):
        report = self.report("verify", F / "zero.onnx", F / "zero.onnx", *QUICK)
        self.assertGreater(report["resources"]["candidate"]["peak_memory_bytes"], 0)


class Outputs(Case):
    def test_existing_output_needs_force(self):
        (self.dir / "y.onnx").write_text("mine")
        self.one_line("optimize", F / "conv.onnx", "-o", "y.onnx", expect=1, says="--force")
        self.assertEqual((self.dir / "y.onnx").read_text(), "mine")
        self.run_program("optimize", F / "conv.onnx", "-o", "y.onnx", "--force", "--no-verify")
        self.assertNotEqual((self.dir / "y.onnx").read_bytes(), b"mine")

    def test_output_is_never_the_input(self):
        before = sha(F / "conv.onnx")
        for force in ([], ["--force"]):
            self.one_line("optimize", F / "conv.onnx", "-o", F / "conv.onnx", *force, expect=1)
        (self.dir / "link.onnx").symlink_to(F / "conv.onnx")
        self.one_line("optimize", F / "conv.onnx", "-o", "link.onnx", "--force", expect=1)
        self.assertEqual(sha(F / "conv.onnx"), before)

    def test_missing_folder(self):
        self.one_line("optimize", F / "conv.onnx", "-o", "no/y.onnx", expect=1)

    def test_dry_run_writes_nothing(self):
        result = self.run_program("quantize", F / "dense.onnx", "-o", "y.onnx", "--mode",
                                  "weight-only", "--dry-run")
        self.assertIn("dry run", result.stdout)
        self.assertEqual(list(self.dir.iterdir()), [])

    def test_dry_run_tells_the_size_of_what_would_be_written(self):
        for mode in ("weight-only", "dynamic"):
            words = ["quantize", F / "dense.onnx", "-o", f"{mode}.onnx", "--mode", mode, *QUICK]
            dry = json.loads(self.run_program(*words, "--dry-run", "--json").stdout)
            real = json.loads(self.run_program(*words, "--json").stdout)
            # Up to the recipe in the metadata.
            self.assertAlmostEqual(dry["candidate"]["bytes"], real["candidate"]["bytes"], delta=1000)
            for key in ("nodes", "parameters", "opset"):
                self.assertEqual(dry["candidate"][key], real["candidate"][key])

    def test_full_disk_is_an_error(self):
        with open("/dev/full", "w") as full:
            result = subprocess.run([COMPRESS, "inspect", str(F / "conv.onnx")], stdout=full,
                                    stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(result.returncode, 1)
        self.assertEqual(len(result.stderr.splitlines()), 1)

    def test_quiet_prints_nothing(self):
        result = self.run_program("optimize", F / "conv.onnx", "-o", "y.onnx", "--quiet", *QUICK)
        self.assertEqual(result.stdout, "")

    def test_signals_leave_nothing(self):
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            process = subprocess.Popen(
                [COMPRESS, "train", F / "conv.onnx", "-o", "y.onnx", "--data", F / "test.npz", "--epochs",
                 "100000", "--patience", "0", "--report", "r.json"], cwd=self.dir,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(0.7)
            process.send_signal(number)
            self.assertEqual(process.wait(10), code)
            self.assertEqual(list(self.dir.iterdir()), [])


class Steps(Case):
    def test_a_pattern_that_matches_nothing_is_told(self):
        result = self.run_program("prune", F / "conv.onnx", "-o", "y.onnx", "--exclude", "no_such",
                                  "--exclude", ".*", "--no-verify")
        self.assertIn("warning: --exclude 'no_such' matches no node\n", result.stderr)
        self.assertNotIn("'.*' matches no", result.stderr)
        self.assertNotIn("did you mean", result.stderr)
        result = self.run_program("prune", F / "conv.onnx", "-o", "y.onnx", "--force", "--override", "Conf_out=0.2",
                                  "--no-verify")
        self.assertIn("warning: --override 'Conf_out' matches no node (did you mean 'Conv_out'?)\n", result.stderr)

    def test_static_with_gates_and_reports(self):
        report = self.report("quantize", F / "conv.onnx", "-o", "y.onnx", "--mode", "static",
                             "--data", F / "test.npz", "--samples", 64, "--gate", "top1_drop<=5%",
                             "--gate", "size_ratio<=0.5", "--report", "r.md", "--report", "r.html",
                             "--report", "r.xml", *QUICK)
        for key in REPORT_KEYS:
            self.assertIn(key, report)
        self.assertEqual(report["schema"], "compress.report/1")
        self.assertTrue(report["changed"])
        self.assertEqual(report["result"], "passed")
        self.assertEqual(report["accuracy"]["samples"], 400 - 64)
        self.assertGreater(report["accuracy"]["reference"]["top1"], 0.6)
        self.assertGreater(report["similarity"]["outputs"][0]["sqnr_db"], 20)
        self.assertLessEqual(report["candidate"]["size_ratio"], 0.5)
        self.assertEqual(report["candidate"]["bytes"], (self.dir / "y.onnx").stat().st_size)
        self.assertGreater(report["resources"]["candidate"]["peak_memory_bytes"], 0)
        self.assertTrue(any("left out" in note for note in report["notes"]))
        for row in report["kernels"]:
            self.assertTrue(row["kernel"] and row["op"])
        self.assertIn("| top1 |", (self.dir / "r.md").read_text())
        self.assertIn("<table>", (self.dir / "r.html").read_text())
        self.assertIn('failures="0"', (self.dir / "r.xml").read_text())

    def test_failed_gate_leaves_output_and_report(self):
        report = self.report("quantize", F / "dense.onnx", "-o", "y.onnx", "--mode", "weight-only",
                             "--gate", "size_ratio<=0.001", *QUICK, expect=3)
        self.assertEqual(report["result"], "failed")
        self.assertFalse(report["gates"][0]["passed"])
        self.run_program("infer", "y.onnx", "--data", F / "test.npz", "--quiet")

    def test_gate_without_its_data_is_refused_before_any_work(self):
        for gate, flags in (("top1_drop<=1%", []), ("sqnr>=20", []),
                            ("top1>=0", ["--data", F / "unlabelled.npz"]),
                            ("perplexity<=9", ["--data", F / "test.npz"]),
                            ("speedup>=1", ["--no-verify"]), ("speedup>=1", ["--time-budget", "0"])):
            self.one_line("quantize", F / "dense.onnx", "-o", "y.onnx", "--mode", "weight-only",
                          *flags, "--gate", gate, expect=2, says=gate)
        self.assertEqual(list(self.dir.iterdir()), [])

    def test_every_mode_shrinks_and_runs(self):
        for mode, model in (("weight-only", "dense"), ("dynamic", "dense")):
            report = self.report("quantize", F / f"{model}.onnx", "-o", "y.onnx", "--mode", mode,
                                 "--data", F / "test.npz", "--force", *QUICK)
            self.assertTrue(report["changed"], mode)
            self.assertLess(report["candidate"]["size_ratio"], 0.6)
            self.assertEqual(report["accuracy"]["samples"], 400)
            self.assertGreater(report["accuracy"]["candidate"]["top1"], 0.6)
            self.assertTrue(report["similarity"]["layers"])

    def test_mode_is_chosen_and_explained(self):
        report = self.report("quantize", F / "conv.onnx", "-o", "y.onnx", "--data", F / "test.npz",
                             *QUICK)
        self.assertTrue(any(n.startswith("mode static") for n in report["notes"]), report["notes"])

    def test_nothing_to_quantize_is_said(self):
        self.run_program("quantize", F / "conv.onnx", "-o", "q.onnx", "--mode", "static", "--data",
                         F / "test.npz", "--no-verify")
        path = self.dir / "r.json"
        for flags, code in (([], 0), (["--require-change"], 3)):
            result = self.run_program("quantize", "q.onnx", "-o", "y.onnx", "--mode", "dynamic",
                                      "--force", "--report", path, *QUICK, *flags, expect=code)
            self.assertRegex(result.stderr, r"(?m)^nothing quantized: .*already quantized")
            self.assertFalse(json.loads(path.read_text())["changed"])
            self.assertLessEqual((self.dir / "y.onnx").stat().st_size,
                                 (self.dir / "q.onnx").stat().st_size)
            self.run_program("infer", "y.onnx", "--data", F / "test.npz", "--quiet")

    def test_fractions_may_be_percentages(self):
        for written in ("0.3", "30%"):
            report = self.report("prune", F / "conv.onnx", "-o", "y.onnx", "--sparsity", written, "--no-verify", "--force")
            self.assertEqual(report["recipe"]["steps"][0]["prune"]["sparsity"], 0.3)
        self.one_line("prune", F / "conv.onnx", "-o", "z.onnx", "--sparsity", "130%", expect=2, says="0..1")
        self.one_line("prune", F / "conv.onnx", "-o", "z.onnx", "--sparsity", "%", expect=2, says="a number")

    def test_prune_reaches_its_sparsity(self):
        report = self.report("prune", F / "dense.onnx", "-o", "y.onnx", "--sparsity", "0.5", "--data",
                             F / "test.npz", *QUICK)
        self.assertAlmostEqual(report["candidate"]["sparsity"], 0.5, places=3)
        self.assertTrue(report["changed"])

    def test_prune_on_data_leaves_its_samples_out_of_verification(self):
        report = self.report("prune", F / "dense.onnx", "-o", "y.onnx", "--method", "sparsegpt", "--granularity", "2:4",
                             "--data", F / "test.npz", "--samples", 40, *QUICK)
        self.assertTrue(report["changed"])
        self.assertEqual(report["accuracy"]["samples"], 360)
        self.assertEqual(report["recipe"]["steps"][0]["prune"]["method"], "sparsegpt")
        for method in ("wanda", "sparsegpt"):
            self.one_line("prune", F / "dense.onnx", "-o", "z.onnx", "--method", method, expect=2, says="--data")
        self.one_line("prune", F / "dense.onnx", "-o", "z.onnx", "--granularity", "2:4", "--sparsity", "0.9", expect=2,
                      says="leave one out")
        self.run_program("prune", F / "dense.onnx", "-o", "z.onnx", "--statistics", "s.npz", expect=2)

    def test_prune_says_which_channels_stay(self):
        result = self.run_program("prune", F / "dense.onnx", "-o", "y.onnx", "--granularity", "channel", "--no-verify",
                                  "--require-change", expect=3)
        self.assertRegex(result.stderr, r"(?m)^nothing pruned: channels of the output")

    def test_random_calibration_is_marked(self):
        report = self.report("quantize", F / "conv.onnx", "-o", "y.onnx", "--mode", "static",
                             "--allow-random", "--samples", 4, *QUICK)
        self.assertTrue(any("noise" in note for note in report["notes"]))
        self.assertEqual(report["data"], "none")

    def test_same_bytes_twice_and_for_any_threads(self):
        static = ["quantize", F / "conv.onnx", "--mode", "static", "--data", F / "test.npz"]
        only = ["quantize", F / "dense.onnx", "--mode", "weight-only"]
        for words in (static, only, ["prune", F / "dense.onnx"], ["optimize", F / "conv.onnx"]):
            sums = set()
            for i, threads in enumerate((1, 2, 2)):
                self.run_program(*words, "-o", f"{i}.onnx", "--threads", threads, "--no-verify",
                                 "--force")
                sums.add(sha(self.dir / f"{i}.onnx"))
            self.assertEqual(len(sums), 1, words)

    def test_provenance_holds_no_path(self):
        self.run_program("quantize", F / "conv.onnx", "-o", "y.onnx", "--mode", "static", "--data",
                         F / "test.npz", "--no-verify", "--threads", 1)
        content = (self.dir / "y.onnx").read_bytes()
        self.assertIn(b"compress.recipe/1", content)
        self.assertIn(sha(F / "conv.onnx").encode(), content)
        for absent in (str(F).encode(), b"threads", b"test.npz"):
            self.assertNotIn(absent, content)


class Training(Case):
    QUICK = ["--data", F / "test.npz", "--batch", 16, "--epochs", 2, "--lr", "0.001"]

    def test_labels_raise_accuracy_and_the_report_tells_the_epochs(self):
        report = self.report("distill", F / "dense.onnx", "-o", "y.onnx", *self.QUICK, *QUICK)
        details = report["passes"][0]["details"]
        self.assertEqual([e["epoch"] for e in details["epochs"]], [0, 1, 2])
        self.assertEqual(details["samples"] + details["held_back"], 320)
        self.assertEqual(report["accuracy"]["samples"], 80)
        self.assertTrue(any("never sees" in note for note in report["notes"]))

    def test_a_teacher_and_zeros_that_stay(self):
        self.run_program("prune", F / "dense.onnx", "-o", "sparse.onnx", "--no-verify",
                         "--sparsity", "0.8")
        report = self.report("distill", "sparse.onnx", "--teacher", F / "dense.onnx", "-o",
                             "y.onnx", "--keep-sparsity", *self.QUICK, *QUICK)
        self.assertGreaterEqual(report["candidate"]["sparsity"], 0.8 - 1e-3)
        content = (self.dir / "y.onnx").read_bytes()
        self.assertIn(sha(F / "dense.onnx").encode(), content)
        self.assertNotIn(str(F).encode(), content)

    def test_qat_from_a_float_model_in_one_command(self):
        sums = set()
        for threads in (1, 2):
            report = self.report("distill", F / "dense.onnx", "-o", f"{threads}.onnx", "--qat", "int8",
                                 "--teacher", "input", "--threads", threads, *self.QUICK, *QUICK)
            sums.add(sha(self.dir / f"{threads}.onnx"))
        self.assertEqual(len(sums), 1)
        self.assertLess(report["candidate"]["size_ratio"], 0.35)
        self.assertGreater(report["similarity"]["outputs"][0]["sqnr_db"], 15)
        explained = self.run_program("inspect", "1.onnx").stdout
        self.assertIn("int8", explained)

    def test_layer_by_layer_where_a_bias_is_added(self):
        self.run_program("prune", F / "dense.onnx", "-o", "sparse.onnx", "--no-verify", "--sparsity", "0.7")
        report = self.report("distill", "sparse.onnx", "--teacher", F / "dense.onnx", "-o", "y.onnx", "--blockwise",
                             "--samples", 60, *self.QUICK, *QUICK)
        self.assertTrue(report["changed"])
        self.assertEqual(report["passes"][0]["details"]["blocks"], 1)

    def test_same_bytes_for_any_threads(self):
        sums = set()
        for threads in (1, 2, 3):
            self.run_program("train", F / "conv.onnx", "-o", f"{threads}.onnx", *self.QUICK,
                             "--threads", threads, "--no-verify", "--seed", 4)
            sums.add(sha(self.dir / f"{threads}.onnx"))
        self.assertEqual(len(sums), 1)

    def test_killed_and_resumed_gives_the_same_bytes(self):
        words = ["train", F / "conv.onnx", "--data", F / "test.npz", "--batch", 2, "--epochs", 6,
                 "--no-verify"]
        self.run_program(*words, "-o", "whole.onnx")
        state = ["--checkpoint", "state.npz", "--checkpoint-seconds", 0]
        process = subprocess.Popen([COMPRESS, *map(str, words + state), "-o", "killed.onnx"],
                                   cwd=self.dir, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        deadline = time.time() + 60
        while not (self.dir / "state.npz").exists() and time.time() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.assertFalse((self.dir / "killed.onnx").exists())
        self.run_program(*words, *state, "-o", "resumed.onnx")
        self.assertEqual(sha(self.dir / "whole.onnx"), sha(self.dir / "resumed.onnx"))

    def test_divergence_is_said_and_the_start_is_kept(self):
        result = self.run_program("distill", F / "dense.onnx", "-o", "y.onnx", "--data",
                                  F / "test.npz", "--optimizer", "sgd", "--lr", "1000",
                                  "--momentum", "0", "--l1", "1", "--no-verify")
        self.assertIn("nothing learnt: training diverged", result.stderr)

    def test_what_cannot_be_is_one_line(self):
        for words, says in (
                ([], "give --data or --train-data"),
                (["--data", F / "unlabelled.npz"], "needs labels"),
                (["--data", F / "test.npz", "--loss", "kll"], "did you mean 'kl'"),
                (["--data", F / "test.npz", "--loss", "mse"], "--teacher")):
            self.one_line("distill", F / "dense.onnx", "-o", "y.onnx", *words,
                          expect=2, says=says)


EXAMPLE = pathlib.Path(__file__).resolve().parents[2] / "examples/fashion_mnist"


class Shipped(Case):
    @unittest.skipUnless(pathlib.Path("/usr/share/datasets/fashion-mnist").exists(),
                         "Debian's dataset-fashion-mnist is not installed")
    def test_the_trained_example_is_as_good_as_it_says_and_becomes_int8(self):
        report = self.report("quantize", EXAMPLE / "cnn.onnx", "-o", "y.onnx", "--mode", "static",
                             "--calibration-data", EXAMPLE / "train.json", "--eval-data",
                             EXAMPLE / "test.json", "--eval-samples", 10000, "--gate",
                             "top1_drop<=0.5%", "--gate", "size_ratio<=0.3", *QUICK)
        self.assertEqual(report["result"], "passed")
        self.assertAlmostEqual(report["accuracy"]["reference"]["top1"], 0.9087, delta=0.002)


class Search(Case):
    WORDS = ["--data", F / "test.npz", "--max-drop", "1%", "--budget", "2m", *QUICK]

    def test_finds_a_mix_that_holds_on_what_it_did_not_see(self):
        report = self.report("quantize", F / "conv.onnx", "-o", "y.onnx", *self.WORDS, "--plot",
                             "front.svg", "--report", "r.html", "--report", "r.md")
        search = report["search"]
        self.assertEqual(search["search_samples"] + search["held_out_samples"], 400 - 128)
        chosen = [t for t in search["trials"] if t["chosen"]]
        self.assertEqual(len(chosen), 1)
        self.assertLessEqual(search["held_out_drop"], 0.01)
        self.assertLessEqual(chosen[0]["drop"], 0.01)
        self.assertEqual(report["accuracy"]["samples"], search["held_out_samples"])
        self.assertAlmostEqual(report["accuracy"]["drop"]["top1"], search["held_out_drop"], places=6)
        self.assertTrue(report["sensitivity"]["rows"])
        self.assertIn("<svg", (self.dir / "front.svg").read_text())
        self.assertIn("<svg", (self.dir / "r.html").read_text())
        # What the ranges of the chosen mix cover, over what calibration saw.
        self.assertTrue(report["activations"])
        for row in report["activations"]:
            self.assertTrue(row["histogram"])
        self.assertIn("Activations and their ranges", (self.dir / "r.html").read_text())
        self.assertIn("chosen", (self.dir / "r.md").read_text())
        self.assertFalse((self.dir / "y.onnx.search.json").exists())
        # The options of the report make the same bytes again, up to what the provenance says.
        recipe = dict(report["recipe"], data=os.path.relpath(F / "test.npz", self.dir))
        (self.dir / "again.json").write_text(json.dumps(recipe))
        self.run_program("run", F / "conv.onnx", "-o", "z.onnx", "--recipe", "again.json", *QUICK)
        size = (self.dir / "y.onnx").stat().st_size
        self.assertLess(abs((self.dir / "z.onnx").stat().st_size - size), 0.05 * size + 2000)

    def test_killed_it_goes_on_and_ends_alike(self):
        words = ["quantize", F / "conv.onnx", "-o", "y.onnx", *self.WORDS]
        process = subprocess.Popen([COMPRESS, *map(str, words)], cwd=self.dir,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        state = self.dir / "y.onnx.search.json"
        for _ in range(600):
            if state.exists() and len(json.loads(state.read_text())["search"]["trials"]) >= 2:
                break
            time.sleep(0.02)
        process.kill()
        process.wait(10)
        if state.exists():  # it may have been faster
            known = json.loads(state.read_text())["search"]["trials"]
            self.assertGreaterEqual(len(known), 2)
            self.run_program("infer", "y.onnx", "--data", F / "test.npz", "--quiet")
            # Other flags are another search.
            self.one_line("quantize", F / "conv.onnx", "-o", "y.onnx", "--data", F / "test.npz",
                          "--max-drop", "3%", expect=2, says="another model or with other flags")
            report = self.report(*words)
            self.assertTrue(any("went on" in n for n in report["notes"]))
            kept = {json.dumps(t["options"]): t["bytes"] for t in report["search"]["trials"]}
            for trial in known:
                self.assertEqual(kept[json.dumps(trial["options"])], trial["bytes"])
            whole = self.report("quantize", F / "conv.onnx", "-o", "whole.onnx", *self.WORDS)
            self.assertEqual([t["options"] for t in whole["search"]["trials"]],
                             [t["options"] for t in report["search"]["trials"]])
            self.assertEqual(sha(self.dir / "y.onnx"), sha(self.dir / "whole.onnx"))

    def test_prune_finds_how_much_of_each_layer_may_go(self):
        for words in ([], ["--granularity", "block:1x4", "--method", "wanda", "--samples", 32]):
            report = self.report("prune", F / "conv.onnx", "-o", "p.onnx", "--force", *self.WORDS, *words)
            search = report["search"]
            self.assertEqual(search["minimize"], "weights")
            self.assertEqual(search["search_samples"] + search["held_out_samples"], 400 - (32 if words else 0))
            chosen, = [t for t in search["trials"] if t["chosen"]]
            self.assertLessEqual(search["held_out_drop"], 0.01)
            self.assertLessEqual(report["accuracy"]["drop"]["top1"], 0.01 + 1e-9)
            # Smaller ones that held were turned down by the samples that were held back.
            smaller = [t for t in search["trials"] if t["holds"] and t["bytes"] < chosen["bytes"]]
            self.assertEqual(len(smaller), search["held_out_looks"] - 1)
            self.assertGreater(report["candidate"]["sparsity"], 0.3)
            # The report's recipe makes it again.
            recipe = dict(report["recipe"], data=os.path.relpath(F / "test.npz", self.dir))
            (self.dir / "again.json").write_text(json.dumps(recipe))
            again = json.loads(self.run_program("run", F / "conv.onnx", "-o", "z.onnx", "--force", "--recipe",
                                                "again.json", "--json", *QUICK).stdout)
            if not words:
                self.assertEqual(again["candidate"]["sparsity"], report["candidate"]["sparsity"])
        self.one_line("prune", F / "conv.onnx", "-o", "q.onnx", *self.WORDS, "--sparsity", "0.5", expect=2,
                      says="--sparsity")
        # Nothing that may go: channels of outputs.
        report = self.report("prune", F / "conv.onnx", "-o", "c.onnx", "--granularity", "channel", *self.WORDS)
        self.assertFalse(report["changed"])
        self.assertIn("nothing pruned", report["note"])

    def test_wrong_words(self):
        data = ["--data", F / "test.npz"]
        for flags, says in ((["--max-drop", "much", *data], "--max-drop"),
                            (["--max-drop", "1%"], "--data"),
                            (["--max-drop", "1%", "--budget", "10x", *data], "--budget"),
                            (["--max-drop", "1%", "--metric", "spearman", *data], "spearman"),
                            (["--max-drop", "1%", "--metric", "speedup", *data], "speedup"),
                            (["--max-drop", "1%", "--override", "a=float32", *data], "--override"),
                            (["--max-drop", "1%", "--plot", "x.png", *data], ".svg"),
                            (["--max-drop", "1%", "--dry-run", *data], "--dry-run"),
                            (["--override", "conv"], "PATTERN=PRECISION"),
                            (["--mode", "dynamic", "--weights", "float16"], "weight-only")):
            self.one_line("quantize", F / "conv.onnx", "-o", "y.onnx", *flags, expect=2, says=says)

    def test_sensitivity(self):
        report = self.report("sensitivity", F / "conv.onnx", "--data", F / "test.npz", "--plot",
                             "layers.svg")
        rows = report["sensitivity"]["rows"]
        self.assertEqual({row["op"] for row in rows}, {"Conv"})
        self.assertGreater(rows[0]["damage"], 0)
        self.assertGreater(rows[0]["sqnr_db"], 15)
        self.assertEqual(report["sensitivity"]["damage"], "kl")
        self.assertIn("<rect", (self.dir / "layers.svg").read_text())

    def test_half(self):
        for words, bits in ((["--mode", "float16"], 16),
                            (["--mode", "weight-only", "--weights", "bfloat16"], 16)):
            report = self.report("quantize", F / "dense.onnx", "-o", "y.onnx", *words, "--data",
                                 F / "test.npz", "--force", *QUICK)
            self.assertTrue(report["changed"])
            self.assertLess(report["candidate"]["size_ratio"], 0.56)
            self.assertGreater(report["similarity"]["outputs"][0]["sqnr_db"], 40)


class Recipes(Case):
    def recipe(self, **content):
        path = self.dir / "recipe.json"
        path.write_text(json.dumps({"schema": "compress.recipe/1", **content}))
        return path

    def test_steps_run_in_order(self):
        path = self.recipe(steps=[{"prune": {"sparsity": 0.5}}, {"quantize": {"mode": "static"}}],
                           data={"data": os.path.relpath(F / "test.npz", self.dir)},
                           gates=["size_ratio<=0.5"])
        report = self.report("run", F / "conv.onnx", "-o", "y.onnx", "--recipe", path, *QUICK)
        self.assertGreaterEqual(report["candidate"]["sparsity"], 0.49)
        self.assertEqual([list(s)[0] for s in report["recipe"]["steps"]], ["prune", "quantize"])
        self.assertEqual(report["gates"][0]["expression"], "size_ratio<=0.5")
        # What a report holds can be run again and gives the same bytes.
        again = dict(report["recipe"], data=os.path.relpath(F / "test.npz", self.dir))
        (self.dir / "again.json").write_text(json.dumps(again))
        self.run_program("run", F / "conv.onnx", "-o", "z.onnx", "--recipe", "again.json", *QUICK)
        self.assertEqual(sha(self.dir / "y.onnx"), sha(self.dir / "z.onnx"))

    def test_the_last_step_says_how_to_verify(self):
        data = os.path.relpath(F / "test.npz", self.dir)
        step = {"verify": {"gate": ["top1_drop<=50%"], "time-budget": 0, "eval-samples": 20, "batch": 4}}
        path = self.recipe(steps=[{"quantize": {"mode": "static"}}, step], data=data)
        report = self.report("run", F / "conv.onnx", "-o", "y.onnx", "--recipe", path)
        self.assertEqual(report["accuracy"]["samples"], 20)
        self.assertEqual(report["speed"], [])
        self.assertEqual([row["expression"] for row in report["gates"]], ["top1_drop<=50%"])
        self.assertEqual(report["recipe"]["steps"][-1], step)
        before = sha(self.dir / "y.onnx")
        # The command line wins, and adds its gates.
        report = self.report("run", F / "conv.onnx", "-o", "y.onnx", "--recipe", path, "--eval-samples", 10, "--gate",
                             "size_ratio<=0.9", "--force")
        self.assertEqual(report["accuracy"]["samples"], 10)
        self.assertEqual(len(report["gates"]), 2)
        self.run_program("run", F / "conv.onnx", "-o", "z.onnx", "--recipe",
                         self.recipe(steps=[{"quantize": {"mode": "static"}}], data=data), "--no-verify")
        self.assertEqual(before, sha(self.dir / "z.onnx"))
        for steps, says in (([step, {"prune": {}}], "comes last"), ([step], "nothing to verify"),
                            ([{"prune": {}}, {"verify": {"gates": []}}], "did you mean 'gate'"),
                            ([{"prune": {}}, {"verify": {"batch": 0}}], "'batch'")):
            self.one_line("run", F / "conv.onnx", "-o", "n.onnx", "--recipe", self.recipe(steps=steps), expect=2,
                          says=says)

    def test_bad_recipes_name_the_key(self):
        for content, says in (({"stepss": []}, "did you mean 'steps'"), ({"steps": []}, "no steps"),
                              ({"steps": [{"quantise": {}}]}, "quantise"),
                              ({"steps": [{"quantize": {"modee": "static"}}]}, "'mode'"),
                              ({"steps": [{"optimize": {}}], "data": {"x": "y"}}, "no role 'x'")):
            self.one_line("run", F / "conv.onnx", "-o", "y.onnx", "--recipe",
                          self.recipe(**content), "--no-verify", expect=2, says=says)
        deep = self.dir / "deep.json"
        deep.write_text("[" * 100000)
        self.one_line("run", F / "conv.onnx", "-o", "y.onnx", "--recipe", deep, expect=2, says="deep")


class Diff(Case):
    def test_what_changed(self):
        self.run_program("prune", F / "conv.onnx", "-o", "p.onnx", "--sparsity", "0.5", "--no-verify")
        self.assertIn("no difference", self.run_program("diff", "p.onnx", "p.onnx").stdout)
        pruned = json.loads(self.run_program("diff", F / "conv.onnx", "p.onnx", "--json").stdout)
        self.assertEqual((pruned["added"], pruned["removed"], pruned["changed"]), ([], [], []))
        [weights] = pruned["changed_constants"]
        self.assertIn(" of 7840 elements differ", weights["difference"])
        self.run_program("quantize", F / "conv.onnx", "-o", "q.onnx", "--data", F / "test.npz",
                         "--no-verify")
        text = self.run_program("diff", F / "conv.onnx", "q.onnx").stdout
        self.assertRegex(text, r"DequantizeLinear +0 -> \d")
        self.assertIn("constants removed", text)
        self.one_line("diff", F / "conv.onnx", "none.onnx", expect=1, says="none.onnx")


class ReadyRecipes(Case):
    def test_listed_printed_and_run(self):
        names = [line.split()[0] for line in self.run_program("recipes").stdout.splitlines()]
        self.assertIn("cpu-int8", names)
        for name in names:
            recipe = json.loads(self.run_program("recipes", name).stdout)
            self.assertEqual(recipe["schema"], "compress.recipe/1")
            self.run_program("run", F / "conv.onnx", "-o", f"{name}.onnx", "--recipe", name, "--data",
                             F / "test.npz", "--no-verify")
        self.one_line("run", F / "conv.onnx", "-o", "y.onnx", "--recipe", "cpu-int9", expect=2,
                      says="did you mean 'cpu-int8'")

    def test_comments_are_allowed(self):
        (self.dir / "r.json").write_text("""{"schema": "compress.recipe/1", // why
            /* half */ "steps": [{"prune": {"sparsity": 0.5}}]}""")
        self.run_program("run", F / "conv.onnx", "-o", "y.onnx", "--recipe", "r.json", "--no-verify")

    def test_schema_knows_every_option(self):
        schema = json.loads(self.run_program("schema").stdout)
        steps = {next(iter(row["properties"])): row["properties"] for row in
                 schema["properties"]["steps"]["items"]["oneOf"]}
        options = steps["quantize"]["quantize"]["properties"]
        self.assertIn("static", options["mode"]["enum"])
        self.assertEqual(options["percentile"]["default"], 99.999)
        self.assertEqual(steps["verify"]["verify"]["properties"]["time-budget"]["default"], 30)
        # A report's recipe has every option, in the types that the schema asks for.
        report = self.report("quantize", F / "conv.onnx", "-o", "y.onnx", "--data", F / "test.npz",
                             "--no-verify")
        types = {"string": str, "boolean": bool, "number": (int, float), "integer": int, "array": list}
        for name, value in report["recipe"]["steps"][0]["quantize"].items():
            self.assertIsInstance(value, types[options[name]["type"]], name)


class Reports(Case):
    """What --report writes, and what reads it."""

    def write(self, *words, expect=0):
        self.run_program("quantize", F / "conv.onnx", "-o", "y.onnx", "--data", F / "test.npz", "--samples", 64,
                         "--force", *QUICK, *words, expect=expect)

    def test_every_report_is_as_its_schema_says(self):
        schema = json.loads(self.run_program("schema", "report").stdout)
        data = ("--data", F / "test.npz")
        for name, words in {
                "static": ("quantize", F / "conv.onnx", "-o", "y.onnx", "--mode", "static", *data, "--gate",
                           "top1_drop<=50%", *QUICK),
                "nothing": ("prune", F / "conv.onnx", "-o", "z.onnx", "--no-verify"),
                "verify": ("verify", F / "conv.onnx", "y.onnx", *data, "--explain", "--rules-only", "--concurrency",
                           "2", *QUICK),
                "same": ("verify", F / "conv.onnx", F / "conv.onnx", *QUICK),
                "sensitivity": ("sensitivity", F / "conv.onnx", *data, "--eval-samples", 20),
                "search": ("quantize", F / "conv.onnx", "-o", "m.onnx", "--max-drop", "1%", *data,
                           "--eval-samples", 60, "--budget", "5s", *QUICK)}.items():
            with self.subTest(name):
                self.run_program(*words, "--report", f"{name}.json")
                report = json.loads((self.dir / f"{name}.json").read_text())
                self.assertEqual(list(json_schema.errors(report, schema)), [])
                self.assertRegex(report["date"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        report = json.loads((self.dir / "static.json").read_text())
        low, high = report["accuracy"]["intervals"]["top1"]["candidate"]
        self.assertLess(low, report["accuracy"]["candidate"]["top1"])
        self.assertGreater(high, report["accuracy"]["candidate"]["top1"])
        confusion = report["accuracy"]["confusion"]["candidate"]
        right = sum(confusion[i][i] for i in range(len(confusion)))
        self.assertAlmostEqual(right / sum(map(sum, confusion)), report["accuracy"]["candidate"]["top1"])
        weights = report["similarity"]["weights"]
        self.assertTrue(any(row["dtype"] == "int8" for row in weights))
        for row in weights:
            self.assertEqual(row["sqnr_db"] is None, "histogram" not in row, row["name"])
            for side in ("reference", "candidate") if "histogram" in row else ():
                self.assertEqual(sum(row["histogram"][side]), row["elements"])
        self.assertLess(sum(row["candidate_bytes"] for row in weights), report["candidate"]["bytes"])
        self.assertTrue(report["activations"])
        for row in report["activations"]:
            self.assertLess(row["covers"][0], row["covers"][1])
            self.assertLessEqual(row["covers"][0], 0)
        # A schema that lets everything pass would prove nothing.
        for broken in ({**report, "seed": "0"}, {**report, "other": 1}, {**report, "machine": {}}):
            self.assertNotEqual(list(json_schema.errors(broken, schema)), [])

    def test_csv_holds_the_metrics_and_the_gates(self):
        self.write("--mode", "static", "--report", "r.csv", "--report", "r.json", "--gate", "size_ratio<=0.9")
        rows = [line.split(",") for line in (self.dir / "r.csv").read_text().splitlines()]
        self.assertEqual(rows[0], ["metric", "reference", "candidate", "candidate_low", "candidate_high"])
        metrics = json.loads((self.dir / "r.json").read_text())["metrics"]
        table = {row[0]: row for row in rows[1:]}
        self.assertEqual(set(metrics) | {"gate size_ratio<=0.9"}, set(table))
        self.assertAlmostEqual(float(table["top1"][2]), metrics["top1"]["candidate"], 6)
        self.assertLess(float(table["speedup"][3]), float(table["speedup"][4]))

    def test_reports_over_time(self):
        self.write("--mode", "static", "--report", "a.json")
        time.sleep(1.1)  # dates are in seconds
        self.write("--mode", "weight-only", "--report", "b.json")
        words = ("report", "b.json", "a.json", "-o", "h.html", "-o", "h.md", "-o", "h.csv", "-o", "h.json")
        out = self.run_program(*words).stdout
        self.assertLess(out.index("a.json"), out.index("b.json"))  # by date, not as named
        history = json.loads((self.dir / "h.json").read_text())
        self.assertEqual(history["schema"], "compress.history/1")
        self.assertEqual(history["model"], "conv.onnx")
        self.assertTrue(any(change.startswith("size") for change in history["rows"][1]["changes"]))
        self.assertIn("<svg", (self.dir / "h.html").read_text())
        self.assertEqual(len((self.dir / "h.csv").read_text().splitlines()), 3)
        self.assertIn("| a.json |", (self.dir / "h.md").read_text())

    def test_files_that_are_no_reports_of_one_model(self):
        self.write("--mode", "weight-only", "--no-verify", "--report", "a.json")
        report = json.loads((self.dir / "a.json").read_text())
        report["reference"]["path"] = "other.onnx"
        (self.dir / "other.json").write_text(json.dumps(report))
        (self.dir / "torn.json").write_text((self.dir / "a.json").read_text()[:200])
        for words, code, says in ((("a.json", "other.json"), 2, "other.onnx"), (("torn.json",), 2, "torn.json"),
                                  (("none.json",), 1, "none.json"), (("a.json", "-o", "x.pdf"), 2, ".html"),
                                  ((str(F / "conv.onnx"),), 2, "conv.onnx")):
            self.one_line("report", *words, expect=code, says=says)


class Batch(Case):
    def setUp(self):
        super().setUp()
        zoo = self.dir / "zoo"
        (zoo / "deep").mkdir(parents=True)
        for name in ("a.onnx", "b.onnx", "deep/c.onnx"):
            (zoo / name).write_bytes((F / "conv.onnx").read_bytes())
            (zoo / name).with_suffix(".npz").write_bytes((F / "test.npz").read_bytes())
        (zoo / "broken.onnx").write_bytes(b"<html>404</html>")
        (self.dir / "half.json").write_text(
            '{"schema": "compress.recipe/1", "steps": [{"prune": {"sparsity": 0.5}}]}')
        self.words = ["batch", "zoo", "--recipe", "cpu-int8", "--recipe", "half.json",
                      "--data", "{folder}/{stem}.npz", "--time-budget", "0", "--report", "s.json"]

    def outputs(self, folder):
        return {str(p.relative_to(self.dir / folder)): sha(p)
                for p in sorted((self.dir / folder).rglob("*.onnx"))}

    def statuses(self):
        rows = json.loads((self.dir / "s.json").read_text())["rows"]
        return {os.path.basename(row["output"]): row["status"] for row in rows}

    def test_one_failure_stops_no_other_and_a_rerun_does_what_is_missing(self):
        result = self.run_program(*self.words, "-o", "out", "--workers", "2", expect=1)
        self.assertIn("broken.onnx", result.stdout)
        first = self.outputs("out")
        self.assertEqual(list(first), ["a_half.onnx", "a_int8.onnx", "b_half.onnx", "b_int8.onnx",
                                       "deep/c_half.onnx", "deep/c_int8.onnx"])
        self.assertEqual(sorted(self.statuses().values()), ["done"] * 6 + ["failed"] * 2)
        # Torn and missing ones are made again, with the same bytes; the others are kept.
        (self.dir / "out/a_int8.onnx").write_bytes(b"torn")
        (self.dir / "out/b_half.onnx").unlink()
        self.run_program(*self.words, "-o", "out", expect=1)
        statuses = self.statuses()
        self.assertEqual((statuses["a_int8.onnx"], statuses["b_half.onnx"]), ("done", "done"))
        self.assertEqual(sorted(statuses.values()), ["done"] * 2 + ["failed"] * 2 + ["kept"] * 4)
        self.assertEqual(self.outputs("out"), first)
        # Another recipe under the same name decides anew.
        (self.dir / "half.json").write_text(
            '{"schema": "compress.recipe/1", "steps": [{"prune": {"sparsity": 0.75}}]}')
        self.run_program(*self.words, "-o", "out", expect=1)
        self.assertEqual(self.statuses()["a_half.onnx"], "done")
        self.assertEqual(self.statuses()["a_int8.onnx"], "kept")

    def test_killed_and_run_again_gives_the_same_bytes(self):
        self.run_program(*self.words, "-o", "whole", expect=1)
        for pause in (0.05, 0.3, 0.6):
            batch = subprocess.Popen([COMPRESS, *self.words, "-o", "killed", "--workers", "2"],
                                     cwd=self.dir, stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL)
            time.sleep(pause)
            batch.kill()
            batch.wait()
        self.run_program(*self.words, "-o", "killed", expect=1)
        self.assertEqual(self.outputs("killed"), self.outputs("whole"))
        leftovers = [p.name for p in (self.dir / "killed").rglob("*")
                     if p.is_file() and p.suffix not in (".onnx", ".json", ".log", ".lock")]
        self.assertEqual(leftovers, [])

    def test_shards_make_the_same_set_and_merge(self):
        self.run_program(*self.words, "-o", "whole", expect=1)
        for i in (1, 2):
            self.run_program(*self.words[:-1], f"s{i}.json", "-o", "parts", "--shard", f"{i}/2",
                             expect=1)
        self.assertEqual(self.outputs("parts"), self.outputs("whole"))
        self.run_program("merge-reports", "s1.json", "s2.json", "--report", "all.json", "--report",
                         "all.html", "--report", "all.csv", "--report", "all.xml", "--report",
                         "all.md", expect=1)
        merged = json.loads((self.dir / "all.json").read_text())
        self.assertEqual(len(merged["rows"]), 8)
        self.assertIn("<testsuite", (self.dir / "all.xml").read_text())
        self.assertEqual(len((self.dir / "all.csv").read_text().splitlines()), 9)
        self.one_line("merge-reports", "s1.json", "s1.json", expect=2, says="overlap")

    def test_gates_budget_and_refusals(self):
        (self.dir / "zoo/broken.onnx").unlink()
        self.run_program(*self.words, "-o", "out", "--gate", "size_ratio<=0.001", expect=3)
        self.assertEqual(set(self.statuses().values()), {"gate failed"})
        self.run_program(*self.words, "-o", "tight", "--memory", "1M", expect=1)
        rows = json.loads((self.dir / "s.json").read_text())["rows"]
        self.assertIn("budget", rows[0]["message"])
        for words, says in (((*self.words, "-o", "o", "--shard", "3/2"), "--shard"),
                            (("batch", "zoo", "-o", "o"), "--recipe"),
                            (("batch", "zoo", "-o", "o", "--recipe", "no-such"), "ready recipe"),
                            ((*self.words, "--recipe", "./half.json", "-o", "o"), "both write"),
                            (("batch", "zoo", "-o", "o", "--recipe", "cpu-int8", "--report", "r.txt"),
                             "csv")):
            self.one_line(*words, expect=2, says=says)
        listed = self.run_program(*self.words, "-o", "nothing", "--dry-run").stdout
        self.assertEqual(len(listed.splitlines()), 6)
        self.assertFalse((self.dir / "nothing").exists())

    def test_lists_and_manifests(self):
        (self.dir / "list.txt").write_text("# two\nzoo/a.onnx\nzoo/b.onnx\n")
        self.run_program("batch", "list.txt", "-o", "out", "--recipe", "half.json", "--no-verify")
        self.assertEqual(list(self.outputs("out")), ["a_half.onnx", "b_half.onnx"])
        (self.dir / "zoo.json").write_text(json.dumps({"models": [
            {"model": "zoo/a.onnx", "recipes": ["cpu-int8"], "data": "zoo/a.npz"},
            {"model": "zoo/b.onnx", "recipes": ["half.json"]}]}))
        self.run_program("batch", "zoo.json", "-o", "by", "--no-verify")
        self.assertEqual(list(self.outputs("by")), ["a_int8.onnx", "b_half.onnx"])


class Devices(Case):
    MODELS = ("verify", F / "conv.onnx", F / "conv.onnx", "--data", F / "test.npz", *QUICK)
    ABSENT = {"COMPRESS_CUDA_LIBRARY": "/nowhere/libcompress_cuda.so"}
    EMULATED = {"COMPRESS_CUDA_LIBRARY": os.environ.get("COMPRESS_CUDA_EMULATED", "")}

    def test_without_a_gpu(self):
        self.one_line(*self.MODELS, "--device", "cuda", expect=1, says="no CUDA device", env=self.ABSENT)
        result = self.run_program(*self.MODELS, "--device", "all", "--report", "r.json", env=self.ABSENT)
        self.assertIn("warning: no CUDA device", result.stderr)
        report = json.loads((self.dir / "r.json").read_text())
        self.assertEqual([row["device"] for row in report["speed"]], ["cpu"])
        self.assertTrue(any("no CUDA device" in note for note in report["notes"]))

    def test_another_library_is_refused(self):
        other = {"COMPRESS_CUDA_LIBRARY": "libm.so.6"}
        self.one_line(*self.MODELS, "--device", "cuda", expect=1, says="another version", env=other)

    @unittest.skipUnless(EMULATED["COMPRESS_CUDA_LIBRARY"], "skipped: no emulated device was built")
    def test_all_devices_side_by_side(self):
        report = self.report(*self.MODELS, "--device", "all", env=self.EMULATED)
        schema = json.loads(self.run_program("schema", "report").stdout)
        self.assertEqual(list(json_schema.errors(report, schema)), [])
        self.assertEqual([row["device"] for row in report["speed"]], ["cpu", "cuda (emulated)"])
        row = report["devices"][0]
        self.assertGreater(row["nodes_on_device"], 0)
        sqnr = row["against_cpu"]["sqnr"]
        self.assertTrue(sqnr is None or sqnr > 100, sqnr)  # null: infinite, the same bits
        self.assertEqual(row["accuracy"]["top1"]["cpu"], row["accuracy"]["top1"]["device"])

    @unittest.skipUnless(EMULATED["COMPRESS_CUDA_LIBRARY"], "skipped: no emulated device was built")
    def test_on_the_device_alone(self):
        report = self.report(*self.MODELS, "--device", "cuda", env=self.EMULATED)
        self.assertEqual([row["device"] for row in report["speed"]], ["cuda (emulated)"])
        self.assertIn("cuda", {kernel["device"] for kernel in report["kernels"]})
        self.run_program("infer", F / "conv.onnx", "--data", F / "test.npz", "--device", "cuda",
                         "-o", "y.npz", env=self.EMULATED)
        self.assertTrue((self.dir / "y.npz").exists())
        self.one_line(*self.MODELS, "--device", "cuda", "--concurrency", "2", expect=2,
                      says="leave out --device", env=self.EMULATED)


class Verify(Case):
    def test_a_model_against_itself(self):
        report = self.report("verify", F / "conv.onnx", F / "conv.onnx", "--data", F / "test.npz",
                             *QUICK)
        self.assertEqual(report["accuracy"]["drop"]["top1"], 0)
        self.assertTrue(report["similarity"]["outputs"][0]["exact"])
        self.assertEqual(report["speed"][0]["device"], "cpu")
        low, high = report["speed"][0]["speedup_ci"]
        self.assertLessEqual(low, high)

    def test_without_data_speed_is_marked(self):
        report = self.report("verify", F / "conv.onnx", F / "conv.onnx", *QUICK)
        self.assertEqual(report["speed"][0]["data"], "none")
        self.assertNotIn("accuracy", report)

    def test_text_is_generated(self):
        report = self.report("verify", F / "decoder.onnx", F / "decoder.onnx", "--generate", "6", "--input-shape",
                             "input_ids:1x9", "--gate", "tokens_per_second>=1", "--gate", "prompt_ms_drop<=1000",
                             *QUICK)
        self.assertEqual(list(json_schema.errors(report, json.loads(self.run_program("schema", "report").stdout))), [])
        generation = report["generation"]
        self.assertEqual(generation["prompt_tokens"], 9)
        self.assertEqual(generation["same_tokens"], 6)
        tokens = generation["candidate"]["tokens"]
        self.assertEqual(tokens, generation["reference"]["tokens"])
        self.assertEqual(tokens[1:], [(3 * token + 1) % 128 for token in tokens[:-1]])
        table = self.run_program("verify", F / "decoder.onnx", F / "decoder.onnx", "--generate", "6", *QUICK).stdout
        self.assertRegex(table, r"first token after 64 .*x\n")
        self.assertRegex(table, r"same tokens .*first 6 of 6")
        self.one_line("verify", F / "conv.onnx", F / "conv.onnx", "--generate", "6", expect=1,
                      says="cannot generate: input")

    def test_json_on_standard_output(self):
        result = self.run_program("verify", F / "conv.onnx", F / "conv.onnx", "--json", *QUICK)
        self.assertEqual(json.loads(result.stdout)["schema"], "compress.report/1")

    def test_other_outputs_are_refused(self):
        self.one_line("verify", F / "conv.onnx", F / "dense.onnx", "--data", F / "test.npz",
                      "--metric-output", "logits", expect=2, says="logits")

    def test_other_inputs_are_refused(self):
        self.one_line("verify", F / "conv.onnx", F / "renamed.onnx", expect=1, says="'picture'")

    def test_baseline_replaces_the_reference(self):
        self.run_program("verify", F / "conv.onnx", F / "conv.onnx", "--data", F / "test.npz",
                         "--report", "base.json", *QUICK)
        self.run_program("verify", F / "conv.onnx", F / "conv.onnx", "--data", F / "test.npz",
                         "--baseline", "base.json", "--gate", "top1_drop<=0", *QUICK)
        base = json.loads((self.dir / "base.json").read_text())
        base["metrics"]["top1"]["candidate"] = 1.0
        (self.dir / "base.json").write_text(json.dumps(base))
        self.run_program("verify", F / "conv.onnx", F / "conv.onnx", "--data", F / "test.npz",
                         "--baseline", "base.json", "--gate", "top1_drop<=1%", *QUICK, expect=3)
        self.one_line("verify", F / "conv.onnx", F / "conv.onnx", "--baseline", F / "conv.onnx",
                      expect=2)


class Data(Case):
    def test_infer_whole_and_in_slices_agree(self):
        for name, flags in (("whole", []), ("slices", ["--batch", 7])):
            self.run_program("infer", F / "dense.onnx", "--data", F / "test.npz", "-o",
                             f"{name}.npz", *flags)
        text = [self.run_program("infer", F / "dense.onnx", "--data", F / "test.npz", *flags).stdout
                for flags in ([], ["--batch", 7])]
        self.assertIn("scores: float32 [400,10]", text[0])
        self.assertEqual(text[0], text[1])

    def test_infer_wants_data(self):
        self.one_line("infer", F / "dense.onnx", expect=2, says="--allow-random")
        self.run_program("infer", F / "dense.onnx", "--allow-random")

    def test_what_does_not_fit_the_model_is_bad_data(self):
        two = F / "two_inputs.onnx"
        for command in (("verify", two, two), ("infer", two), ("quantize", two, "-o", "y.onnx", "--mode", "static")):
            line = self.one_line(*command, "--data", F / "other_names.npz", expect=1, says="other_names.npz")
            self.assertIn("left", line)
        for command in (("verify", F / "conv.onnx", F / "conv.onnx"), ("infer", F / "conv.onnx")):
            self.one_line(*command, "--data", F / "other_names.npz", expect=1, says="'image'")

    def test_labels_that_nobody_asked_for_may_be_others(self):
        conv, data = F / "conv.onnx", F / "other_labels.npz"
        result = self.run_program("verify", conv, conv, "--data", data, *QUICK)
        self.assertIn("compared without labels: label 99", result.stdout)
        self.assertNotIn("top1", result.stdout)
        self.one_line("verify", conv, conv, "--data", data, "--gate", "top1_drop<=1%", *QUICK, expect=1,
                      says="label 99")

    def test_calibrate_once_quantize_later(self):
        self.run_program("calibrate", F / "conv.onnx", "--data", F / "test.npz", "-o", "s.npz")
        self.run_program("quantize", F / "conv.onnx", "-o", "a.onnx", "--mode", "static",
                         "--statistics", "s.npz", "--no-verify")
        self.run_program("quantize", F / "conv.onnx", "-o", "b.onnx", "--mode", "static",
                         "--statistics", "s.npz", "--no-verify", "--threads", 1)
        self.assertEqual(sha(self.dir / "a.onnx"), sha(self.dir / "b.onnx"))
        self.one_line("quantize", F / "dense.onnx", "-o", "c.onnx", "--mode", "static",
                      "--statistics", "s.npz", expect=1, says="another model")
        self.run_program("calibrate", "--merge", "s.npz", "--merge", "s.npz", "-o", "m.npz")
        self.one_line("calibrate", "--merge", "s.npz", "-o", "n.npz", expect=2)

    def test_inspect(self):
        shown = json.loads(self.run_program("inspect", F / "conv.onnx", "--json").stdout)
        for key in ("inputs", "outputs", "opsets", "ops", "by_dtype", "sparsity", "bytes", "weights",
                    "could_be", "unsupported_ops"):
            self.assertIn(key, shown)
        self.assertEqual(shown["ops"], {"Conv": 1, "Flatten": 1})
        self.assertIn("Conv", self.run_program("inspect", F / "conv.onnx", "--tensors").stdout)
        self.assertIn("MatMulNBits", self.run_program("inspect", "--ops").stdout)
        self.assertIn("fuse_batch_norm", self.run_program("inspect", "--passes").stdout)
        self.assertIn("unsupported operator",
                      self.run_program("inspect", F / "unsupported.onnx").stdout)


def python_with_onnxruntime():
    """A Python that has onnxruntime, or None: the tests that need it are then skipped."""
    cached = os.path.expanduser("~/.cache/compress/venv/bin/python")
    for python in (os.environ.get("COMPRESS_PYTHON"), cached, "python3"):
        if not python:
            continue
        try:
            found = subprocess.run([python, "-c", "import onnxruntime, numpy"], check=False,
                                   capture_output=True, timeout=60)
        except OSError:
            continue
        if found.returncode == 0:
            return python
    return None


ORT = python_with_onnxruntime()


class Explain(Case):
    def quantized(self):
        self.run_program("quantize", F / "conv.onnx", "-o", "q.onnx", "--mode", "static", "--data",
                         F / "test.npz", "--no-verify", "--force")

    def test_inspect_tells_what_is_not_quantized(self):
        text = self.run_program("inspect", F / "conv.onnx", "--explain", "--rules-only").stdout
        self.assertTrue(text.startswith(str(F / "conv.onnx")))
        self.assertIn("why: nothing in this model is quantized", text)

    def test_every_node_has_a_kernel_and_a_fate(self):
        self.quantized()
        shown = json.loads(self.run_program("inspect", "q.onnx", "--explain", "--rules-only",
                                            "--json").stdout)["explain"]
        self.assertEqual(shown["source"], "rules")
        self.assertTrue(shown["why"])
        by_op = {row["op"]: row for row in shown["nodes"]}
        self.assertEqual(by_op["Conv"]["onnxruntime"]["runs"], "integer")
        self.assertEqual(by_op["Conv"]["onnxruntime"]["kernel"], "QLinearConv")
        self.assertEqual(by_op["Conv"]["multiply_adds"], 10 * 28 * 28)
        self.assertTrue(by_op["Conv"]["kernel"])
        self.assertEqual(shown["multiply_adds"]["integer"], shown["multiply_adds"]["total"])

    def test_verify_says_why_above_the_figures(self):
        self.quantized()
        result = self.run_program("verify", F / "conv.onnx", "q.onnx", "--explain", "--rules-only",
                                  "--report", "r.md", "--report", "r.json", "--report", "r.html",
                                  *QUICK)
        self.assertLess(result.stdout.index("why: "), result.stdout.index("latency"))
        self.assertIn("QLinearConv", result.stdout)
        for name in ("r.md", "r.json", "r.html"):
            self.assertIn("QLinearConv", (self.dir / name).read_text())

    def test_a_python_that_was_named_and_is_missing_is_noted(self):
        result = self.run_program("inspect", F / "conv.onnx", "--explain",
                                  env={"COMPRESS_PYTHON": "/no/such/python"})
        self.assertIn("note: explained by rule", result.stdout)
        self.assertIn("/no/such/python", result.stdout)

    def test_a_model_that_does_not_run_here_is_explained_all_the_same(self):
        result = self.run_program("inspect", F / "unsupported.onnx", "--explain", "--rules-only")
        self.assertIn("note: not run here", result.stdout)

    @unittest.skipUnless(ORT, "no Python with onnxruntime")
    def test_onnxruntime_is_asked(self):
        self.quantized()
        shown = json.loads(self.run_program("inspect", "q.onnx", "--explain", "--json",
                                            env={"COMPRESS_PYTHON": ORT}).stdout)
        explain = shown["explain"]
        self.assertTrue(explain["source"].startswith("onnxruntime 1."), explain["source"])
        self.assertEqual(explain["against_rules"], 0)
        conv = [row for row in explain["nodes"] if row["op"] == "Conv"][0]
        self.assertEqual(conv["onnxruntime"]["kernel"], "QLinearConv")


class Engine(Case):
    WORDS = ["verify", F / "conv.onnx", F / "conv.onnx", "--engine", "onnxruntime", "--report",
             "r.json", *QUICK]

    def fake(self, script):
        path = self.dir / "python"
        path.write_text("#!/bin/sh\n" + script)
        path.chmod(0o755)
        return {"COMPRESS_PYTHON": str(path)}

    def refused(self, env, says, *more):
        result = self.run_program(*self.WORDS, *more, expect=1, env=env)
        lines = result.stderr.splitlines()
        self.assertEqual(len(lines), 1, result.stderr)
        self.assertTrue(lines[0].startswith("error: "), lines[0])
        self.assertIn(says, lines[0])
        self.assertEqual(result.stdout, "")
        self.assertFalse((self.dir / "r.json").exists())

    def test_no_python(self):
        self.refused({"COMPRESS_PYTHON": "/no/such/python"}, "COMPRESS_PYTHON")
        self.refused({"COMPRESS_PYTHON": "", "PATH": str(self.dir)}, "python3")

    def test_a_package_that_is_missing_is_named(self):
        (self.dir / "numpy.py").write_text("__version__ = '0'\n")
        (self.dir / "onnxruntime.py").write_text("raise ImportError('no such thing')\n")
        self.refused({"COMPRESS_PYTHON": sys.executable, "PYTHONPATH": str(self.dir)},
                     "no package 'onnxruntime'")

    def test_the_working_folder_is_no_place_for_packages(self):
        (self.dir / "json.py").write_text("open('ran', 'w')\n")
        (self.dir / "onnxruntime.py").write_text("raise ImportError('no such thing')\n")
        subprocess.run([COMPRESS, *map(str, self.WORDS)], cwd=self.dir, check=False, timeout=120,
                       capture_output=True,
                       env={**os.environ, "COMPRESS_PYTHON": sys.executable, "PYTHONPATH": ""})
        self.assertFalse((self.dir / "ran").exists())

    def test_a_child_that_ends_or_hangs_or_talks_nonsense(self):
        self.refused(self.fake("echo oops >&2; exit 7"), "ended with status 7; its last words: oops")
        self.refused(self.fake("kill -9 $$"), "killed by signal 9")
        self.refused(self.fake("read x; echo hello; cat > /dev/null"), "makes no sense")
        env = self.fake(f"echo $$ > '{self.dir}/pid'; exec sleep 1000")
        start = time.monotonic()
        self.refused(env, "no answer within 1 s", "--engine-timeout", "1")
        self.assertLess(time.monotonic() - start, 20)
        pid = int((self.dir / "pid").read_text())
        with self.assertRaises(ProcessLookupError):
            os.kill(pid, 0)

    def test_a_child_ends_with_the_program(self):
        env = self.fake(f"echo $$ > '{self.dir}/pid'; exec sleep 1000")
        process = subprocess.Popen([COMPRESS, *map(str, self.WORDS)], cwd=self.dir,
                                   env={**os.environ, **env}, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        path = self.dir / "pid"
        for _ in range(200):
            if path.exists() and path.read_text().strip():
                break
            time.sleep(0.05)
        process.kill()
        process.wait(10)
        pid = int(path.read_text())
        for _ in range(100):
            try:
                if "\nState:\tZ" in pathlib.Path(f"/proc/{pid}/status").read_text():
                    return
            except OSError:
                return
            time.sleep(0.05)
        self.fail("the child outlived the program")

    @unittest.skipUnless(ORT, "no Python with onnxruntime")
    def test_the_same_comparison(self):
        env = {"COMPRESS_PYTHON": ORT}
        self.run_program("quantize", F / "conv.onnx", "-o", "q.onnx", "--mode", "static", "--data",
                         F / "test.npz", "--no-verify")
        words = ["verify", F / "conv.onnx", "q.onnx", "--data", F / "test.npz", "--gate",
                 "size_ratio<=0.5", *QUICK]
        theirs = self.report(*words, "--engine", "onnxruntime", "--profile", "p.json", "--explain",
                             "--concurrency", 2, env=env)
        ours = self.report(*words)
        self.assertTrue(theirs["engine"].startswith("onnxruntime 1."))
        self.assertEqual(ours["engine"], "compress")
        self.assertEqual(theirs["accuracy"]["samples"], ours["accuracy"]["samples"])
        self.assertAlmostEqual(theirs["accuracy"]["reference"]["top1"],
                               ours["accuracy"]["reference"]["top1"], places=2)
        # Without VNNI its sums of two products saturate: less than what the file says, but not noise.
        self.assertGreater(theirs["similarity"]["outputs"][0]["sqnr_db"], 5)
        for side in ("reference", "candidate"):
            self.assertGreater(theirs["speed"][0][side]["median_ms"], 0)
            self.assertGreater(theirs["resources"][side]["peak_memory_bytes"], 0)
        self.assertEqual(theirs["load"][0]["concurrency"], 2)
        events = json.loads((self.dir / "p.json").read_text())["traceEvents"]
        self.assertIn("QLinearConv", {e.get("cat") for e in events})
        self.assertTrue(theirs["explain"]["source"].startswith("onnxruntime"))

    @unittest.skipUnless(ORT, "no Python with onnxruntime")
    def test_what_it_refuses_is_one_line(self):
        self.one_line("verify", F / "unsupported.onnx", F / "unsupported.onnx", "--engine",
                      "onnxruntime", expect=1, says="NoSuchOperator", env={"COMPRESS_PYTHON": ORT})


class Load(Case):
    def test_batches_and_clients(self):
        report = self.report("verify", F / "conv.onnx", F / "conv.onnx", "--concurrency", 2,
                             "--batch", "1,4", "--report", "r.md", "--time-budget", "1")
        self.assertEqual([row["batch"] for row in report["load"]], [1, 4])
        for row in report["load"]:
            self.assertEqual(row["concurrency"], 2)
            for side in ("reference", "candidate"):
                times = row[side]
                self.assertGreater(times["runs"], 2)
                self.assertLessEqual(times["min_ms"], times["median_ms"])
                self.assertLessEqual(times["median_ms"], times["p90_ms"])
                self.assertLessEqual(times["p90_ms"], times["p99_ms"])
            reference = row["reference"]
            self.assertAlmostEqual(reference["throughput"] * row["seconds"],
                                   reference["runs"] * row["batch"], places=3)
        self.assertIn("Under load", (self.dir / "r.md").read_text())

    def test_a_curve_over_batches_with_data(self):
        result = self.run_program("verify", F / "dense.onnx", F / "dense.onnx", "--data",
                                  F / "test.npz", "--batch", "1,2,8", "--eval-samples", 16,
                                  "--time-budget", "1")
        self.assertIn("under load", result.stdout)

    def test_a_fixed_batch_is_said(self):
        for data in ([], ["--data", F / "test.npz"]):
            self.one_line("verify", F / "fixed.onnx", F / "fixed.onnx", "--batch", "1,4", *data,
                          expect=2, says="fixed to 1 sample")
            self.run_program("verify", F / "fixed.onnx", F / "fixed.onnx", "--batch", 1, *data,
                             "--eval-samples", 4, *QUICK)
        self.one_line("verify", F / "conv.onnx", F / "fixed.onnx", "--batch", 4, expect=2,
                      says="fixed.onnx")


class Manual(Case):
    def complete(self, *words):
        """What bash offers for the last word."""
        script = (f"source <({COMPRESS} completion bash); COMP_WORDS=({' '.join(map(repr, words))}); "
                  f"COMP_CWORD={len(words) - 1}; _compress; printf '%s\\n' \"${{COMPREPLY[@]}}\"")
        return subprocess.run(["bash", "-c", script], cwd=self.dir, capture_output=True, text=True,
                              check=True).stdout.split()

    def test_bash_completes_commands_flags_values_and_files(self):
        self.assertEqual(self.complete("compress", "quan"), ["quantize"])
        self.assertNotIn("measure", self.complete("compress", ""))
        self.assertEqual(self.complete("compress", "quantize", "--mod"), ["--mode"])
        self.assertEqual(self.complete("compress", "prune", "--mod"), [])
        self.assertIn("weight-only", self.complete("compress", "quantize", "--mode", ""))
        self.assertEqual(self.complete("compress", "quantize", "--mode", "st"), ["static"])
        (self.dir / "model.onnx").touch()
        self.assertEqual(self.complete("compress", "inspect", "mod"), ["model.onnx"])

    def test_other_shells_take_their_completions(self):
        for shell, check in (("zsh", ["zsh", "-n"]), ("fish", ["fish", "-n"])):
            text = self.run_program("completion", shell).stdout
            self.assertIn("--require-change" if shell == "zsh" else "-l require-change", text)
            path = self.dir / shell
            path.write_text(text)
            if shutil.which(shell):
                subprocess.run([*check, str(path)], check=True)
            else:
                print(f"skipped: no {shell} to parse its completions")
        self.one_line("completion", "tcsh", expect=2, says="tcsh")

    def test_a_manual_page_for_every_command(self):
        self.run_program("man", "pages")
        pages = sorted(path.name for path in (self.dir / "pages").iterdir())
        self.assertEqual(pages, sorted(["compress.1"] + [f"compress-{name}.1" for name in COMMANDS]))
        for page in pages:
            text = (self.dir / "pages" / page).read_text()
            self.assertTrue(text.startswith(".TH "), page)
            if shutil.which("groff"):
                lint = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", str(self.dir / "pages" / page)],
                                      capture_output=True, text=True, check=True)
                self.assertEqual(lint.stderr, "", page)
        quantize = (self.dir / "pages/compress-quantize.1").read_text()
        self.assertIn(r".B \-o, \-\-output \fIFILE\fR", quantize)
        (self.dir / "file").touch()
        self.one_line("man", "file", expect=1, says="file")


class ContinuousIntegration(Case):
    """The gating lines of examples/ci, run as a runner would."""
    EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"

    def step(self, file):
        lines = [line.strip().removeprefix("- ").removeprefix("run: ")
                 for line in (self.EXAMPLES / "ci" / file).read_text().splitlines()]
        line, = [line for line in lines if line.startswith("examples/ci/gate ")]
        env = {**os.environ, "COMPRESS": COMPRESS, "GITHUB_STEP_SUMMARY": str(self.dir / "summary.md")}
        return subprocess.run(["bash", "-ec", line], cwd=self.dir, env=env, capture_output=True, text=True,
                              check=False, timeout=120)

    def setUp(self):
        super().setUp()
        (self.dir / "examples").symlink_to(self.EXAMPLES)
        (self.dir / "models").mkdir()
        (self.dir / "data").mkdir()
        shutil.copy(F / "conv.onnx", self.dir / "models/classifier.onnx")
        (self.dir / "data/validation.json").write_text(json.dumps({"npz": str(F / "test.npz")}))

    def test_gate_and_baseline(self):
        for file in ("github.yml", "gitlab.yml"):
            result = self.step(file)
            self.assertEqual(result.returncode, 0, result.stderr)
            for name in ("model_int8.onnx", "report.json", "report.md", "report.html", "junit.xml"):
                self.assertTrue((self.dir / "compressed" / name).is_file(), name)
            self.assertIn("top1_drop", (self.dir / "summary.md").read_text())
        # A baseline that was better than this model can be.
        baseline = json.loads((self.dir / "compressed/report.json").read_text())
        shutil.copy(self.dir / "compressed/report.json", self.dir / "baseline.json")
        self.assertEqual(self.step("github.yml").returncode, 0)
        baseline["metrics"]["top1"]["candidate"] = 1.0
        (self.dir / "baseline.json").write_text(json.dumps(baseline))
        self.assertEqual(self.step("github.yml").returncode, 3)


class Profile(Case):
    def events(self, path):
        trace = json.loads((self.dir / path).read_text())
        return [e for e in trace["traceEvents"] if e["ph"] == "X"], [
            e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"]

    def test_verify_traces_both_models(self):
        self.run_program("verify", F / "conv.onnx", F / "dense.onnx", "--profile", "p.json", *QUICK)
        events, names = self.events("p.json")
        self.assertEqual(len(names), 2)
        self.assertTrue(names[0].startswith("reference: ") and names[1].startswith("candidate: "))
        self.assertEqual({e["pid"] for e in events}, {1, 2})
        self.assertIn("Conv", {op for e in events for op in [e["cat"]]})
        for event in events:
            self.assertGreaterEqual(event["ts"], 0)
            self.assertGreater(event["dur"], 0)
            self.assertTrue(event["args"]["kernel"])
            self.assertTrue(event["args"]["outputs"])
        self.assertEqual(self.left(), [])

    def test_infer_traces_one_run(self):
        self.run_program("infer", F / "dense.onnx", "--data", F / "test.npz", "--batch", 16,
                         "--profile", "p.json", "--quiet")
        events, names = self.events("p.json")
        self.assertEqual(len(names), 1)
        self.assertTrue(any("[16,10]" in e["args"]["outputs"] for e in events))


if __name__ == "__main__":
    fashion = "/usr/share/datasets/fashion-mnist"
    if not os.path.isdir(fashion):
        print("Fashion-MNIST is not installed: the classifier is made from seeded images")
    subprocess.run([sys.argv[2], F, fashion], check=True)
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
