"""What the program promises on real models, through the built binary: one function a promise.

    run.py --compress build/bin/compress --shared ../shared [--only REGEX] [--work DIR]

Exits 77 (skipped) where the shared models are missing, 1 where a promise does not hold. Every figure is
printed, whether it passes or not. ONNX Runtime is the second opinion on files and outputs.
"""
import argparse
import collections
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy
import onnx
import onnxruntime

IMAGENET = {"resize": 256, "crop": 224, "color": "rgb", "layout": "nchw", "dtype": "float32"}
FLOAT_MODELS = [
    "ad_autoencoder", "dscnn_kws", "efficientnet_lite0", "magika_v3", "minilm_l6_v2", "mnist_cntk",
    "mobilenet_v1_025_bn", "nanodet_m", "ppocr_v2_cls", "ppocr_v4_rec", "resnet8_cifar10",
    "resnet_large_cifar10", "silero_vad_16k", "squeezenet_fp16", "stories260k", "tiny_random_gpt2",
    "ultraface_rfb", "yunet_n_dynamic",
]
SHAPES = {
    "minilm_l6_v2": ["input_ids:1x64", "attention_mask:1x64", "token_type_ids:1x64"],
    "stories260k": ["input_ids:1x64"],
    "ppocr_v2_cls": ["x:1x3x48x192"],
    "ppocr_v4_rec": ["x:1x3x48x320"],
    "yunet_n_dynamic": ["input:1x3x320x320"],
    "silero_vad_16k": ["input:1x512", "state:2x1x128"],
    "tiny_random_gpt2": ["input_ids:1x8", "position_ids:1x8", "attention_mask:1x16"]
    + [f"past_{i}:2x1x4x8x8" for i in range(5)],
}


class Bench:
    def __init__(self, args):
        self.compress = os.path.abspath(args.compress)
        self.shared = pathlib.Path(args.shared).resolve()
        self.work = pathlib.Path(args.work or tempfile.mkdtemp(prefix="acceptance-"))
        self.work.mkdir(parents=True, exist_ok=True)
        self.failures = []
        self.checks = 0
        images = str(self.shared / "data/imagenet500")
        self.spec("efficientnet", dict(IMAGENET, images=images, labels=images + "/labels.csv",
                                       mean=[127] * 3, std=[128] * 3))
        self.spec("mobilenet", dict(IMAGENET, images=images, labels=images + "/labels.csv",
                                    mean=[127.5] * 3, std=[127.5] * 3))

    def spec(self, name, content):
        (self.work / f"{name}.json").write_text(json.dumps(content))

    def model(self, name):
        return str(self.shared / f"models/{name}.onnx")

    def data(self, name):
        return str(self.shared / "data" / name)

    def run(self, *words, env=None, expect=0):
        command = [self.compress, *map(str, words)]
        start = time.perf_counter()
        usage_before = os.times()
        result = subprocess.run(command, capture_output=True, text=True,
                                env={**os.environ, **(env or {})}, check=False)
        result.seconds = time.perf_counter() - start
        result.cpu = os.times().children_user - usage_before.children_user
        if expect is not None and result.returncode != expect:
            self.fail(f"exit {result.returncode}, not {expect}: {' '.join(command[1:])}\n"
                      f"    {result.stderr.strip()[-600:]}")
        return result

    def report(self, *words, **kwargs):
        path = self.work / "report.json"
        path.unlink(missing_ok=True)
        result = self.run(*words, "--report", path, **kwargs)
        report = json.loads(path.read_text()) if path.exists() else {}
        return report, result

    def fail(self, text):
        self.failures.append(text)
        print(f"  FAIL {text}", flush=True)

    def check(self, holds, text):
        self.checks += 1
        if holds:
            print(f"  ok   {text}", flush=True)
        else:
            self.fail(text)


def dig(report, *keys, default=float("nan")):
    for key in keys:
        if isinstance(report, list):
            report = report[key] if len(report) > key else None
        else:
            report = (report or {}).get(key)
        if report is None:
            return default
    return report


