"""Models of one compressed node each, in both engines: what our kernels are worth against ONNX
Runtime's, layout changes and the quantization of activations included.

    nodes.py [--threads N] [--seconds S] [--filter TEXT] BENCH_ENGINE

Prints bench_engine's table, one row a node. MatMulNBits has accuracy level 4 (int8 activations).
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

SHAPES = [(1, 4096, 4096), (16, 768, 3072), (128, 768, 768), (512, 3072, 768)]
TYPES = {"u8": (numpy.uint8, TensorProto.UINT8, 128), "s8": (numpy.int8, TensorProto.INT8, 0)}
# name, channels in, out, groups, kernel, stride, input size, nodes one after the other: depthwise layers
# take as long as bringing an image into their layout, which models do at their edges only
CONVOLUTIONS = [
    ("1x1_256_64", 256, 64, 1, 1, 1, 56, 1), ("3x3_64_64", 64, 64, 1, 3, 1, 56, 1),
    ("3x3_256_256", 256, 256, 1, 3, 1, 14, 1), ("first_7x7_3_64", 3, 64, 1, 7, 2, 224, 1),
    ("first_3x3_3_32", 3, 32, 1, 3, 2, 224, 1), ("dw3x3_32", 32, 32, 32, 3, 1, 112, 8),
    ("dw3x3_144", 144, 144, 144, 3, 1, 56, 8), ("dw3x3_s2_96", 96, 96, 96, 3, 2, 112, 1),
    ("dw3x3_384", 384, 384, 384, 3, 1, 14, 8), ("dw5x5_672", 672, 672, 672, 5, 1, 14, 8)]


def write(folder, name, nodes, inputs, outputs, weights):
    graph = helper.make_graph(nodes, name, inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / f"{name}.onnx")


def constant(name, values, dtype=None):
    return numpy_helper.from_array(numpy.asarray(values, dtype), name)


def block_product(folder, random, shape, bits, block):
    m, k, n = shape
    blocks = k // block
    write(folder, f"matmul_{bits}bit_{block}_{m}x{k}x{n}",
          [helper.make_node("MatMulNBits", ["x", "w", "scales"], ["y"], domain="com.microsoft", K=k, N=n,
                            bits=bits, block_size=block, accuracy_level=4)],
          [helper.make_tensor_value_info("x", TensorProto.FLOAT, [m, k])],
          [helper.make_tensor_value_info("y", TensorProto.FLOAT, [m, n])],
          [constant("w", random.integers(0, 256, (n, blocks, block * bits // 8), numpy.uint8)),
           constant("scales", random.uniform(0.01, 0.02, n * blocks), numpy.float32)])


def linear_product(folder, random, shape, a, b):
    m, k, n = shape
    numpy_type, _, zero = TYPES[b]
    low, high = (0, 256) if b == "u8" else (-128, 128)
    write(folder, f"qlinear_{a}{b}_{m}x{k}x{n}",
          [helper.make_node("QLinearMatMul", ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy"], ["y"])],
          [helper.make_tensor_value_info("x", TYPES[a][1], [m, k])],
          [helper.make_tensor_value_info("y", TYPES[a][1], [m, n])],
          [constant("w", random.integers(low, high, (k, n)), numpy_type),
           constant("zw", zero, numpy_type), constant("sw", 0.01, numpy.float32),
           constant("sx", 0.02, numpy.float32), constant("zx", TYPES[a][2], TYPES[a][0]),
           constant("sy", 0.5, numpy.float32), constant("zy", TYPES[a][2], TYPES[a][0])])


def convolution(folder, random, name, channels, outputs, groups, kernel, stride, size, count):
    pad, out = kernel // 2, (size + 2 * (kernel // 2) - kernel) // stride + 1
    shape = (outputs, channels // groups, kernel, kernel)
    quantities = ["s", "z", "w", "sw", "zw", "s", "z", "bias"]
    nodes = [helper.make_node("QLinearConv", [f"x{i}", *quantities], [f"x{i + 1}"], group=groups,
                              kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)
             for i in range(count)]
    write(folder, f"conv_{name}@{size}" + (f"_x{count}" if count > 1 else ""), nodes,
          [helper.make_tensor_value_info("x0", TensorProto.UINT8, [1, channels, size, size])],
          [helper.make_tensor_value_info(f"x{count}", TensorProto.UINT8, [1, outputs, out, out])],
          [constant("w", random.integers(-127, 128, shape), numpy.int8),
           constant("sw", random.uniform(0.01, 0.02, outputs), numpy.float32),
           constant("zw", numpy.zeros(outputs), numpy.int8),
           constant("bias", random.integers(-500, 500, outputs), numpy.int32),
           constant("s", 0.02, numpy.float32), constant("z", 128, numpy.uint8)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", default="1")
    parser.add_argument("--seconds", default="3")
    parser.add_argument("--filter", default="")
    parser.add_argument("engine")
    options = parser.parse_args()
    random = numpy.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for shape in SHAPES:
            for bits, block in ((4, 32), (4, 128), (8, 32)):
                block_product(folder, random, shape, bits, block)
            for a, b in (("u8", "s8"), ("u8", "u8"), ("s8", "s8")):
                linear_product(folder, random, shape, a, b)
        for case in CONVOLUTIONS:
            convolution(folder, random, *case)
        models = [str(path) for path in sorted(folder.iterdir()) if options.filter in path.name]
        return subprocess.run([options.engine, "--threads", options.threads, "--seconds", options.seconds,
                               "--python", sys.executable, *models], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
