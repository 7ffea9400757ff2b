"""Cases of make_goldens.py for vision, signals, sequences and statistics: modes and shapes that
ONNX's own node cases leave out. `case` and the makers of arrays are make_goldens.py's."""
import itertools

import numpy as np


def grids(case, rng, f32):
    g = rng("grids")
    for mode, padding, corners in itertools.product(
            ("linear", "nearest", "cubic"), ("zeros", "border", "reflection"), (0, 1)):
        attributes = dict(mode=mode, padding_mode=padding, align_corners=corners)
        name = f"grid_{mode}_{padding}_{corners}"
        # Well inside, near the border and far outside.
        for scale in (0.6, 3.0):
            grid = (g.uniform(-1, 1, (2, 5, 4, 2)) * scale).astype(np.float32)
            case(f"{name}_{scale}", "GridSample", [f32(g, 2, 3, 6, 7), grid], attributes, opset=20)
        if mode != "cubic":
            grid = (g.uniform(-1, 1, (1, 3, 4, 5, 3)) * 1.4).astype(np.float32)
            case(f"{name}_3d", "GridSample", [f32(g, 1, 2, 4, 5, 6), grid], attributes, opset=20)


def detection(case, rng, f32):
    g = rng("detection")
    corners = np.sort(g.uniform(0, 1, (2, 40, 2, 2)), axis=2).reshape(2, 40, 4).astype(np.float32)
    centers = g.uniform(0.2, 1, (2, 40, 4)).astype(np.float32)
    scores = g.uniform(0, 1, (2, 3, 40)).astype(np.float32)
    for center, boxes in ((0, corners), (1, centers)):
        for most, overlap, least in ((5, 0.3, 0.4), (100, 0.6, 0.0), (0, 0.5, 0.5)):
            inputs = [boxes, scores, np.array([most], np.int64), np.array([overlap], np.float32),
                      np.array([least], np.float32)]
            case(f"nms_{center}_{most}", "NonMaxSuppression", inputs, dict(center_point_box=center),
                 opset=11)
    case("nms_defaults", "NonMaxSuppression", [corners, scores], opset=11)
    rois = np.array([[0, 0, 9, 7], [3.3, 2.2, 5.1, 6.4], [-3, -2, 20, 30], [4, 4, 4, 4]], np.float32)
    images = np.array([0, 1, 1, 0], np.int64)
    for mode, transform, ratio in itertools.product(
            ("avg", "max"), ("half_pixel", "output_half_pixel"), (0, 2)):
        case(f"roi_{mode}_{transform}_{ratio}", "RoiAlign", [f32(g, 2, 3, 8, 10), rois, images],
             dict(mode=mode, coordinate_transformation_mode=transform, sampling_ratio=ratio,
                  output_height=3, output_width=2, spatial_scale=0.8), opset=16)
    for groups, offset_groups in ((1, 1), (2, 1), (1, 2), (2, 4)):
        x, w = f32(g, 2, 4, 7, 8), f32(g, 6, 4 // groups, 3, 2)
        taps = offset_groups * 3 * 2
        attributes = dict(group=groups, offset_group=offset_groups, dilations=[2, 1],
                          strides=[2, 2], pads=[1, 0, 0, 1], kernel_shape=[3, 2])
        points = ((7 + 1 - 5) // 2 + 1, (8 + 1 - 2) // 2 + 1)
        case(f"deform_{groups}_{offset_groups}", "DeformConv",
             [x, w, f32(g, 2, 2 * taps, *points), f32(g, 6), f32(g, 2, taps, *points)], attributes,
             opset=19)


def signals(case, rng, f32):
    g = rng("signals")
    for length in (8, 12, 35, 13):
        for inverse, parts in ((0, 1), (0, 2), (1, 2)):
            case(f"dft_{length}_{inverse}_{parts}", "DFT", [f32(g, 2, length, 3, parts)],
                 dict(axis=1, inverse=inverse), opset=17)
        case(f"dft_half_{length}", "DFT", [f32(g, 2, length, 1)], dict(onesided=1), opset=17)
    case("dft_filled_up", "DFT", [f32(g, 2, 10, 1), np.array(15, np.int64)], initializers=(1,),
         opset=17)
    case("dft_cut", "DFT", [f32(g, 2, 10, 2), np.array(7, np.int64)], initializers=(1,), opset=17)
    for onesided, step in itertools.product((0, 1), (3, 8)):
        window = np.hanning(16).astype(np.float32)
        case(f"stft_{onesided}_{step}", "STFT",
             [f32(g, 2, 61, 1), np.array(step, np.int64), window, np.array(16, np.int64)],
             dict(onesided=onesided), initializers=(1, 3), opset=17)
    numbers = [np.array(v, np.int64) for v in (10, 64, 16000)]
    edges = [np.array(v, np.float32) for v in (20.0, 7000.0)]
    case("mel", "MelWeightMatrix", numbers + edges, initializers=(0, 1, 2, 3, 4), opset=17)


def rearrangements(case, rng, f32):
    g = rng("rearrangements")
    ints = g.integers(0, 4, (3, 5, 2)).astype(np.int64)
    for axis, in_order in itertools.product((None, 0, 1, -1), (0, 1)):
        attributes = dict(sorted=in_order)
        if axis is not None:
            attributes["axis"] = axis
        case(f"unique_{axis}_{in_order}", "Unique", [ints], attributes, outputs=4)
        case(f"unique_float_{axis}_{in_order}", "Unique", [(ints % 2).astype(np.float32)],
             attributes, outputs=4)
    lengths = np.array([4, 1, 2], np.int64)
    case("reverse_batch_first", "ReverseSequence", [f32(g, 3, 4, 5), lengths],
         dict(batch_axis=0, time_axis=1))
    case("reverse_time_first", "ReverseSequence", [f32(g, 4, 3, 5), lengths],
         dict(batch_axis=1, time_axis=0))
    case("col2im_overlapping", "Col2Im",
         [f32(g, 2, 3 * 6, 15), np.array([6, 7], np.int64), np.array([3, 2], np.int64)],
         dict(pads=[1, 0, 0, 0], strides=[1, 2], dilations=[1, 2]), initializers=(1, 2), opset=18)
    case("det_batch", "Det", [f32(g, 2, 3, 5, 5)], opset=11)
    pooled = g.permutation(2 * 3 * 4 * 6)[:2 * 3 * 2 * 3].reshape(2, 3, 2, 3).astype(np.int64)
    case("unpool", "MaxUnpool", [f32(g, 2, 3, 2, 3), pooled], dict(kernel_shape=[2, 2],
                                                                 strides=[2, 2]))
    case("batch_norm_training", "BatchNormalization",
         [f32(g, 3, 4, 5, 2), f32(g, 4), f32(g, 4), f32(g, 4), np.abs(f32(g, 4))],
         dict(training_mode=1, momentum=0.8), outputs=3, opset=15)


def special(case, rng, f32):
    for family in (grids, detection, signals, rearrangements):
        family(case, rng, f32)