def session(path, optimized=None, level=None, exact=False):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if optimized:
        options.optimized_model_filepath = str(optimized)
    if level is not None:
        options.graph_optimization_level = level
    if exact:  # 32-bit sums on every processor
        options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def random_feed(name, sess, seed=0):
    generator = numpy.random.default_rng(seed)
    shapes = dict(s.split(":") for s in SHAPES.get(name, []))
    feed = {}
    for item in sess.get_inputs():
        dims = ([int(d) for d in shapes[item.name].split("x")] if item.name in shapes
                else [d if isinstance(d, int) and d > 0 else 1 for d in item.shape])
        if "int" in item.type:
            feed[item.name] = (numpy.ones(dims) if "mask" in item.name
                               else numpy.zeros(dims) if "type" in item.name
                               else numpy.full(dims, 16000) if item.name == "sr"
                               else generator.integers(0, 7, dims)).astype(
                                   numpy.int64 if "64" in item.type else numpy.int32)
        else:
            kind = numpy.float16 if "16" in item.type else numpy.float32
            feed[item.name] = generator.standard_normal(dims).astype(kind)
    return feed


def efficientnet_static(b):
    out = b.work / "efficientnet_int8.onnx"
    # Quantizing alone, with its own peak memory; the proof comes after.
    timed = b.run("quantize", b.model("efficientnet_lite0"), "-o", out, "--mode", "static", "--data",
                  b.work / "efficientnet.json", "--samples", 62, "--no-verify", "--force")
    b.check(timed.seconds <= 5, f"efficientnet_lite0 static takes {timed.seconds:.2f} s <= 5")
    report, _ = b.report("quantize", b.model("efficientnet_lite0"), "-o", out, "--mode", "static",
                         "--data", b.work / "efficientnet.json", "--samples", 62, "--force")
    verify, _ = b.report("verify", b.model("efficientnet_lite0"), out, "--data",
                         b.work / "efficientnet.json", "--eval-samples", 500)
    top1 = dig(verify, "accuracy", "candidate", "top1")
    b.check(top1 >= 0.872, f"efficientnet_lite0 int8 top-1 {top1:.4f} >= 0.872 (float "
            f"{dig(verify, 'accuracy', 'reference', 'top1'):.4f})")
    agreement = dig(verify, "similarity", "outputs", 0, "agreement")
    b.check(agreement >= 0.975, f"agreement {agreement:.4f} >= 0.975")
    ratio = dig(report, "candidate", "size_ratio")
    b.check(ratio <= 0.28, f"size ratio {ratio:.3f} <= 0.28")
    peak = dig(report, "peak_memory_bytes") / 1e6
    b.check(peak <= 500, f"peak memory {peak:.0f} MB <= 500")
    optimized = b.work / "optimized.onnx"
    sess = session(out, optimized)
    ops = collections.Counter(n.op_type for n in onnx.load(optimized).graph.node)
    b.check(ops["QLinearConv"] >= 48, f"{ops['QLinearConv']} of 49 Conv run as QLinearConv in ORT")
    # ONNX Runtime's arg-max against ours on the same preprocessed images, summing exactly: without
    # VNNI its default adds pairs of products in 16 bits that saturate (its own quantizer's file falls
    # from 0.99 to 0.88 agreement with float).
    arrays = b.work / "images.npz"
    make_images(b, arrays)
    ours = b.work / "ours.npz"
    b.run("infer", out, "--data", arrays, "-o", ours, "--batch", 20, "--force")
    logits = numpy.load(ours)["logits"]
    images = numpy.load(arrays)["input"]

    def same_top(sess):
        theirs = numpy.concatenate([sess.run(None, {"input": images[i:i + 20]})[0]
                                    for i in range(0, len(images), 20)])
        return (logits.argmax(1) == theirs.argmax(1)).mean()

    same = same_top(session(out, exact=True))
    b.check(same >= 0.99, f"ORT's arg-max agrees with ours on {same:.3f} >= 0.99 of {len(images)} "
            f"({same_top(sess):.3f} with its default sums)")
    for calibrator in ("minmax", "moving-average", "percentile", "entropy", "mse", "balanced"):
        other = b.work / f"eff_{calibrator}.onnx"
        result = b.run("quantize", b.model("efficientnet_lite0"), "-o", other, "--mode", "static",
                       "--data", b.work / "efficientnet.json", "--samples", 62, "--calibrator",
                       calibrator, "--no-verify", "--force")
        b.check(result.seconds <= 5, f"calibrator {calibrator}: {result.seconds:.2f} s <= 5")


