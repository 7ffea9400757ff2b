"""The HTML pages in a real browser: nothing is loaded, nothing complains, a phone can show them.

    pages_test.py COMPRESS MAKE_FIXTURES

Needs Debian's chromium. With COMPRESS_SCREENSHOTS=FOLDER pictures of the pages are kept there.
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import chromium  # noqa: E402

COMPRESS, MAKE_FIXTURES = (os.path.abspath(word) for word in sys.argv[1:3])
SCREENSHOTS = os.environ.get("COMPRESS_SCREENSHOTS")
# Elements that are wider than the window, though none of their parents scrolls. (innerWidth grows with them.)
OVERFLOWING = """(width => [...document.querySelectorAll('body *')].filter(e => {
    if (e.getBoundingClientRect().right <= width + 1) return false;
    for (let p = e; p; p = p.parentElement) if (getComputedStyle(p).overflowX == 'auto') return false;
    return true;}).map(e => e.outerHTML.slice(0, 120)))"""


def make_pages(folder):
    def compress(*words, expect=(0,)):
        result = subprocess.run([COMPRESS, *map(str, words)], cwd=folder, capture_output=True, text=True, check=False)
        assert result.returncode in expect, (words, result.stderr[-800:])

    (folder / "fixtures").mkdir()
    subprocess.run([MAKE_FIXTURES, "fixtures", "/usr/share/datasets/fashion-mnist"], cwd=folder, check=True)
    quick = ("--time-budget", "0.3", "--force")
    data = ("--data", "fixtures/test.npz")
    model = "fixtures/conv.onnx"
    compress("quantize", model, "-o", "int8.onnx", "--mode", "static", *data, "--samples", "64", "--report",
             "a.json", "--report", "quantize.html", "--gate", "top1_drop<=5%", "--gate", "size_ratio<=0.01", *quick,
             expect=(3,))
    compress("prune", model, "-o", "pruned.onnx", "--sparsity", "0.6", *data, "--report", "b.json", "--report",
             "prune.html", *quick)
    compress("distill", model, "--teacher", model, "-o", "trained.onnx", "--epochs", "2", "--train-data",
             "fixtures/test.npz", "--eval-data", "fixtures/test.npz", "--report", "distill.html", *quick)
    compress("sensitivity", model, *data, "--eval-samples", "20", "--report", "sensitivity.html")
    compress("quantize", model, "-o", "mixed.onnx", "--max-drop", "1%", *data, "--eval-samples", "60", "--budget",
             "10s", "--report", "search.html", *quick)
    compress("verify", model, "int8.onnx", *data, "--explain", "--rules-only", "--concurrency", "2", "--report",
             "verify.html", "--time-budget", "0.5")
    compress("report", "a.json", "b.json", "-o", "history.html")
    (folder / "list.txt").write_text("fixtures/conv.onnx\nfixtures/dense.onnx\nmissing.onnx\n")
    compress("batch", "list.txt", "-o", "out", "--recipe", "cpu-int4-llm", "--no-verify", "--report", "batch.html",
             expect=(1,))


@unittest.skipUnless(chromium.PROGRAM, "skipped: no chromium")
class Pages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="compress-pages-")
        cls.addClassCleanup(folder.cleanup)
        cls.dir = pathlib.Path(folder.name)
        make_pages(cls.dir)
        cls.pages = sorted(cls.dir.glob("*.html"))
        cls.browser = chromium.Chromium()
        cls.addClassCleanup(cls.browser.close)

    def complaints(self, events):
        out = []
        for event in events:
            method, params = event.get("method"), event.get("params", {})
            if method in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
                out.append(str(params)[:300])
            if method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(("file:", "data:")):
                out.append(params["request"]["url"])
        return out

    def test_they_show_on_desktop_and_phone(self):
        self.assertEqual(len(self.pages), 8)
        for page in self.pages:
            for width, dark in ((1280, False), (1280, True), (400, False)):
                with self.subTest(page=page.name, width=width, dark=dark):
                    events = self.browser.open(page, width, dark)
                    self.assertEqual(self.complaints(events), [])
                    self.assertLessEqual(self.browser.evaluate("document.documentElement.scrollWidth"), width)
                    self.assertEqual(self.browser.evaluate(f"{OVERFLOWING}({width})"), [])
                    ink, paper = (self.browser.evaluate(f"getComputedStyle(document.body).{what}")
                                  for what in ("color", "backgroundColor"))
                    self.assertEqual(sum(map(int, re.findall(r"\d+", ink)[:3])) > 380, dark, ink)
                    self.assertEqual(sum(map(int, re.findall(r"\d+", paper)[:3])) > 380, not dark, paper)
                    if SCREENSHOTS:
                        name = f"{page.stem}-{width}{'-dark' if dark else ''}.png"
                        self.browser.screenshot(pathlib.Path(SCREENSHOTS) / name)

    def test_text_in_plots_stays_inside_and_readable(self):
        inside = """[...document.querySelectorAll('svg.plot text')].filter(t => {
            const a = t.getBoundingClientRect(), b = t.ownerSVGElement.getBoundingClientRect();
            return a.left < b.left - 2 || a.right > b.right + 2 || a.height < 9;}).map(t => t.outerHTML)"""
        for page in self.pages:
            with self.subTest(page=page.name):
                self.browser.open(page, 400)
                self.assertEqual(self.browser.evaluate(inside), [])

    def test_printed_on_white_with_everything_unfolded(self):
        self.browser.open(self.dir / "quantize.html", 1280, dark=True, media="print")
        self.assertEqual(self.browser.evaluate("getComputedStyle(document.body).backgroundColor"), "rgb(255, 255, 255)")
        self.assertGreater(self.browser.evaluate("document.querySelector('pre').getBoundingClientRect().height"), 50)

    def test_a_page_that_asks_for_something_is_noticed(self):
        bad = self.dir / "bad.htm"
        bad.write_text("<!doctype html><meta name='viewport' content='width=device-width'><img src='http://127.0.0.1:9/x.png'><script>console.error('no')</script>"
                       "<div style='width:700px'>wide</div>")
        events = self.browser.open(bad, 400)
        self.assertGreaterEqual(len(self.complaints(events)), 2)
        self.assertEqual(len(self.browser.evaluate(f"{OVERFLOWING}(400)")), 1)
        self.assertGreater(self.browser.evaluate("document.documentElement.scrollWidth"), 400)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
