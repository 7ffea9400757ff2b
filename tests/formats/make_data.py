"""Images and arrays that Pillow and NumPy wrote, with what they read back: make_data.py FOLDER"""

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
random = np.random.default_rng(7)
expected = {}


def picture(width, height):
    """Smooth colours, hard edges and a little noise."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 11 + k) * np.cos(y / 17 - k) * 90 + 128 for k in range(3)]
    image = np.stack(waves, -1)
    image[height // 4 : height // 2, width // 3 : width // 2] = (250, 5, 120)
    image[(x // 5 + y // 3) % 9 == 0] *= 0.6
    image += random.normal(0, 6, image.shape)
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))


def add(name, image, **options):
    image.save(out / name, **options)
    expected[name] = np.asarray(Image.open(out / name).convert("RGB"))


def png_16_bit_rgb(name, pixels):
    """Pillow cannot write these, but reads them."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    data += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (out / name).write_bytes(data)
    expected[name] = np.asarray(Image.open(out / name).convert("RGB"))


def preprocess(image, filter):
    width, height = image.size
    short = min(width, height)
    size = tuple(256 if side == short else round(side * 256 / short) for side in (width, height))
    image = image.resize(size, filter)
    left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
    return np.asarray(image.crop((left, top, left + 224, top + 224)))


for width, height in [(320, 213), (180, 300), (500, 375)]:
    for kind in ["png", "jpg"]:
        name = f"photo_{width}x{height}.{kind}"
        add(name, picture(width, height), **({"quality": 90} if kind == "jpg" else {}))
        for filter in [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC]:
            key = f"{filter.name.lower()}/{name}"
            expected[key] = preprocess(Image.open(out / name).convert("RGB"), filter)

small = picture(61, 47)
add("progressive.jpg", small, quality=80, progressive=True)
add("444.jpg", small, quality=95, subsampling=0)
add("grey.jpg", small.convert("L"))
add("cmyk.jpg", small.convert("CMYK"), quality=95)
add("rgba.png", Image.merge("RGBA", (*small.split(), small.split()[0])))
add("grey.png", small.convert("L"))
add("grey_alpha.png", Image.merge("LA", (small.convert("L"), small.split()[1])))
add("one_bit.png", small.convert("1"))
add("palette.png", small.quantize(200))
add("palette_4.png", small.quantize(11), bits=4)
add("palette_clear.png", small.quantize(16), transparency=3)
grey_16 = np.clip(np.asarray(small.convert("L"), np.uint16) * 3, 0, 65535).astype(np.uint16)
add("grey_16.png", Image.fromarray(grey_16))
png_16_bit_rgb("rgb_16.png", np.asarray(small, np.uint16) * 257 - np.asarray(small, np.uint16) // 2)
add("rgb.bmp", small)
add("palette.bmp", small.quantize(40))
add("grey.bmp", small.convert("L"))
np.savez_compressed(out / "expected.npz", **expected)

arrays = {
    "float32": random.normal(size=(3, 4, 5)).astype(np.float32),
    "float16": random.normal(size=(7,)).astype(np.float16),
    "float64": random.normal(size=(2, 3)),
    "int8": random.integers(-128, 128, (5, 1)).astype(np.int8),
    "uint8": random.integers(0, 256, (5, 3)).astype(np.uint8),
    "int16": random.integers(-3000, 3000, (5,)).astype(np.int16),
    "uint16": random.integers(0, 65536, (5,)).astype(np.uint16),
    "int32": random.integers(-(2**31), 2**31, (4, 2)).astype(np.int32),
    "uint32": random.integers(0, 2**32, (4, 2)).astype(np.uint32),
    "int64": random.integers(-(2**62), 2**62, (2, 2, 2)),
    "uint64": random.integers(0, 2**63, (3,)).astype(np.uint64),
    "bool": np.array([True, False, True]),
    "scalar": np.array(2.5, np.float32),
    "empty": np.zeros((0, 3), np.float32),
}
np.savez(out / "stored.npz", **arrays)
np.savez_compressed(out / "deflated.npz", **arrays)
np.savez(out / "swapped.npz", **{k: v.astype(v.dtype.newbyteorder(">")) for k, v in arrays.items()})
np.savez(out / "fortran.npz", **{k: np.asfortranarray(v) for k, v in arrays.items()})
np.save(out / "float32.npy", arrays["float32"])
np.save(out / "text.npy", np.array(["a", "b"]))
np.save(out / "complex.npy", np.array([1j]))