def make_images(b, path, count=100):
    from PIL import Image
    folder = b.shared / "data/imagenet500"
    rows = []
    for name in sorted(p.name for p in folder.glob("*.jp*g"))[::5][:count]:
        image = Image.open(folder / name).convert("RGB").resize((256, 256), Image.BILINEAR)
        rows.append((numpy.asarray(image)[16:240, 16:240].transpose(2, 0, 1) - 127.0) / 128.0)
    numpy.savez(path, input=numpy.array(rows, dtype=numpy.float32))


def mobilenet_static(b):
    out = b.work / "mobilenet_int8.onnx"
    b.run("quantize", b.model("mobilenet_v1_025_bn"), "-o", out, "--mode", "static", "--data",
          b.work / "mobilenet.json", "--force", "--no-verify")
    verify, _ = b.report("verify", b.model("mobilenet_v1_025_bn"), out, "--data",
                         b.work / "mobilenet.json", "--eval-samples", 500)
    agreement = dig(verify, "similarity", "outputs", 0, "agreement")
    b.check(agreement >= 0.78, f"mobilenet_v1_025_bn agreement {agreement:.4f} >= 0.78")


def small_static(b):
    for name, data, calibration in (
            ("resnet8_cifar10", "cifar10/test.npz", "cifar10/train.npz"),
            ("resnet_large_cifar10", "cifar10/test.npz", "cifar10/train.npz"),
            ("magika_v3", "magika/files.npz", "magika/files.npz")):
        out = b.work / f"{name}_int8.onnx"
        report, _ = b.report("quantize", b.model(name), "-o", out, "--mode", "static",
                             "--calibration-data", b.data(calibration), "--eval-data", b.data(data),
                             "--eval-samples", 2000, "--force")
        drop = dig(report, "accuracy", "drop", "top1")
        b.check(drop <= 0.01 and report.get("changed"),
                f"{name} static drop {drop:+.4f} <= 0.01, size {dig(report, 'candidate', 'size_ratio'):.2f}, "
                f"speedup {dig(report, 'speed', 0, 'speedup'):.2f}")


def language_models(b):
    stsb = ["--eval-data", b.data("stsb/dev.npz"), "--labels", b.data("stsb/dev_scores.npy"),
            "--eval-samples", 1500]
    for name, flags, bytes_limit, drop_limit in (
            ("int4", ["--mode", "weight-only", "--weights", "int4"], 16e6, 0.01),
            ("dynamic", ["--mode", "dynamic"], 23.5e6, 0.003)):
        out = b.work / f"minilm_{name}.onnx"
        report, _ = b.report("quantize", b.model("minilm_l6_v2"), "-o", out, *flags, *stsb, "--force")
        size = os.path.getsize(out)
        b.check(size <= bytes_limit, f"minilm {name}: {size / 1e6:.2f} MB <= {bytes_limit / 1e6}")
        drop = dig(report, "accuracy", "drop", "spearman")
        b.check(drop <= drop_limit, f"minilm {name}: Spearman drop {drop:+.4f} <= {drop_limit} (float "
                f"{dig(report, 'accuracy', 'reference', 'spearman'):.4f})")
        session(out).run(None, random_feed("minilm_l6_v2", session(out)))
    out = b.work / "stories_int8.onnx"
    report, _ = b.report("quantize", b.model("stories260k"), "-o", out, "--mode", "weight-only",
                         "--weights", "int8", "--eval-data", b.data("tinystories/eval.npz"), "--force")
    before = dig(report, "accuracy", "reference", "perplexity")
    after = dig(report, "accuracy", "candidate", "perplexity")
    b.check(after <= 1.005 * before, f"stories260k int8 perplexity {after:.4f} <= 1.005 x {before:.4f}")


def weights_of(path):
    """Initializers and Constant nodes in weight slots: name -> array (Conv, Gemm, MatMul, ...)."""
    graph = onnx.load(path).graph
    arrays = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            for a in node.attribute:
                if a.name == "value":
                    arrays[node.output[0]] = onnx.numpy_helper.to_array(a.t)
    return graph, arrays


