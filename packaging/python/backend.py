"""What pip asks for a wheel: CMake builds it (PEP 517; nothing is downloaded).

COMPRESS_BUILD names a build folder to use; build/wheel otherwise.
"""
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    build = pathlib.Path(os.environ.get("COMPRESS_BUILD", ROOT / "build/wheel"))
    dist = build / "packaging/python/dist"
    shutil.rmtree(dist, ignore_errors=True)
    if not (build / "CMakeCache.txt").exists():
        subprocess.run(["cmake", "-S", ROOT, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
                        "-DCOMPRESS_TESTS=OFF"], check=True)
    subprocess.run(["cmake", "-DCOMPRESS_PYTHON=ON", f"-DPython_EXECUTABLE={sys.executable}", build], check=True)
    subprocess.run(["cmake", "--build", build, "--target", "wheel"], check=True)
    wheel, = dist.glob("*.whl")
    shutil.copy(wheel, wheel_directory)
    return wheel.name
