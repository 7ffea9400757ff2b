"""Packs the package and its extension module into a wheel: the same input gives the same bytes.

    make_wheel.py VERSION CORE.so FOLDER
"""
import base64
import hashlib
import inspect
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
NAME = "compress_onnx"


def stub(package):
    """The types of the functions, as they say them themselves."""
    lines = ["from os import PathLike", "from typing import Any, Iterable, Literal, Mapping, Optional, Sequence, Union",
             "", "__version__: str", "Model = Union[str, PathLike, bytes, Any]",
             "Data = Union[str, PathLike, Mapping[str, Any], Iterable[Any], Any]", "",
             "class CompressError(Exception):", "    code: str", "", "class Result:", "    model: Union[bytes, str]",
             "    report: dict[str, Any]", "    notes: list[str]", "    def __bytes__(self) -> bytes: ...", "",
             "class GateFailed(CompressError):", "    report: dict[str, Any]", "    result: Optional[Result]", ""]
    own = {"model": "Model", "reference": "Model", "candidate": "Model", "recipe": "Union[str, PathLike, Mapping[str, Any]]",
           "output": "Union[str, PathLike, None]", "data": "Data", "source": "Union[str, PathLike]", "before": "Model",
           "after": "Model"}
    gives = {"calibrate": "Union[bytes, str]", "verify": "dict[str, Any]", "infer": "dict[str, Any]",
             "inspect": "dict[str, Any]", "batch": "dict[str, Any]", "diff": "dict[str, Any]"}
    for name in package.__all__:
        function = getattr(package, name)
        if inspect.isclass(function):
            continue
        words, keywords = [], False
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY and not keywords:
                words, keywords = words + ["*"], True
            note = parameter.annotation
            if parameter.name in own and not isinstance(note, str):
                note = own[parameter.name]
            elif isinstance(note, str):
                note = f"Optional[{note}]"
            else:
                note = re.sub(r"typing\.|os\.", "", str(note))
            default = "" if parameter.default is parameter.empty else " = ..."
            words.append(f"{parameter.name}: {note}{default}")
        lines.append(f"def {name}({', '.join(words)}) -> {gives.get(name, 'Result')}: ...")
    return "\n".join(lines) + "\n"


def record(name, content):
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}\n"


def main(version, core, folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    tag = f"{python}-{python}-{re.sub('[-.]', '_', sysconfig.get_platform())}"
    with tempfile.TemporaryDirectory() as staged:
        package = pathlib.Path(staged) / NAME
        shutil.copytree(HERE / NAME, package, ignore=shutil.ignore_patterns("__pycache__"))
        module = package / pathlib.Path(core).name
        shutil.copy(core, module)
        subprocess.run(["strip", "--strip-unneeded", module], check=True)
        sys.dont_write_bytecode = True
        sys.path.insert(0, staged)
        (package / "__init__.pyi").write_text(stub(__import__(NAME)))
        files = {f"{NAME}/{path.name}": path.read_bytes() for path in sorted(package.iterdir()) if path.is_file()}
    info = f"{NAME}-{version}.dist-info"
    files[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: {NAME.replace('_', '-')}\nVersion: {version}\n"
        "Summary: Makes ONNX models smaller and faster, and proves it\n"
        f"Requires-Python: =={sys.version_info[0]}.{sys.version_info[1]}.*\nRequires-Dist: numpy\n").encode()
    files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: compress\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
    files[f"{info}/RECORD"] = ("".join(record(*row) for row in files.items()) + f"{info}/RECORD,,\n").encode()
    wheel = folder / f"{NAME}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED, 6)
    return wheel.name


if __name__ == "__main__":
    print(main(*sys.argv[1:4]))
