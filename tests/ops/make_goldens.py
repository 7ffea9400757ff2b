#!/usr/bin/env python3
"""Writes single-node models, inputs and ONNX Runtime's outputs for ops_golden_test.

    make_goldens.py FOLDER          the layout is that of ONNX's node tests, and a file `bound` beside it

Floats may differ by 1e-4 of the largest output. Quantized operators may differ by one step where ONNX
Runtime rounds a product of scales in float32 and we round it once from float64.
"""
import os
import shutil
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from goldens_special import special

MS = "com.microsoft"
ROOT = ""
SKIPPED = []


def rng(name):
    return np.random.default_rng(abs(hash_of(name)))


def hash_of(name):
    value = 2166136261
    for byte in name.encode():
        value = (value ^ byte) * 16777619 % (1 << 32)
    return value


def proto_of(array, name):
    if isinstance(array, TensorProto):
        copy = TensorProto()
        copy.CopyFrom(array)
        copy.name = name
        return copy
    return numpy_helper.from_array(np.array(array, order="C"), name)


def case(name, op, inputs, attributes=None, domain="", outputs=1, opset=17, bound="relative 1e-4",
         initializers=()):
    """inputs: arrays; None is omitted. outputs: a count, or a list of bools (False: omitted)."""
    flags = [True] * outputs if isinstance(outputs, int) else outputs
    names = ["" if array is None else f"x{i}" for i, array in enumerate(inputs)]
    protos = {n: proto_of(a, n) for n, a in zip(names, inputs) if n}
    out_names = [f"y{i}" if flag else "" for i, flag in enumerate(flags)]
    node = helper.make_node(op, names, out_names, domain=domain, **(attributes or {}))
    fixed = [names[i] for i in initializers]
    graph_inputs = [helper.make_tensor_value_info(n, p.data_type, list(p.dims))
                    for n, p in protos.items() if n not in fixed]
    graph = helper.make_graph(
        [node], name, graph_inputs,
        [helper.make_empty_tensor_value_info(n) for n in out_names if n],
        [protos[n] for n in fixed])
    model = helper.make_model(graph, ir_version=10, opset_imports=[
        helper.make_opsetid("", opset), helper.make_opsetid(MS, 1)])
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options,
                                       providers=["CPUExecutionProvider"])
        feeds = {n: ort.OrtValue.ortvalue_from_numpy(numpy_helper.to_array(p))
                 for n, p in protos.items() if n not in fixed}
        results = session.run(None, {n: v.numpy() for n, v in feeds.items()})
    except Exception as error:  # what this version of the runtime cannot do is named, not hidden
        SKIPPED.append(f"{name}: {str(error).splitlines()[0][:150]}")
        return
    del graph.output[:]
    for n, array in zip([n for n in out_names if n], results):
        graph.output.append(helper.make_tensor_value_info(
            n, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape))
    model = helper.make_model(graph, ir_version=10, opset_imports=model.opset_import)
    folder = os.path.join(ROOT, name)
    os.makedirs(os.path.join(folder, "test_data_set_0"))
    onnx.save(model, os.path.join(folder, "model.onnx"))
    feeds = [p for n, p in protos.items() if n not in fixed]
    for kind, items in (("input", feeds), ("output", [proto_of(r, "y") for r in results])):
        for i, item in enumerate(items):
            path = os.path.join(folder, "test_data_set_0", f"{kind}_{i}.pb")
            with open(path, "wb") as file:
                file.write(item.SerializeToString())
    with open(os.path.join(folder, "bound"), "w") as file:
        file.write(bound + "\n")


def f32(generator, *shape, scale=1.0):
    return (generator.standard_normal(shape) * scale).astype(np.float32)


def u8(generator, *shape):
    return generator.integers(0, 256, shape).astype(np.uint8)


def weights_s8(generator, *shape):
    """Of 7 bits: on AVX2 the runtime adds pairs of u8 x s8 products in 16 bits, which saturates."""
    return generator.integers(-63, 64, shape).astype(np.int8)


def s8(generator, *shape):
    return generator.integers(-127, 128, shape).astype(np.int8)


def scalar(value, dtype=np.float32):
    return np.array(value, dtype)


