"""Every command of README and the tutorials, as written, on what a fresh machine has.

    docs_test.py SOURCE BUILD SHARED

A command is a line of a code block that starts with "$ ", with the lines that it goes on in. Those of one page run in
one folder, in one shell, in order. Pages of users' files get stand-ins (FILES below); where one of those is not on this
machine, commands that name it are left out, visibly.
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

SOURCE, BUILD, SHARED = (pathlib.Path(word).resolve() for word in sys.argv[1:4])
PAGES = [SOURCE / "README.md", *sorted(SOURCE.glob("docs/tutorials/*.md"))]
FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")
# What a page calls the user's own, and what stands in for it.
FILES = {
    "model.onnx": SOURCE / "examples/fashion_mnist/cnn.onnx",
    "images.json": SOURCE / "examples/fashion_mnist/test.json",
    "llm.onnx": SHARED / "models/stories260k.onnx",
    "llm_eval.npz": SHARED / "data/tinystories/eval.npz",
    "llm_calibration.npz": SHARED / "data/tinystories/calib.npz",
    "minilm_l6_v2.onnx": SHARED / "models/minilm_l6_v2.onnx",
}
# They set the machine up and run this very test.
ELSEWHERE = ("scripts/demo", "scripts/test", "scripts/setup", "scripts/build")


def commands_of(page):
    """(line, command) of the page's blocks."""
    inside, out = False, []
    lines = page.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        if line.startswith("```"):
            inside = not inside
        elif inside and line.startswith("$ "):
            end = number
            while lines[end - 1].endswith("\\"):
                end += 1
            out.append((number, "\n".join(lines[number - 1:end])[2:]))
    return out


def left_out(command, folder):
    """Why the command cannot run here; "" where it can."""
    if command.split()[0] in ELSEWHERE:
        return "it sets the machine up"
    for name, path in FILES.items():
        if re.search(rf"(?<![\w/]){re.escape(name)}", command) and not (folder / name).exists():
            return f"{path} is missing"
    if "fashion_mnist" in command and not FASHION.exists():
        return "Debian's dataset-fashion-mnist is missing"
    return ""


class Commands(unittest.TestCase):
    """A test a page, made below."""

    def run_page(self, page):
        with tempfile.TemporaryDirectory(prefix="compress-docs-") as name:
            folder = pathlib.Path(name)
            (folder / "examples").symlink_to(SOURCE / "examples")
            (folder / "build").symlink_to(BUILD)
            for file, path in FILES.items():
                if path.exists():
                    (folder / file).symlink_to(path)
            script, ran = ["set -e"], 0
            for number, command in commands_of(page):
                reason = left_out(command, folder)
                if reason:
                    print(f"skipped: {page.name}:{number}: {reason}", file=sys.stderr)
                    continue
                ran += 1
                script += [f"echo '== {page.name}:{number}' >&2", command]
            result = subprocess.run(["bash"], input="\n".join(script), cwd=folder, capture_output=True, text=True,
                                    check=False, timeout=300)
            self.assertEqual(result.returncode, 0, result.stdout[-1500:] + result.stderr[-1500:])
            self.check_outputs(page, folder)
            return ran

    def check_outputs(self, page, folder):
        """What the commands say they write is there."""
        for _, command in commands_of(page):
            if left_out(command, folder):
                continue
            for path in re.findall(r"(?:-o|--output|--report) ([\w./]+)", command):
                self.assertTrue((folder / path).exists(), f"{command}: {path}")


def add_page(page):
    def test(self):
        if not self.run_page(page):
            self.skipTest("skipped: nothing of it can run here")
    name = re.sub(r"\W", "_", page.stem)
    setattr(Commands, f"test_{name}", test)


class Links(unittest.TestCase):
    def test_they_lead_somewhere(self):
        for page in [*SOURCE.glob("*.md"), *SOURCE.glob("docs/**/*.md"), *SOURCE.glob("examples/**/*.md")]:
            for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
                if not target.startswith("http"):
                    self.assertTrue((page.parent / target).exists(), f"{page}: {target}")

    def test_commands_are_found(self):
        self.assertGreater(sum(len(commands_of(page)) for page in PAGES), 15)


for each in PAGES:
    if commands_of(each):
        add_page(each)
if __name__ == "__main__":
    os.environ["OMP_WAIT_POLICY"] = "passive"
    unittest.main(argv=sys.argv[:1], verbosity=2)
