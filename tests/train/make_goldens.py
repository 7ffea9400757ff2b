"""Ten training steps of three small networks in PyTorch; writes goldens.h.

Weights, inputs and labels are formulas (pattern() here and in golden_test.cpp), so that only
results are stored. Made with PyTorch 1.13.1 (Debian's python3-torch), float32, CPU:
    /usr/bin/python3 tests/train/make_goldens.py > tests/train/goldens.h
"""
import math

import numpy as np
import torch
import torch.nn.functional as F

torch.set_num_threads(1)


def pattern(shape, seed, scale):
    count = int(np.prod(shape))
    values = [scale * math.sin(0.37 * i * i + 0.73 * i + seed) for i in range(count)]
    return torch.tensor(np.array(values, dtype=np.float32).reshape(shape))


def parameters(shapes):
    return [pattern(s, seed + 1, scale).requires_grad_() for seed, (s, scale) in enumerate(shapes)]


def cnn(p, x):
    y = F.max_pool2d(F.relu(F.conv2d(x, p[0], p[1], padding=1)), 2)
    y = F.max_pool2d(F.relu(F.conv2d(y, p[2], p[3], padding=1)), 2)
    return F.relu(y.flatten(1) @ p[4] + p[5]) @ p[6] + p[7]


def mlp(p, x):
    return F.relu(x @ p[0] + p[1]) @ p[2] + p[3]


def transformer(p, x):
    batch, length, width = x.shape
    heads, depth = 2, width // 2

    def split(y):
        return y.reshape(batch, length, heads, depth).transpose(1, 2)

    n = F.layer_norm(x, (width,), p[0], p[1])
    q, k, v = split(n @ p[2]), split(n @ p[3]), split(n @ p[4])
    a = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(depth), -1) @ v
    x = x + (a.transpose(1, 2).reshape(batch, length, width) @ p[5] + p[6])
    n = F.layer_norm(x, (width,), p[7], p[8])
    x = x + (F.gelu(n @ p[9] + p[10]) @ p[11] + p[12])
    return x.mean(1) @ p[13]


def main():
    one, zero = 1.0, 0.1
    cases = {
        "cnn": (cnn, (8, 1, 12, 12), 10, "adam", 1e-3,
                [((8, 1, 3, 3), .3), ((8,), zero), ((16, 8, 3, 3), .15), ((16,), zero),
                 ((144, 32), .1), ((32,), zero), ((32, 10), .2), ((10,), zero)]),
        "mlp": (mlp, (16, 10), 4, "sgd", 0.1,
                [((10, 20), .3), ((20,), zero), ((20, 4), .3), ((4,), zero)]),
        "transformer": (transformer, (4, 6, 8), 5, "adamw", 1e-2,
                        [((8,), one), ((8,), zero), ((8, 8), .4), ((8, 8), .4), ((8, 8), .4),
                         ((8, 8), .4), ((8,), zero), ((8,), one), ((8,), zero), ((8, 16), .3),
                         ((16,), zero), ((16, 8), .3), ((8,), zero), ((8, 5), .4)]),
    }
    print("// Made by make_goldens.py; not to be edited.\n#pragma once\n\n#include <vector>\n")
    print("namespace compress::test {\n")
    print("struct GoldenGradient {\n  double norm;\n  std::vector<double> first;\n};\n")
    print("struct Golden {\n  const char* name;\n  std::vector<double> losses;\n"
          "  std::vector<GoldenGradient> gradients;\n};\n")
    print("// clang-format off\ninline const std::vector<Golden>& goldens() {\n"
          "  static const std::vector<Golden> all = {")
    for name, (net, shape, classes, optimizer, rate, shapes) in cases.items():
        p = parameters(shapes)
        x = pattern(shape, 0, 1.0)
        label = torch.tensor([(3 * i + i // 4) % classes for i in range(shape[0])])
        make = {"adam": lambda: torch.optim.Adam(p, rate),
                "adamw": lambda: torch.optim.AdamW(p, rate, weight_decay=0.01),
                "sgd": lambda: torch.optim.SGD(p, rate, momentum=0.9, nesterov=True)}
        steps = make[optimizer]()
        losses, gradients = [], []
        for step in range(10):
            steps.zero_grad()
            loss = F.cross_entropy(net(p, x), label)
            loss.backward()
            if step == 0:
                gradients = [(float(q.grad.double().norm()),
                              [float(v) for v in q.grad.flatten()[:4]]) for q in p]
            losses.append(float(loss))
            steps.step()
        print(f'      {{"{name}",\n       {{{", ".join(f"{v:.9g}" for v in losses)}}},\n       {{')
        for norm, first in gradients:
            print(f'        {{{norm:.9g}, {{{", ".join(f"{v:.9g}" for v in first)}}}}},')
        print("       }},")
    print("  };\n  return all;\n}\n// clang-format on\n\n}  // namespace compress::test")


if __name__ == "__main__":
    main()