def convolutions():
    for name, shape, weights, attributes in (
            ("same_upper", (2, 3, 11, 9), (6, 3, 3, 3), dict(auto_pad="SAME_UPPER", strides=[2, 2])),
            ("same_lower", (2, 3, 11, 9), (6, 3, 4, 2), dict(auto_pad="SAME_LOWER", strides=[2, 3])),
            ("valid", (1, 3, 11, 9), (5, 3, 3, 2), dict(auto_pad="VALID", dilations=[2, 3])),
            ("depthwise", (2, 6, 13, 17), (6, 1, 3, 3), dict(group=6, pads=[1, 1, 1, 1])),
            ("grouped", (1, 8, 7, 7), (12, 2, 3, 3), dict(group=4, pads=[2, 0, 1, 3],
                                                         dilations=[2, 1])),
            ("pointwise", (2, 24, 40, 40), (19, 24, 1, 1), {}),
            ("one_dimension", (2, 4, 50), (6, 4, 5), dict(pads=[2, 2], strides=[3])),
            ("three_dimensions", (1, 2, 6, 7, 8), (4, 2, 3, 2, 3), dict(pads=[1, 0, 1, 0, 1, 1])),
            ("columns", (2, 6, 40, 1), (5, 6, 5, 1), dict(pads=[2, 0, 1, 0])),
            ("strided_columns", (1, 4, 40, 1), (5, 4, 3, 1), dict(strides=[2, 1])),
            ("wide", (1, 2, 3, 2500), (5, 2, 3, 3), dict(pads=[1, 1, 1, 1]))):
        g = rng("conv" + name)
        x, w, b = f32(g, *shape), f32(g, *weights), f32(g, weights[0])
        case(f"conv_{name}", "Conv", [x, w, b], attributes)
    for name, shape, weights, attributes in (
            ("plain", (2, 4, 5, 6), (4, 3, 3, 3), dict(strides=[2, 2], pads=[1, 1, 1, 1])),
            ("output_padding", (1, 4, 5, 6), (4, 3, 3, 3), dict(strides=[3, 2],
                                                              output_padding=[1, 1])),
            ("output_shape", (1, 2, 5, 5), (2, 3, 3, 3), dict(strides=[2, 2],
                                                            output_shape=[10, 11])),
            ("same_upper", (1, 2, 5, 5), (2, 3, 4, 3), dict(strides=[2, 2], auto_pad="SAME_UPPER")),
            ("same_lower", (1, 2, 5, 5), (2, 3, 4, 4), dict(strides=[2, 3], auto_pad="SAME_LOWER")),
            ("grouped", (1, 6, 5, 4), (6, 2, 3, 3), dict(group=3, dilations=[2, 1])),
            ("one_dimension", (1, 2, 9), (2, 3, 4), dict(strides=[3]))):
        g = rng("transpose" + name)
        channels = weights[1] * attributes.get("group", 1)
        case(f"conv_transpose_{name}", "ConvTranspose",
             [f32(g, *shape), f32(g, *weights), f32(g, channels)], attributes)
    g = rng("fused_conv")
    x, w, b = f32(g, 1, 3, 8, 8), f32(g, 4, 3, 3, 3), f32(g, 4)
    for activation, parameters in (("Relu", None), ("LeakyRelu", [0.2]), ("Clip", [0.0, 1.5]),
                                   ("HardSigmoid", [0.2, 0.4]), ("Sigmoid", None), ("Tanh", None)):
        attributes = dict(activation=activation, pads=[1, 1, 1, 1])
        if parameters:
            attributes["activation_params"] = parameters
        case(f"fused_conv_{activation.lower()}", "FusedConv", [x, w, b], attributes, MS)
    case("fused_conv_sum", "FusedConv", [x, w, b, f32(g, 1, 4, 8, 8)],
         dict(activation="Relu", pads=[1, 1, 1, 1]), MS)
    case("conv_integer", "ConvInteger", [u8(g, 2, 3, 9, 8), u8(g, 5, 3, 3, 3), scalar(117, np.uint8),
                                         scalar(120, np.uint8)],
         dict(pads=[1, 1, 0, 0], strides=[2, 1]), initializers=(1, 2, 3))


