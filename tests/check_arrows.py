"""Greps every #include against the layering of docs/architecture.md; exits 1 naming each breach."""
import pathlib
import re
import sys

# A folder may include itself and what stands before it in its row.
INNER = ["core", "quant", "graph", "kernels", "ops", "runtime", "train", "verify", "report"]
MIDDLE = ["passes", "calibration", "formats"]
# The only places where these libraries' headers may be seen.
CONFINED = {
    r"onnx/|google/protobuf": ("formats/",),
    r"oneapi/|dnnl": ("compress/kernels/dnnl/",),
    r"omp\.h": ("compress/core/parallel.cpp",),
    r"mpi\.h": ("cli/mpi/",),
    r"CLI/": ("cli/",),
    r"zip\.h|jpeglib\.h|png\.h": ("formats/",),
}


def layer(path):
    parts = path.split("/")
    if parts[0] == "compress":
        return ("compress", parts[1] if len(parts) > 2 else "")
    return (parts[0], "")


def allowed(source, target):
    (top, inner), (target_top, target_inner) = layer(source), layer(target)
    if top in ("cli", "tests", "bench", "examples"):
        return True
    if top in MIDDLE:
        return target_top in (top, "compress")
    if target_top != "compress":
        return False
    if target_inner == "" or inner == "":  # error.h, recipe.h
        return True
    return INNER.index(target_inner) <= INNER.index(inner)


def main(root):
    breaches = []
    files = [p for top in ("compress", *MIDDLE, "cli") for p in (root / top).rglob("*")]
    for path in sorted(p for p in files if p.suffix in (".h", ".cpp", ".cu", ".cuh")):
        name = path.relative_to(root).as_posix()
        for line in path.read_text().splitlines():
            match = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
            if not match:
                continue
            bracket, target = match.groups()
            if bracket == '"' and "/" in target and not allowed(name, target):
                breaches.append(f"{name} includes {target}")
            for pattern, homes in CONFINED.items():
                if re.match(pattern, target) and not name.startswith(homes) and bracket == "<":
                    breaches.append(f"{name} includes <{target}>")
    print("\n".join(breaches) or "every include follows the arrows")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