def prune_all(b):
    for name in FLOAT_MODELS:
        for scope in ("layer", "global"):
            out = b.work / f"{name}_pruned.onnx"
            report, result = b.report("prune", b.model(name), "-o", out, "--sparsity", 0.5, "--scope",
                                      scope, "--force", "--no-verify")
            if result.returncode != 0:
                continue
            _, before = weights_of(b.model(name))
            _, after = weights_of(out)
            zeroed = {k for k in before if k in after and before[k].shape == after[k].shape
                      and not numpy.array_equal(before[k], after[k])}
            problems = []
            total, zeros, largest_gone, smallest_kept = 0, 0, 0.0, numpy.inf
            for key in zeroed:
                x, y = numpy.abs(before[key].astype(numpy.float64)), after[key]
                kept = y != 0
                if not numpy.array_equal(before[key][kept], y[kept]):
                    problems.append(f"{key}: kept weights changed")
                gone = x[~kept]
                if scope == "layer" and kept.any() and gone.size and gone.max() > x[kept].min():
                    problems.append(f"{key}: a larger weight went")
                if scope == "layer" and abs((~kept).sum() - 0.5 * x.size) > 1 and (x == 0).sum() <= x.size / 2:
                    problems.append(f"{key}: {(~kept).sum()} of {x.size} are zero")
                total, zeros = total + x.size, zeros + (~kept).sum()
                largest_gone = max(largest_gone, gone.max(initial=0))
                smallest_kept = min(smallest_kept, x[kept].min(initial=numpy.inf))
            if scope == "global" and largest_gone > smallest_kept:
                problems.append("a larger weight went")
            b.check(bool(zeroed) and not problems,
                    f"prune {name} {scope}: {zeros} of {total} zero in {len(zeroed)} tensors "
                    f"{'; '.join(problems[:3])}")
            session(out)


def zoo(b):
    """Every float model through every mode: loads, is no larger, runs, or says that it did nothing."""
    for name in FLOAT_MODELS:
        for mode in ("static", "dynamic", "weight-only"):
            out = b.work / f"{name}_{mode}.onnx"
            shapes = [w for s in SHAPES.get(name, []) for w in ("--input-shape", s)]
            flags = ["--allow-random", "--samples", "8"] if mode == "static" else []
            report, result = b.report("quantize", b.model(name), "-o", out, "--mode", mode, *flags,
                                      *shapes, "--force", "--time-budget", "1")
            if result.returncode != 0 or not report:
                continue
            sess = session(out)
            outputs = sess.run(None, random_feed(name, sess))
            finite = all(numpy.isfinite(o).all() for o in outputs)
            size = os.path.getsize(out) / os.path.getsize(b.model(name))
            says = report["changed"] or "nothing" in result.stderr
            b.check(finite and size <= 1 and says,
                    f"{name} {mode}: size {size:.3f}, changed {report['changed']}, speedup "
                    f"{dig(report, 'speed', 0, 'speedup'):.2f}, finite {finite}")