def pools():
    g = rng("pools")
    x = f32(g, 2, 3, 13, 11)
    for op in ("MaxPool", "AveragePool"):
        for name, attributes in (
                ("ceil", dict(kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)),
                ("pads", dict(kernel_shape=[3, 2], strides=[2, 1], pads=[1, 1, 0, 0])),
                ("dilated", dict(kernel_shape=[3, 2], dilations=[2, 3], pads=[1, 0, 1, 1])),
                ("same", dict(kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"))):
            case(f"{op.lower()}_{name}", op, [x], attributes, opset=19)
    case("averagepool_count", "AveragePool", [x],
         dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1), opset=11)
    # With ceil_mode and count_include_pad the runtime keeps windows that begin behind the input, which
    # ONNX drops; here none does.
    case("averagepool_count_ceil", "AveragePool", [x],
         dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1,
              ceil_mode=1), opset=19)
    for dtype in (u8, s8):
        case(f"maxpool_{dtype.__name__}", "MaxPool", [dtype(g, 1, 2, 9, 9)],
             dict(kernel_shape=[3, 3], strides=[2, 2]), opset=12)
    case("maxpool_indices", "MaxPool", [x], dict(kernel_shape=[3, 3], strides=[2, 2]), outputs=2)
    case("maxpool_three", "MaxPool", [f32(g, 1, 2, 6, 7, 8)],
         dict(kernel_shape=[2, 3, 2], strides=[2, 2, 1]), outputs=2)
    case("lppool", "LpPool", [x], dict(kernel_shape=[3, 3], p=3, strides=[2, 2]))
    for op in ("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"):
        case(op.lower(), op, [x])


def products():
    g = rng("products")
    for i, (a, b) in enumerate((((5, 7), (7, 9)), ((7,), (7, 9)), ((5, 7), (7,)), ((7,), (7,)),
                                ((3, 1, 5, 7), (2, 7, 600)), ((2, 3, 37, 65), (2, 3, 65, 1)),
                                ((1, 640), (640, 128)))):
        case(f"matmul_{i}", "MatMul", [f32(g, *a), f32(g, *b)])
    for i, attributes in enumerate((dict(), dict(transA=1), dict(transB=1, alpha=0.5),
                                    dict(transA=1, transB=1, beta=2.0))):
        a = f32(g, *((7, 5) if attributes.get("transA") else (5, 7)))
        b = f32(g, *((9, 7) if attributes.get("transB") else (7, 9)))
        for j, c in enumerate((None, (9,), (5, 1), (5, 9), (1,))):
            case(f"gemm_{i}_{j}", "Gemm", [a, b] + ([f32(g, *c)] if c else []), attributes)
    case("matmul_integer_rows", "MatMulInteger",
         [u8(g, 5, 7), weights_s8(g, 7, 9), scalar(120, np.uint8), s8(g, 9)], initializers=(1, 2, 3))
    case("fused_matmul", "FusedMatMul", [f32(g, 2, 7, 5), f32(g, 2, 9, 7)],
         dict(transA=1, transB=1, alpha=0.25), MS)
    for i, (equation, shapes) in enumerate((
            ("bhid,bhjd->bhij", ((2, 3, 5, 4), (2, 3, 6, 4))), ("ij,jk", ((3, 4), (4, 5))),
            ("...ij,...jk->...ik", ((2, 1, 3, 4), (6, 4, 5))), ("ii->i", ((4, 4),)),
            ("ij->", ((3, 4),)), ("b i , b j , j -> b", ((2, 3), (2, 4), (4,))),
            ("...ij->...ji", ((2, 3, 4),)), ("bi,oi->ob", ((3, 7), (5, 7))))):
        case(f"einsum_{i}", "Einsum", [f32(g, *shape) for shape in shapes],
             dict(equation=equation))
    a, b = u8(g, 6, 40), weights_s8(g, 40, 24)
    scales = np.abs(f32(g, 24, scale=0.01)) + 0.001
    bias = f32(g, 24)
    case("matmul_integer_to_float", "MatMulIntegerToFloat",
         [a, b, scalar(0.02), scales, scalar(113, np.uint8), s8(g, 24), bias], domain=MS)
    case("matmul_integer_to_float_plain", "MatMulIntegerToFloat",
         [a, b, scalar(0.02), scalar(0.01)], domain=MS)
    x = f32(g, 3, 6, 40)
    case("dynamic_quantize_matmul", "DynamicQuantizeMatMul",
         [x, b, scales, np.zeros(24, np.int8), bias], domain=MS, initializers=(1, 2, 3, 4))
    case("dynamic_quantize_matmul_u8", "DynamicQuantizeMatMul",
         [x, u8(g, 40, 24), scalar(0.01), scalar(121, np.uint8)], domain=MS,
         initializers=(1, 2, 3))
    one = "steps 1"
    case("qlinear_matmul", "QLinearMatMul",
         [a, scalar(0.02), scalar(113, np.uint8), b, scalar(0.01), scalar(3, np.int8), scalar(0.05),
          scalar(99, np.uint8)], bound=one)
    case("qlinear_matmul_columns", "QLinearMatMul",
         [a, scalar(0.02), scalar(113, np.uint8), b, scales, np.zeros(24, np.int8), scalar(0.05),
          scalar(99, np.uint8)], bound=one, initializers=(3, 4, 5))
    c = g.integers(-5000, 5000, (24,)).astype(np.int32)
    for trans in (0, 1):
        weights = np.ascontiguousarray(b.T) if trans else b
        case(f"qgemm_{trans}", "QGemm",
             [a, scalar(0.02), scalar(113, np.uint8), weights, scales, np.zeros(24, np.int8), c,
              scalar(0.05), scalar(99, np.uint8)], dict(transB=trans), MS, bound=one)
    case("qgemm_float", "QGemm", [a, scalar(0.02), scalar(113, np.uint8), b, scalar(0.01),
                                  scalar(0, np.int8), c], domain=MS)


def norms():
    g = rng("norms")
    x = f32(g, 2, 6, 5, 4)
    case("batchnorm", "BatchNormalization",
         [x, f32(g, 6), f32(g, 6), f32(g, 6), np.abs(f32(g, 6)) + 0.1], opset=9)
    case("instancenorm", "InstanceNormalization", [x, f32(g, 6), f32(g, 6)], dict(epsilon=1e-3))
    case("layernorm", "LayerNormalization", [x, f32(g, 5, 4), f32(g, 5, 4)], dict(axis=2), outputs=3)
    case("layernorm_plain", "LayerNormalization", [f32(g, 3, 384), f32(g, 384)])
    case("simplified", "SimplifiedLayerNormalization", [f32(g, 3, 384), f32(g, 384)],
         dict(epsilon=1e-5))
    case("lrn", "LRN", [x], dict(size=3, alpha=0.01, beta=0.6, bias=1.5))
    case("lpnorm", "LpNormalization", [x], dict(axis=1, p=1))
    case("lpnorm2", "LpNormalization", [x], dict(axis=-1, p=2))


def recurrences():
    steps, batch, inputs, hidden = 5, 3, 4, 6
    for op, gates in (("RNN", 1), ("GRU", 3), ("LSTM", 4)):
        for direction in ("forward", "reverse", "bidirectional"):
            d = 2 if direction == "bidirectional" else 1
            for variant in ("plain", "states", "lengths", "clip", "activations", "coupled"):
                g = rng(op + direction + variant)
                attributes = dict(hidden_size=hidden, direction=direction)
                args = [f32(g, steps, batch, inputs), f32(g, d, gates * hidden, inputs, scale=0.5),
                        f32(g, d, gates * hidden, hidden, scale=0.5),
                        f32(g, d, 2 * gates * hidden), None]
                if variant == "lengths":
                    args[4] = np.array([5, 2, 3], np.int32)
                if variant in ("states", "lengths"):
                    args.append(f32(g, d, batch, hidden))
                    if op == "LSTM":
                        args += [f32(g, d, batch, hidden), f32(g, d, 3 * hidden)]
                if variant == "clip":
                    attributes["clip"] = 0.7
                if variant == "coupled":
                    if op == "RNN":
                        continue
                    key = "linear_before_reset" if op == "GRU" else "input_forget"
                    attributes[key] = 1
                if variant == "activations":
                    names = {"RNN": ["LeakyRelu"], "GRU": ["HardSigmoid", "Affine"],
                             "LSTM": ["HardSigmoid", "LeakyRelu", "ScaledTanh"]}[op]
                    alphas = {"RNN": [0.3], "GRU": [0.25, 0.8], "LSTM": [0.25, 0.3, 0.9]}[op]
                    betas = {"RNN": [], "GRU": [0.4, 0.1], "LSTM": [0.4, 1.1]}[op]
                    attributes["activations"] = names * d
                    attributes["activation_alpha"] = alphas * d
                    if betas:
                        attributes["activation_beta"] = betas * d
                case(f"{op.lower()}_{direction}_{variant}", op, args, attributes,
                     outputs=3 if op == "LSTM" else 2, opset=14)


def quantized_recurrences():
    """States are quantized anew at each step, so a last bit that differs can move one of 255 levels."""
    steps, batch, inputs, hidden = 5, 3, 6, 8
    for direction in ("forward", "bidirectional"):
        d = 2 if direction == "bidirectional" else 1
        for kind in ("tensor", "channel", "unsigned"):
            g = rng("quantized" + direction + kind)
            scales = (d, 4 * hidden) if kind == "channel" else (d,)
            weights = u8 if kind == "unsigned" else weights_s8
            dtype = np.uint8 if kind == "unsigned" else np.int8

            def scale():
                return (np.abs(f32(g, *scales)) * 0.002 + 0.004).astype(np.float32)
            zero = np.full(scales, 128 if kind == "unsigned" else 0, dtype)
            args = [f32(g, steps, batch, inputs), weights(g, d, inputs, 4 * hidden),
                    weights(g, d, hidden, 4 * hidden), f32(g, d, 8 * hidden), None,
                    f32(g, d, batch, hidden, scale=0.3), f32(g, d, batch, hidden), None,
                    scale(), zero, scale(), zero]
            case(f"dynamic_quantize_lstm_{direction}_{kind}", "DynamicQuantizeLSTM", args,
                 dict(hidden_size=hidden, direction=direction), domain=MS, outputs=3,
                 bound="relative 4e-3", initializers=(1, 2, 8, 9, 10, 11))


def quantization():
    g = rng("quantization")
    x = f32(g, 3, 8, 10, scale=40.0)
    scales = np.abs(f32(g, 8)) + 0.1
    for dtype in (np.uint8, np.int8, np.uint16, np.int16):
        name = np.dtype(dtype).name
        zero = scalar(np.iinfo(dtype).max // 2, dtype)
        zeros = np.full(8, 3, dtype)
        for domain in ("", MS):
            prefix = "ms_" if domain else ""
            opset = 21 if not domain else 17
            case(f"{prefix}quantize_{name}", "QuantizeLinear", [x, scalar(0.37), zero],
                 domain=domain, opset=opset)
            case(f"{prefix}quantize_axis_{name}", "QuantizeLinear", [x, scales, zeros],
                 dict(axis=1), domain, opset=opset)
            q = g.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (3, 8, 10)).astype(dtype)
            case(f"{prefix}dequantize_{name}", "DequantizeLinear", [q, scalar(0.37), zero],
                 domain=domain, opset=opset)
            case(f"{prefix}dequantize_axis_{name}", "DequantizeLinear", [q, scales, zeros],
                 dict(axis=1), domain, opset=opset)
    blocks = np.abs(f32(g, 3, 3, 10)) + 0.1
    case("quantize_blocked", "QuantizeLinear", [x, blocks, u8(g, 3, 3, 10)],
         dict(axis=1, block_size=3), opset=21)
    case("dequantize_blocked", "DequantizeLinear", [u8(g, 3, 8, 10), blocks, u8(g, 3, 3, 10)],
         dict(axis=1, block_size=3), opset=21)
    for dtype in (TensorProto.INT4, TensorProto.UINT4):
        name = TensorProto.DataType.Name(dtype).lower()
        low = -8 if dtype == TensorProto.INT4 else 0
        values = g.integers(low, low + 16, (5, 7))
        zeros = g.integers(low, low + 16, (5,))
        args = [helper.make_tensor("x", dtype, (5, 7), values.flatten()), np.abs(f32(g, 5)) + 0.1,
                helper.make_tensor("z", dtype, (5,), zeros.flatten())]
        case(f"dequantize_{name}", "DequantizeLinear", args, dict(axis=0), opset=21,
             initializers=(0, 1, 2))
        args[1] = np.abs(f32(g, 2, 7)) + 0.1
        args[2] = helper.make_tensor("z", dtype, (2, 7), g.integers(low, low + 16, 14))
        case(f"dequantize_blocked_{name}", "DequantizeLinear", args, dict(axis=0, block_size=3),
             opset=21, initializers=(0, 1, 2))
    case("dequantize_int32", "DequantizeLinear",
         [g.integers(-10**6, 10**6, (4, 5)).astype(np.int32), scalar(0.01)], opset=13)
    case("dynamic_quantize", "DynamicQuantizeLinear", [x], outputs=3)
    case("dynamic_quantize_positive", "DynamicQuantizeLinear", [np.abs(x) + 3], outputs=3)
    for kind, weights, zero in (("tensor", u8, scalar(131, np.uint8)), ("signed", weights_s8, None)):
        w = weights(g, 6, 3, 3, 3)
        per_channel = kind == "signed"
        w_scale = np.abs(f32(g, 6, scale=0.02)) + 0.002 if per_channel else scalar(0.013)
        w_zero = np.zeros(6, np.int8) if per_channel else zero
        bias = g.integers(-3000, 3000, (6,)).astype(np.int32)
        case(f"qlinear_conv_{kind}", "QLinearConv",
             [u8(g, 2, 3, 12, 11), scalar(0.021), scalar(123, np.uint8), w, w_scale, w_zero,
              scalar(0.07), scalar(101, np.uint8), bias], dict(pads=[1, 1, 1, 1], strides=[2, 1]),
             bound="steps 1", initializers=(1, 2, 3, 4, 5, 6, 7, 8))


def quantized_elementwise():
    g = rng("elementwise")
    one = "steps 1"
    for kind, make, dtype in (("u8", u8, np.uint8), ("s8", s8, np.int8)):
        zero = 120 if kind == "u8" else -7
        for op in ("QLinearAdd", "QLinearMul"):
            for shape in ((2, 5, 6), (6,), (2, 1, 6), (1,)):
                case(f"{op.lower()}_{kind}_{len(shape)}_{shape[0]}_{np.prod(shape)}", op,
                     [make(g, 2, 5, 6), scalar(0.031), scalar(zero, dtype), make(g, *shape),
                      scalar(0.012), scalar(zero + 3, dtype), scalar(0.05), scalar(zero - 5, dtype)],
                     domain=MS, bound=one)
        y = [scalar(0.04), scalar(zero, dtype)]
        args = y + [make(g, 2, 3, 4), scalar(0.03), scalar(zero + 9, dtype), make(g, 2, 5, 4),
                    scalar(0.04), scalar(zero, dtype)]
        case(f"qlinearconcat_{kind}", "QLinearConcat", args, dict(axis=1), MS, bound=one)
        x = [make(g, 2, 3, 9, 8), scalar(0.05), scalar(zero, dtype)]
        out = [scalar(0.03), scalar(zero + 2, dtype)]
        case(f"qlinear_global_average_pool_{kind}", "QLinearGlobalAveragePool", x + out,
             dict(channels_last=0), MS, bound=one)
        case(f"qlinear_average_pool_{kind}", "QLinearAveragePool", x + out,
             dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), MS, bound=one)
        case(f"qlinear_average_pool_count_{kind}", "QLinearAveragePool", x + out,
             dict(kernel_shape=[2, 3], strides=[2, 2], pads=[0, 1, 1, 1], count_include_pad=1), MS,
             bound=one)
        low = [scalar(1 / 256), scalar(0 if kind == "u8" else -128, dtype)]
        case(f"qlinear_sigmoid_{kind}", "QLinearSigmoid", x + low, domain=MS, bound=one)
        case(f"qlinear_leaky_relu_{kind}", "QLinearLeakyRelu", x + out, dict(alpha=0.2), MS,
             bound=one)
        for axis, opset in ((-1, 13), (1, 13), (1, 11)):
            case(f"qlinear_softmax_{kind}_{axis}_{opset}", "QLinearSoftmax", x + low,
                 dict(axis=axis, opset=opset), MS, bound=one)


