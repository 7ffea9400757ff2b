"""What a user gets by installing: the program, the library as find_package(compress), a Debian package.

    packaging_test.py SOURCE BUILD CMAKE
"""
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
        package, = (self.dir / "packages").glob("*.deb")
        fields = self.call("dpkg-deb", "-f", package)
        self.assertRegex(fields, r"(?m)^Depends: .*libdnnl")
        self.assertRegex(fields, r"(?m)^Conflicts: ncompress")
        files = self.call("dpkg-deb", "-c", package)
        for path in ("usr/bin/compress", "share/man/man1/compress.1", "libcompress.so", "compressConfig.cmake"):
            self.assertIn(path, files)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