def killed_batch(b):
    """A zoo with two broken files, by three recipes: killed five times and run again, or in two shards, it ends
    with the bytes of a run that nobody disturbed, within the memory that it was given."""
    folder = b.work / "zoo"
    folder.mkdir(exist_ok=True)
    for path in (b.shared / "models").glob("*.onnx"):
        link = folder / path.name
        if not link.exists():
            link.symlink_to(path)
    (folder / "truncated.onnx").write_bytes((b.shared / "models/resnet8_cifar10.onnx").read_bytes()[:100_000])
    (folder / "page.onnx").write_text("<html>404 not found</html>")
    (b.work / "static.json").write_text('{"schema": "compress.recipe/1", "steps": [{"quantize": {"mode": "static"}}]}')
    (b.work / "pruned.json").write_text('{"schema": "compress.recipe/1", "steps": [{"prune": {"sparsity": 0.5}}]}')
    for name in SHAPES:  # where noise of a guessed size would not fit
        numpy.savez(b.work / f"{name}.npz", **random_feed(name, session(b.model(name))))
    budget = 2 << 30

    def words(out, *more):
        return ["batch", folder, "-o", b.work / out, "--recipe", b.work / "static.json", "--recipe",
                b.work / "pruned.json", "--recipe", "cpu-int4-llm", "--data", b.work / "{stem}.npz", "--allow-random",
                "--samples", 4, "--no-verify", "--workers", 2, "--memory", budget, *more]

    def digests(*outs):
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                for out in outs for path in (b.work / out).glob("*.onnx")}

    for out in ("whole", "killed", "shard1", "shard2", "shards"):
        shutil.rmtree(b.work / out, ignore_errors=True)
    start = time.perf_counter()
    b.run(*words("whole", "--report", b.work / "whole.json"), expect=1)
    seconds = time.perf_counter() - start
    summary = json.loads((b.work / "whole.json").read_text())
    whole = digests("whole")
    statuses = collections.Counter(row["status"] for row in summary["rows"])
    peak = summary.get("peak_memory_bytes", 0)
    b.check(len(summary["rows"]) == 63 and len(whole) == 57, f"{len(whole)} of 57 outputs; {dict(statuses)}")
    b.check(peak <= budget, f"peak memory {peak >> 20} MB of {budget >> 20}")
    generator = numpy.random.default_rng(int(time.time()))
    for wait in generator.uniform(0.02, 0.3, 5) * seconds:
        process = subprocess.Popen([b.compress, *map(str, words("killed"))], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(wait)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(f"  killed after {wait:.1f} s: {len(digests('killed'))} outputs", flush=True)
    b.run(*words("killed"), expect=1)
    b.check(digests("killed") == whole, "killed five times and run again: the same bytes")
    shards = [subprocess.Popen([b.compress, *map(str, words("shards", "--shard", f"{i}/2"))],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for i in (1, 2)]
    codes = [shard.wait() for shard in shards]
    b.check(digests("shards") == whole and set(codes) <= {0, 1}, f"two shards, exit codes {codes}: the same set")


def zeros_stay(b):
    pruned, out = b.work / "p.onnx", b.work / "pq.onnx"
    b.run("prune", b.model("resnet8_cifar10"), "-o", pruned, "--sparsity", 0.5, "--force", "--no-verify")
    b.run("quantize", pruned, "-o", out, "--mode", "static", "--data", b.data("cifar10/train.npz"),
          "--force", "--no-verify")
    zeros = [(a == 0).mean() for k, a in weights_of(out)[1].items() if a.dtype == numpy.int8 and a.size > 64]
    b.check(bool(zeros) and min(zeros) >= 0.499, f"zeros stay zeros: least {min(zeros, default=0):.3f}")


def speed(b):
    vnni = "avx512_vnni" in pathlib.Path("/proc/cpuinfo").read_text()
    for isa, target in ((None, 1.8), ("avx2", 1.2)) if vnni else (("avx2", 1.2),):
        for name, data in (("efficientnet_lite0", b.work / "efficientnet.json"),
                           ("resnet_large_cifar10", b.data("cifar10/train.npz"))):
            out = b.work / f"{name}_speed.onnx"
            env = {"COMPRESS_ISA": isa} if isa else {}
            b.run("quantize", b.model(name), "-o", out, "--mode", "static", "--data", data, "--samples",
                  32, "--no-verify", "--force", env=env)
            for threads in (1, 2):
                report, _ = b.report("verify", b.model(name), out, "--threads", threads, "--data", data,
                                     "--eval-samples", 8, "--time-budget", 10, env=env)
                ratio = dig(report, "speed", 0, "speedup")
                b.check(ratio >= target, f"{name} {isa or 'vnni'} {threads} thread(s): {ratio:.2f}x >= {target}")


def gates_and_errors(b):
    out, report = b.work / "gate.onnx", b.work / "gate.json"
    source = pathlib.Path(b.model("resnet8_cifar10"))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    b.run("quantize", source, "-o", out, "--mode", "static", "--data", b.data("cifar10/train.npz"),
          "--gate", "size_ratio<=0.01", "--report", report, "--force", "--time-budget", "1", expect=3)
    b.check(out.exists() and json.loads(report.read_text())["result"] == "failed",
            "a failed gate leaves output and report")
    truncated, text = b.work / "truncated.onnx", b.work / "absurd.onnx"
    truncated.write_bytes(source.read_bytes()[:5000])
    text.write_bytes(b"<html>404</html>")
    unknown = b.work / "unknown.onnx"
    model = onnx.load(source)
    model.graph.node[0].op_type = "NoSuchOperator"
    model.graph.node[0].domain = "example.org"
    model.opset_import.append(onnx.helper.make_opsetid("example.org", 1))
    onnx.save(model, unknown)
    for bad in (truncated, text, unknown):
        result = b.run("infer", bad, "--data", b.data("cifar10/test.npz"), "-o", b.work / "x.npz",
                       expect=1)
        lines = result.stderr.strip().splitlines()
        b.check(len(lines) == 1 and lines[0].startswith("error: "), f"{bad.name}: {lines[:1]}")
    b.run("quantize", source, "-o", source, "--mode", "weight-only", expect=1)
    b.run("quantize", source, "--no-such-flag", expect=2)
    b.check(hashlib.sha256(source.read_bytes()).hexdigest() == digest, "the input is untouched")


def same_bytes(b):
    def digest(tag, *words, **env):
        out = b.work / f"bytes_{tag}.onnx"
        b.run(*words, "-o", out, "--force", "--no-verify", env=env)
        return hashlib.sha256(out.read_bytes()).hexdigest() if out.exists() else tag

    static = ["quantize", b.model("efficientnet_lite0"), "--mode", "static", "--data",
              b.work / "efficientnet.json", "--samples", 16]
    b.check(len({digest(f"s{i}", *static, "--threads", t) for i, t in enumerate((1, 2, 2))}) == 1,
            "efficientnet_lite0 static: 1 and 2 threads, twice: the same bytes")
    for tag, words in {
            "int4": ["quantize", b.model("minilm_l6_v2"), "--mode", "weight-only"],
            "dynamic": ["quantize", b.model("minilm_l6_v2"), "--mode", "dynamic"],
            "optimize": ["optimize", b.model("mobilenet_v1_025_bn")],
            "prune": ["prune", b.model("resnet8_cifar10"), "--sparsity", 0.5]}.items():
        sums = {digest(f"{tag}_{isa}_{threads}", *words, "--threads", threads, COMPRESS_ISA=isa)
                for isa in ("ref", "avx2") for threads in (1, 2)}
        b.check(len(sums) == 1, f"{tag}: ref and avx2, 1 and 2 threads: the same bytes")


def feeds(b):
    feed = random_feed("silero_vad_16k", session(b.model("silero_vad_16k")))
    numpy.savez(b.work / "silero.npz", **feed)
    b.run("infer", b.model("silero_vad_16k"), "--data", b.work / "silero.npz", "-o",
          b.work / "silero_out.npz", "--force")
    ours = numpy.load(b.work / "silero_out.npz")
    theirs = session(b.model("silero_vad_16k")).run(None, feed)
    error = max(numpy.abs(ours[n] - t).max() for n, t in zip(("output", "stateN"), theirs))
    b.check(error <= 1e-4, f"silero_vad_16k from an .npz with a scalar and a state: error {error:.1e}")
    generator = numpy.random.default_rng(0)
    x = generator.uniform(0, 255, (1000, 32, 32, 3)).astype(numpy.float32)
    numpy.savez(b.work / "thousand.npz", input=x)
    result = subprocess.run(
        ["/usr/bin/env", "bash", "-c", f"ulimit -v 4000000; '{b.compress}' infer "
         f"'{b.model('resnet8_cifar10')}' --data '{b.work}/thousand.npz' -o '{b.work}/thousand_out.npz' "
         "--batch 1000 --force"], check=False)
    ours = numpy.load(b.work / "thousand_out.npz")["output"] if result.returncode == 0 else x
    theirs = session(b.model("resnet8_cifar10")).run(None, {"input": x})[0]
    b.check(ours.shape == theirs.shape and numpy.abs(ours - theirs).max() < 1e-3,
            "a batch of 1,000 samples under 4 GB of address space")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compress", required=True)
    parser.add_argument("--shared", required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--work")
    args = parser.parse_args()
    if not (pathlib.Path(args.shared) / "models").is_dir():
        print(f"skipped: no models under {args.shared}")
        return 77
    bench = Bench(args)
    steps = [gates_and_errors, feeds, efficientnet_static, mobilenet_static, small_static,
             language_models, prune_all, zeros_stay, same_bytes, zoo, killed_batch, speed]
    for step in steps:
        if re.search(args.only, step.__name__):
            print(f"{step.__name__}", flush=True)
            start = time.perf_counter()
            try:
                step(bench)
            except Exception as error:  # noqa: BLE001 - one broken promise must not hide the others
                bench.fail(f"{step.__name__}: {type(error).__name__}: {error}")
            print(f"  ({time.perf_counter() - start:.0f} s)", flush=True)
    print(f"{bench.checks} checks, {len(bench.failures)} failures")
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