def pack(codes, bits):
    """Codes along the last axis to bytes, low bits first; the last byte is filled with zeros."""
    per = 8 // bits
    rest = -codes.shape[-1] % per
    codes = np.concatenate([codes, np.zeros(codes.shape[:-1] + (rest,), codes.dtype)], -1)
    grouped = codes.reshape(codes.shape[:-1] + (-1, per)).astype(np.uint8)
    shifts = (np.arange(per) * bits).astype(np.uint8)
    return np.bitwise_or.reduce(grouped << shifts, -1).astype(np.uint8)


def weight_only():
    for bits in (2, 4, 8):
        for block, k in ((16, 80), (32, 96), (128, 200)):
            g = rng(f"nbits{bits}{block}")
            n = 13
            blocks = -(-k // block)
            b = u8(g, n, blocks, block * bits // 8)
            scales = np.abs(f32(g, n, blocks, scale=0.1)) + 0.01
            a = f32(g, 2, 3, k)
            packed = pack(g.integers(0, 1 << bits, (n, blocks)), bits)
            floats = f32(g, n, blocks) * (1 << (bits - 2)) + (1 << (bits - 1))
            bias = f32(g, n)
            attributes = dict(K=k, N=n, bits=bits, block_size=block)
            fixed = (1, 2, 3, 5)
            for name, args in (("plain", [a, b, scales]), ("zero", [a, b, scales, packed]),
                               ("float_zero", [a, b, scales, floats]),
                               ("bias", [a, b, scales, packed, None, bias])):
                keep = tuple(i for i in fixed if i < len(args))
                case(f"nbits_{bits}_{block}_{name}", "MatMulNBits", args, attributes, MS,
                     initializers=keep)
                if name in ("plain", "zero"):
                    # Both round A to int8 by block; a tie that falls the other way moves an output
                    # by 1/127 of one product. For 2 bits the runtime stays with floats.
                    case(f"nbits_{bits}_{block}_{name}_level4", "MatMulNBits", args,
                         dict(attributes, accuracy_level=4), MS, initializers=keep,
                         bound="relative 1e-2" if bits == 2 else "relative 2e-3")
    for bits in (4, 8):
        for block, width in ((16, 80), (32, 96)):
            g = rng(f"gather{bits}{block}")
            blocks = -(-width // block)
            data = u8(g, 11, width * bits // 8)
            scales = np.abs(f32(g, 11, blocks)) + 0.01
            zero = pack(g.integers(0, 1 << bits, (11, blocks)), bits)
            for dtype in (np.int32, np.int64):
                indices = np.array([[3, 0, 10], [7, 7, 1]], dtype)
                attributes = dict(bits=bits, block_size=block, gather_axis=0, quantize_axis=1)
                name = f"gather_{bits}_{block}_{np.dtype(dtype).name}"
                case(name, "GatherBlockQuantized", [data, indices, scales], attributes, MS,
                     initializers=(0, 2))
                case(name + "_zero", "GatherBlockQuantized", [data, indices, scales, zero],
                     attributes, MS, initializers=(0, 2, 3))
    for dtype in (TensorProto.INT4, TensorProto.UINT4):
        for axis in (0, 1, 2):
            g = rng(f"gather4{dtype}{axis}")
            low = -8 if dtype == TensorProto.INT4 else 0
            shape = (20, 33, 18)
            rows = list(shape)
            rows[axis] = -(-shape[axis] // 16)
            data = helper.make_tensor("d", dtype, shape, g.integers(low, low + 16, np.prod(shape)))
            zero = helper.make_tensor("z", dtype, rows, g.integers(low, low + 16, np.prod(rows)))
            name = TensorProto.DataType.Name(dtype).lower()
            case(f"gather_{name}_{axis}", "GatherBlockQuantized",
                 [data, np.array([5, 2, 0], np.int64), np.abs(f32(g, *rows)) + 0.01, zero],
                 dict(block_size=16, gather_axis=1 if axis != 1 else 0, quantize_axis=axis), MS,
                 initializers=(0, 2, 3))


def attentions():
    batch, steps, heads, size, width = 2, 5, 3, 8, 20
    hidden = heads * size
    for unidirectional in (0, 1):
        for past in (0, 4):
            total = past + steps
            for mask in ("none", "raw", "lengths", "ends", "three", "dummy"):
                name = f"attention_{unidirectional}_{past}_{mask}"
                g = rng(name)
                masks = {"none": None, "lengths": np.array([total, total - 2], np.int32),
                         "ends": np.array([total, total - 1, 0, 1], np.int32),
                         "dummy": np.ones((batch, 1), np.int32),
                         "raw": (g.random((batch, total)) > 0.3).astype(np.int32),
                         "three": (g.random((batch, steps, total)) > 0.3).astype(np.int32)}
                state = f32(g, 2, batch, heads, past, size) if past else None
                args = [f32(g, batch, steps, width), f32(g, width, 3 * hidden, scale=0.4),
                        f32(g, 3 * hidden), masks[mask]]
                if past:
                    args.append(state)
                case(name, "Attention", args,
                     dict(num_heads=heads, unidirectional=unidirectional), MS,
                     outputs=2 if past else 1)
    g = rng("attention_sizes")
    case("attention_sizes", "Attention",
         [f32(g, batch, steps, width), f32(g, width, 2 * hidden + 12), f32(g, 2 * hidden + 12)],
         dict(num_heads=heads, qkv_hidden_sizes=[hidden, hidden, 12], scale=0.3), MS)
    case("attention_bias", "Attention",
         [f32(g, batch, steps, width), f32(g, width, 3 * hidden), f32(g, 3 * hidden), None, None,
          f32(g, 1, heads, steps, steps)], dict(num_heads=heads), MS)
    case("attention_present", "Attention",
         [f32(g, batch, steps, width), f32(g, width, 3 * hidden), f32(g, 3 * hidden)],
         dict(num_heads=heads, unidirectional=1), MS, outputs=2)
    q, k, v = (f32(g, batch, n, hidden) for n in (steps, 7, 7))
    case("mha", "MultiHeadAttention", [q, k, v], dict(num_heads=heads), MS)
    case("mha_bias", "MultiHeadAttention", [q, k, v, f32(g, 3 * hidden)],
         dict(num_heads=heads, scale=0.2), MS)
    case("mha_values", "MultiHeadAttention", [q, k, f32(g, batch, 7, 15)], dict(num_heads=heads), MS)
    case("mha_mask", "MultiHeadAttention",
         [q, k, v, None, (g.random((batch, 7)) > 0.3).astype(np.int32)], dict(num_heads=heads), MS)
    case("mha_lengths", "MultiHeadAttention", [q, k, v, None, np.array([7, 3], np.int32)],
         dict(num_heads=heads), MS)
    case("mha_attention_bias", "MultiHeadAttention",
         [q, k, v, None, None, f32(g, batch, heads, steps, 7)], dict(num_heads=heads), MS)
    past = [f32(g, batch, heads, 4, size) for _ in range(2)]
    own = [f32(g, batch, steps, hidden) for _ in range(2)]
    case("mha_past", "MultiHeadAttention", [q, own[0], own[1], None, None, None] + past,
         dict(num_heads=heads, unidirectional=1), MS, outputs=3)
    case("mha_cross", "MultiHeadAttention",
         [q, f32(g, batch, heads, 6, size), f32(g, batch, heads, 6, size)], dict(num_heads=heads),
         MS)
    group_query()


def group_query():
    heads, kv, size = 6, 2, 16
    g = rng("group_query")
    angles = f32(g, 32, size // 2)
    tables = [np.cos(angles), np.sin(angles)]
    attributes = dict(num_heads=heads, kv_num_heads=kv)

    def add(name, steps, past, lengths, packed=False, more=(), **own):
        batch, total = len(lengths), past + steps
        rows = heads + (2 * kv if packed else 0)
        args = [f32(g, batch, steps, rows * size)]
        args += [None, None] if packed else [f32(g, batch, steps, kv * size) for _ in range(2)]
        args += [f32(g, batch, kv, past, size) for _ in range(2)] if past else [None, None]
        args += [np.array(lengths, np.int32) - 1, np.array([total], np.int32)]
        args += tables if own.get("do_rotary") else [None, None]
        case("gqa_" + name, "GroupQueryAttention", args + list(more), {**attributes, **own}, MS,
             outputs=3)

    add("prompt", 5, 0, [5, 5])
    add("prompt_rotary", 5, 0, [5, 5], do_rotary=1)
    add("prompt_packed", 5, 0, [5, 5], packed=True, do_rotary=1, rotary_interleaved=1)
    add("step", 1, 6, [7, 7], do_rotary=1)
    add("step_uneven", 1, 6, [7, 4], do_rotary=1, scale=0.2)
    add("chunk", 3, 6, [9], do_rotary=1)
    add("window", 5, 0, [5, 5], local_window_size=2)
    add("window_step", 1, 6, [7, 7], local_window_size=3, softcap=2.0)
    add("long", 130, 0, [130, 130])
    add("long_window", 130, 0, [130], local_window_size=9)
    add("uncapped", 3, 4, [7], softcap=0.0)
    add("bias", 3, 4, [7], more=[None, f32(g, 1, heads, 3, 7)])
    add("positions", 3, 4, [7], do_rotary=1, more=[np.array([[9, 3, 4]], np.int64)])


def transformer_pieces():
    g = rng("pieces")
    batch, steps, n = 2, 6, 24
    x, skip = f32(g, batch, steps, n), f32(g, batch, steps, n)
    gamma, beta, bias = f32(g, n), f32(g, n), f32(g, n)
    every = [True, False, False, True]
    case("skip_layer_norm", "SkipLayerNormalization", [x, skip, gamma, beta, bias],
         dict(epsilon=1e-5), MS, outputs=every)
    case("skip_layer_norm_plain", "SkipLayerNormalization", [x, skip, gamma], {}, MS)
    case("skip_layer_norm_broadcast", "SkipLayerNormalization", [x, f32(g, steps, n), gamma, beta],
         {}, MS)
    case("skip_layer_norm_one", "SkipLayerNormalization", [x, f32(g, 1, steps, n), gamma, beta], {},
         MS)
    case("skip_rms_norm", "SkipSimplifiedLayerNormalization", [x, skip, gamma, bias],
         dict(epsilon=1e-5), MS, outputs=every)
    for op, args in (("FastGelu", [x]), ("FastGelu", [x, bias]), ("Gelu", [x]),
                     ("BiasGelu", [x, bias]), ("QuickGelu", [x])):
        case(f"{op.lower()}_{len(args)}", op, args, {}, MS)
    case("quickgelu_alpha", "QuickGelu", [x], dict(alpha=1.1), MS)
    ids = g.integers(0, 30, (batch, steps)).astype(np.int32)
    segments = g.integers(0, 2, (batch, steps)).astype(np.int32)
    mask = np.array([[1] * 6, [1] * 4 + [0] * 2], np.int32)
    words, positions, types = f32(g, 30, n), f32(g, 10, n), f32(g, 2, n)
    case("embed", "EmbedLayerNormalization",
         [ids, segments, words, positions, types, gamma, beta, mask], dict(epsilon=1e-5), MS,
         outputs=3)
    case("embed_plain", "EmbedLayerNormalization",
         [ids, None, words, positions, None, gamma, beta], {}, MS, outputs=2)
    case("embed_positions", "EmbedLayerNormalization",
         [ids, None, words, positions, None, gamma, beta, None,
          g.integers(0, 10, (batch, steps)).astype(np.int64).astype(np.int32)], {}, MS, outputs=2)
    heads, size = 3, 8
    caches = [f32(g, 12, size // 2), f32(g, 12, size // 2)]
    where = g.integers(0, 12, (batch, steps)).astype(np.int64)
    for interleaved in (0, 1):
        attributes = dict(interleaved=interleaved)
        case(f"rotary_{interleaved}", "RotaryEmbedding", [x, where] + caches, attributes, MS)
        case(f"rotary_offset_{interleaved}", "RotaryEmbedding",
             [x, np.array([2], np.int64)] + caches, attributes, MS)
        case(f"rotary_heads_{interleaved}", "RotaryEmbedding",
             [f32(g, batch, heads, steps, size), where] + caches, attributes, MS)
        part = [c[:, :2].copy() for c in caches]
        case(f"rotary_part_{interleaved}", "RotaryEmbedding", [x, where] + part,
             dict(attributes, num_heads=heads, rotary_embedding_dim=4), MS)


def main():
    global ROOT
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    ROOT = sys.argv[1]
    shutil.rmtree(ROOT, ignore_errors=True)
    os.makedirs(ROOT)
    for family in (convolutions, pools, products, norms, recurrences, quantized_recurrences, quantization,
                   quantized_elementwise, weight_only, attentions, transformer_pieces):
        family()
    special(case, rng, f32)
    print(f"{len(os.listdir(ROOT))} cases in {ROOT}")
    for line in SKIPPED:
        print("not done by this runtime:", line)


if __name__ == "__main__":
    main()
