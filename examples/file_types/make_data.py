"""Copies magika's ONNX model out of its PyPI package and makes a labelled data set for it.

The inputs are real files under a folder (by default what Debian installs), the labels follow from
their extensions. The features are those of magika's own documentation: the first 1024 bytes after
leading white space and the last 1024 before trailing white space, of blocks of 4096 bytes; 256 pads.
"""
import argparse
import json
import os
import pathlib
import shutil

import magika
import numpy

LABELS = {
    ".py": "python", ".pl": "perl", ".pm": "perl", ".sh": "shell", ".c": "c",
    ".hpp": "cpp", ".js": "javascript", ".css": "css", ".html": "html", ".json": "json",
    ".xml": "xml", ".png": "png", ".svg": "svg", ".gz": "gzip", ".pyc": "pythonbytecode",
    ".so": "elf", ".rst": "rst", ".md": "markdown", ".cmake": "cmake",
    ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".ini": "ini", ".ttf": "ttf",
    ".csv": "csv", ".tex": "latex", ".awk": "awk", ".m4": "m4", ".po": "po",
    ".zip": "zip", ".jar": "jar", ".npz": "npz", ".npy": "npy",
}


def features(path, beg=1024, end=1024, block=4096, padding=256):
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(block).lstrip()[:beg]
        file.seek(max(0, size - block))
        tail = file.read(block).rstrip()[-end:]
    return ([*head] + [padding] * (beg - len(head))) + ([padding] * (end - len(tail)) + [*tail])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--per-class", type=int, default=20)
    args = parser.parse_args()

    source = next(pathlib.Path(magika.__file__).parent.glob("models/*/model.onnx"))
    shutil.copyfile(source, args.model)
    classes = json.loads((source.parent / "config.min.json").read_text())["target_labels_space"]

    found = {}
    for root, folders, names in os.walk(args.folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(root, name)
            label = LABELS.get(os.path.splitext(name)[1])
            if label not in classes or len(found.setdefault(label, [])) >= args.per_class:
                continue
            if os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path) >= 64:
                found[label].append(path)
    rows = [(features(path), classes.index(label)) for label in sorted(found) for path in found[label]]
    numpy.savez_compressed(
        args.data,
        bytes=numpy.array([row for row, _ in rows], dtype=numpy.int32),
        label=numpy.array([label for _, label in rows], dtype=numpy.int64),
    )
    print(f"{args.data}: {len(rows)} files of {len([f for f in found.values() if f])} types")


if __name__ == "__main__":
    main()
