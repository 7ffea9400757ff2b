"""What a user gets by installing: the program, the library as find_package(compress), a Debian package.

    packaging_test.py SOURCE BUILD CMAKE
"""
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

SOURCE, BUILD = (pathlib.Path(word).resolve() for word in sys.argv[1:3])
CMAKE = sys.argv[3]
MODEL = SOURCE / "examples/fashion_mnist/cnn.onnx"


class Packaging(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="compress-packaging-")
        cls.addClassCleanup(folder.cleanup)
        cls.dir = pathlib.Path(folder.name)
        cls.prefix = cls.dir / "prefix"
        cls.call(CMAKE, "--install", BUILD, "--prefix", cls.prefix)

    @classmethod
    def call(cls, *words):
        result = subprocess.run([str(word) for word in words], cwd=cls.dir, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise AssertionError(f"{words}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}")
        return result.stdout

    def test_installed_program(self):
        self.assertRegex(self.call(self.prefix / "bin/compress", "--version"), r"^compress \d+\.\d+\.\d+ ")
        page = (self.prefix / "share/man/man1/compress-quantize.1").read_text()
        self.assertIn(r"\-\-mode", page)
        for completion in ("bash-completion/completions/compress", "zsh/vendor-completions/_compress",
                           "fish/vendor_completions.d/compress.fish"):
            self.assertIn("quantize", (self.prefix / "share" / completion).read_text())

    def test_find_package(self):
        build = self.dir / "example"
        self.call(CMAKE, "-S", SOURCE / "examples/library", "-B", build, f"-DCMAKE_PREFIX_PATH={self.prefix}")
        self.call(CMAKE, "--build", build)
        out = self.call(build / "prune_and_compare", MODEL, self.dir / "pruned.onnx")
        self.assertIn("prune_magnitude changed the model", out)
        self.assertRegex(out, r"output 0 differs by at most (0\.\d*[1-9]|\d\.\d+e-0\d)")
        diff = self.call(self.prefix / "bin/compress", "inspect", self.dir / "pruned.onnx", "--json")
        self.assertIn('"sparsity"', diff)

    def fails(self, *words):
        result = subprocess.run([str(word) for word in words], cwd=self.dir, capture_output=True, text=True, check=False)
        self.assertIn(result.returncode, (1, 2), result.stderr)
        line, = result.stderr.splitlines()
        return line

    def test_custom_pass(self):
        """The example, built against what was installed: flags, recipes, help, the report, the same bytes."""
        build = self.dir / "custom_pass"
        self.call(CMAKE, "-S", SOURCE / "examples/custom_pass", "-B", build, f"-DCMAKE_PREFIX_PATH={self.prefix}")
        self.call(CMAKE, "--build", build)
        compress, plugin = self.prefix / "bin/compress", build / "libcustom_pass.so"
        report = self.dir / "report.json"
        flags = ("--plugin", plugin, "--flush-below", "0.01", "--clip-to", "0.5")
        self.call(compress, "optimize", MODEL, "-o", "flags.onnx", *flags, "--report", report, "--time-budget", "0")
        found = json.loads(report.read_text())
        rows = {row["name"]: row for row in found["passes"]}
        digest = hashlib.sha256(plugin.read_bytes()).hexdigest()
        self.assertEqual(rows["flush_small"]["details"]["plugin"],
                         {"name": "custom_pass", "version": "1.0", "sha256": digest})
        self.assertGreater(rows["flush_small"]["details"]["flushed"], 100)
        self.assertTrue(rows["clip_inputs"]["changed"])
        self.assertEqual(found["recipe"]["steps"][0]["optimize"]["clip-to"], 0.5)
        self.assertIn("Clip", self.call(compress, "inspect", "flags.onnx"))
        self.assertIn(digest, (self.dir / "flags.onnx").read_bytes().decode("latin1"))
        self.assertIn("--flush-below", self.call(compress, "optimize", "--help", "--plugin", plugin))

        recipe = self.dir / "recipe.json"
        recipe.write_text(json.dumps({"schema": "compress.recipe/1", "steps": [{"optimize": {"flush-below": 0.01, "clip-to": 0.5}},
                                                {"quantize": {"mode": "dynamic", "op-types": ["Gemm"]}}]}))
        self.call(compress, "run", MODEL, "-o", "int8.onnx", "--recipe", recipe, "--plugin", plugin, "--no-verify")
        self.assertIn("Clip", self.call(compress, "inspect", "int8.onnx"))
        self.assertIn("'flush-below'", self.fails(compress, "run", MODEL, "-o", "no.onnx", "--recipe", recipe))
        # In a batch; a plug-in of other content makes its outputs anew, the same one elsewhere does not.
        zoo = self.dir / "zoo"
        zoo.mkdir()
        shutil.copy(MODEL, zoo / "a.onnx")
        copy = self.dir / "copy.so"

        def batched(path):
            out = self.call(compress, "batch", zoo, "-o", "zoo_out", "--recipe", recipe, "--plugin", path, "--no-verify", "--json")
            row, = json.loads(out)["rows"]
            return row["status"]

        self.assertEqual(batched(plugin), "done")
        self.assertEqual((self.dir / "zoo_out/a_recipe.onnx").read_bytes(), (self.dir / "int8.onnx").read_bytes())
        shutil.copy(plugin, copy)
        self.assertEqual(batched(copy), "kept")
        with open(copy, "ab") as file:
            file.write(b"another build")
        self.assertEqual(batched(copy), "done")
        for threads in (1, 2):
            self.call(compress, "optimize", MODEL, "-o", "again.onnx", *flags, "--no-verify", "--force",
                      "--threads", threads)
            self.assertEqual((self.dir / "again.onnx").read_bytes(), (self.dir / "flags.onnx").read_bytes())
        self.assertIn("clip-to is a positive number", self.fails(compress, "optimize", MODEL, "-o", "no.onnx",
                                                                 "--plugin", plugin, "--clip-to=-1"))

    def test_plugins_that_cannot_be_used(self):
        compress = self.prefix / "bin/compress"
        (self.dir / "text.so").write_text("no library")

        def said_of(plugin):
            return self.fails(compress, "optimize", MODEL, "-o", "no.onnx", "--no-verify", "--plugin", plugin)

        self.assertRegex(said_of("none.so"), "cannot read the plug-in none.so")
        self.assertRegex(said_of("text.so"), "cannot load the plug-in.*text.so")
        for case, expected in {
                0: "exports no compress_plugin_entry", 1: "does not know version 1", 2: "built for version 99.*has version 1",
                3: "holds no passes", 10: "'opset'.*taken", 11: "'much'", 12: "'Bad Name' holds other characters",
                13: "'fold_constants'.*taken", 14: "unknown step 'optimise'.*did you mean 'optimize'",
                15: "'broken' has no function", 20: r"the moon is\\x0ain the wrong place .plug-in broken 1",
                21: "cannot be removed: .* is read", 22: "node 1073741824, which is not there", 23: "cycle",
                24: "size 8, not", 25: "axes that cannot be", 26: "gave no reason", 27: "keep their names"}.items():
            with self.subTest(case=case):
                plugin = self.dir / f"broken{case}.so"
                self.call("cc", "-shared", "-fPIC", f"-DCASE={case}", f"-I{self.prefix}/include/compress",
                          SOURCE / "tests/packaging/broken_plugin.c", "-o", plugin)
                self.assertRegex(said_of(plugin), expected)
        self.assertFalse((self.dir / "no.onnx").exists())

    def test_installed_headers_need_nothing_else(self):
        include = self.prefix / "include/compress"
        headers = sorted(path.relative_to(include) for path in include.rglob("*.h"))
        self.assertGreater(len(headers), 15)
        unit = self.dir / "all.cpp"
        unit.write_text("".join(f'#include "{header}"\n' for header in headers))
        self.call("c++", "-std=c++20", "-fsyntax-only", f"-I{include}", unit)

    @unittest.skipUnless(shutil.which("dpkg-shlibdeps") and shutil.which("file"), "skipped: no dpkg-dev, file")
    def test_debian_package(self):
        self.call(pathlib.Path(CMAKE).with_name("cpack"), "-G", "DEB", "--config", BUILD / "CPackConfig.cmake",
                  "-B", self.dir / "packages")
        package, = (self.dir / "packages").glob("compress-onnx_*.deb")
        fields = self.call("dpkg-deb", "-f", package)
        self.assertRegex(fields, r"(?m)^Depends: .*libdnnl")
        self.assertRegex(fields, r"(?m)^Conflicts: ncompress")
        files = self.call("dpkg-deb", "-c", package)
        for path in ("usr/bin/compress", "share/man/man1/compress.1", "libcompress.so", "compressConfig.cmake"):
            self.assertIn(path, files)
        # MPI is for those who want it.
        self.assertNotRegex(fields + files, "openmpi|libcompress_mpi")
        if (BUILD / "bin/libcompress_mpi.so").exists():
            package, = (self.dir / "packages").glob("compress-onnx-mpi_*.deb")
            self.assertRegex(self.call("dpkg-deb", "-f", package), r"(?m)^Depends: (?=.*libopenmpi)(?=.*compress-onnx \(= )")
            self.assertIn("libcompress_mpi.so", self.call("dpkg-deb", "-c", package))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
