// NonMaxSuppression and RoiAlign.
#include <algorithm>
#include <cmath>

#include "compress/ops/special_families.h"
#include "compress/ops/support.h"
#include "compress/ops/typed.h"

namespace compress {
namespace {

using ops::label;
using ops::row;
using ops::sizing_row;

// --- NonMaxSuppression ---------------------------------------------------------------------------

struct Box {
  float x0, y0, x1, y1;
  float area() const { return (x1 - x0) * (y1 - y0); }
};

Box read_box(const float* at, bool center) {
  if (center) {  // x, y, width, height
    return {at[0] - at[2] / 2, at[1] - at[3] / 2, at[0] + at[2] / 2, at[1] + at[3] / 2};
  }
  // y, x of any two opposite corners
  return {std::min(at[1], at[3]), std::min(at[0], at[2]), std::max(at[1], at[3]),
          std::max(at[0], at[2])};
}

// True where intersection over union is strictly above the threshold.
bool overlaps(const Box& a, const Box& b, float threshold) {
  const float width = std::min(a.x1, b.x1) - std::max(a.x0, b.x0);
  const float height = std::min(a.y1, b.y1) - std::max(a.y0, b.y0);
  if (!(width > 0) || !(height > 0)) return false;
  const float shared = width * height;
  const float all = a.area() + b.area() - shared;
  if (!(a.area() > 0) || !(b.area() > 0) || !(all > 0)) return false;
  return shared / all > threshold;
}

struct Suppression {
  int64_t batch, classes, boxes;
  bool center;
};

struct Thresholds {
  int64_t most = 0;  // boxes of a class in an image
  float overlap = 0;
  float score = 0;
  bool by_score = false;
};

// The boxes of a class that stay, best first. Boxes without a score (NaN) are left out.
std::vector<int64_t> select_boxes(const float* boxes, const float* scores, const Suppression& shape,
                                  const Thresholds& limits) {
  std::vector<int64_t> order;
  for (int64_t i = 0; i < shape.boxes; ++i) {
    const float score = scores[i];
    if (limits.by_score ? score > limits.score : score == score) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return scores[a] > scores[b]; });
  std::vector<int64_t> selected;
  std::vector<Box> kept;
  for (const int64_t i : order) {
    if (static_cast<int64_t>(selected.size()) >= limits.most) break;
    const Box box = read_box(boxes + 4 * i, shape.center);
    const bool hidden = std::any_of(kept.begin(), kept.end(), [&](const Box& other) {
      return overlaps(box, other, limits.overlap);
    });
    if (hidden) continue;
    selected.push_back(i);
    kept.push_back(box);
  }
  return selected;
}

void infer_suppression(NodeContext& c) {
  ops::require_inputs(c, 2, 5);
  known_rank(c, 0, 3);
  known_rank(c, 1, 3);
  c.set_output(0, DType::int64, {kUnknownDim, 3});
}

Thresholds read_thresholds(const KernelArgs& args) {
  const auto given = [&](size_t i) {
    return i < args.inputs.size() && args.inputs[i].data != nullptr && args.inputs[i].count() > 0;
  };
  Thresholds limits;
  if (given(2)) limits.most = *args.inputs[2].as<const int64_t>();
  if (given(3)) limits.overlap = *args.inputs[3].as<const float>();
  limits.by_score = given(4);
  if (limits.by_score) limits.score = *args.inputs[4].as<const float>();
  return limits;
}

Kernel prepare_suppression(const NodeContext& c) {
  const Shape& boxes = c.shape(0);
  const Shape& scores = c.shape(1);
  if (boxes[2] != 4 || scores[0] != boxes[0] || scores[2] != boxes[1]) {
    c.invalid(
        fmt::format("boxes of shape {}, scores of {}", boxes.to_string(), scores.to_string()));
  }
  constexpr DType kTypes[] = {DType::float32, DType::float32, DType::int64, DType::float32,
                              DType::float32};
  for (int i = 0; i < c.input_count(); ++i) {
    if (c.has_input(i) && c.dtype(i) != kTypes[i]) {
      c.unsupported(fmt::format("input {} of type {}", i, info(c.dtype(i)).name));
    }
    if (c.has_input(i) && i >= 2 && c.shape(i).count() > 1) {
      c.invalid(fmt::format("input {} must hold one number", i));
    }
  }
  const Suppression shape{boxes[0], scores[1], boxes[1],
                          c.node().int_or("center_point_box", 0) != 0};
  return {"", [shape](const KernelArgs& args) {
            const float* all_boxes = args.inputs[0].as<const float>();
            const float* all_scores = args.inputs[1].as<const float>();
            const Thresholds limits = read_thresholds(args);
            const int64_t groups = shape.boxes == 0 ? 0 : shape.batch * shape.classes;
            std::vector<std::vector<int64_t>> selected(static_cast<size_t>(groups));
            parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
              for (int64_t g = begin; g < end; ++g) {
                selected[static_cast<size_t>(g)] =
                    select_boxes(all_boxes + g / shape.classes * shape.boxes * 4,
                                 all_scores + g * shape.boxes, shape, limits);
              }
            });
            int64_t count = 0;
            for (const auto& group : selected) count += static_cast<int64_t>(group.size());
            args.allocate(0, DType::int64, {count, 3});
            auto* out = args.outputs[0].as<int64_t>();
            for (int64_t g = 0; g < groups; ++g) {
              for (const int64_t i : selected[static_cast<size_t>(g)]) {
                *out++ = g / shape.classes;
                *out++ = g % shape.classes;
                *out++ = i;
              }
            }
          }};
}

// --- RoiAlign ------------------------------------------------------------------------------------

// Sampling points of a bin along one direction; beyond that a region is no part of any image.
constexpr double kMaxPoints = 4096;

struct RoiSpec {
  int64_t channels, height, width, batch;
  int64_t out_height, out_width;
  int64_t ratio;
  float scale;
  bool half_pixel, max;
};

RoiSpec read_rois(const NodeContext& c) {
  const Shape& x = c.shape(0);
  const std::string mode = c.node().string_or("mode", "avg");
  // Opset 10 had no shift and no attribute.
  const std::string transform = c.node().string_or(
      "coordinate_transformation_mode", c.opset() >= 16 ? "half_pixel" : "output_half_pixel");
  if (mode != "avg" && mode != "max") c.invalid(fmt::format("mode '{}'", printable(mode)));
  if (transform != "half_pixel" && transform != "output_half_pixel") {
    c.invalid(fmt::format("coordinate_transformation_mode '{}'", printable(transform)));
  }
  const RoiSpec spec{x[1],
                     x[2],
                     x[3],
                     x[0],
                     c.node().int_or("output_height", 1),
                     c.node().int_or("output_width", 1),
                     c.node().int_or("sampling_ratio", 0),
                     c.node().float_or("spatial_scale", 1),
                     transform == "half_pixel",
                     mode == "max"};
  if (spec.ratio < 0 || static_cast<double>(spec.ratio) > kMaxPoints) {
    c.invalid(fmt::format("sampling_ratio is {}", spec.ratio));
  }
  return spec;
}

void infer_roi_align(NodeContext& c) {
  ops::require_inputs(c, 3, 3);
  const bool known = known_rank(c, 0, 4);
  const bool counted = known_rank(c, 1, 2);
  known_rank(c, 2, 1);
  const int64_t height = c.node().int_or("output_height", 1);
  const int64_t width = c.node().int_or("output_width", 1);
  if (height < 1 || width < 1) c.invalid(fmt::format("an output of {} by {}", height, width));
  c.set_output(
      0, c.dtype(0),
      {counted ? c.shape(1)[0] : kUnknownDim, known ? c.shape(0)[1] : kUnknownDim, height, width});
}

// Four elements with weights: one sampling point.
template <class T>
struct Point {
  std::array<int64_t, 4> at;
  std::array<T, 4> weight;
};

// False where the point is outside of the image, which reads as 0.
template <class T>
bool locate(const RoiSpec& spec, T y, T x, Point<T>& point) {
  const T height = static_cast<T>(spec.height), width = static_cast<T>(spec.width);
  if (!(y >= -1 && y <= height && x >= -1 && x <= width)) return false;
  const auto split = [](T value, int64_t size, int64_t& low, int64_t& high, T& fraction) {
    value = std::max(value, T(0));
    low = std::min(static_cast<int64_t>(value), size - 1);
    high = std::min(low + 1, size - 1);
    fraction = low == size - 1 ? T(0) : value - static_cast<T>(low);
  };
  int64_t y0, y1, x0, x1;
  T fy, fx;
  split(y, spec.height, y0, y1, fy);
  split(x, spec.width, x0, x1, fx);
  point.at = {y0 * spec.width + x0, y0 * spec.width + x1, y1 * spec.width + x0,
              y1 * spec.width + x1};
  point.weight = {(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx};
  return true;
}

template <class T>
struct Roi {
  T y, x, bin_height, bin_width;
  int64_t rows, columns;  // sampling points of a bin
};

template <class T>
Roi<T> read_roi(const RoiSpec& spec, const T* corners, const std::string& where) {
  const T shift = spec.half_pixel ? T(0.5) : T(0);
  const T scale = static_cast<T>(spec.scale);
  T height = (corners[3] - corners[1]) * scale, width = (corners[2] - corners[0]) * scale;
  if (!spec.half_pixel) {  // regions are at least one pixel
    height = std::max(height, T(1));
    width = std::max(width, T(1));
  }
  Roi<T> roi{corners[1] * scale - shift,
             corners[0] * scale - shift,
             height / static_cast<T>(spec.out_height),
             width / static_cast<T>(spec.out_width),
             spec.ratio,
             spec.ratio};
  if (spec.ratio == 0) {
    const double rows = std::ceil(static_cast<double>(roi.bin_height));
    const double columns = std::ceil(static_cast<double>(roi.bin_width));
    if (!(rows <= kMaxPoints && columns <= kMaxPoints)) {
      fail(ErrorCode::invalid_model, "{}: a region of {} by {}", where, height, width);
    }
    roi.rows = static_cast<int64_t>(std::max(rows, 0.0));
    roi.columns = static_cast<int64_t>(std::max(columns, 0.0));
  }
  return roi;
}

// The points of one bin that are inside of the image.
template <class T>
void bin_points(const RoiSpec& spec, const Roi<T>& roi, int64_t bin,
                std::vector<Point<T>>& points) {
  points.clear();
  const T row = static_cast<T>(bin / spec.out_width), column = static_cast<T>(bin % spec.out_width);
  for (int64_t i = 0; i < roi.rows; ++i) {
    const T y = roi.y + row * roi.bin_height +
                (static_cast<T>(i) + T(0.5)) * roi.bin_height / static_cast<T>(roi.rows);
    for (int64_t j = 0; j < roi.columns; ++j) {
      const T x = roi.x + column * roi.bin_width +
                  (static_cast<T>(j) + T(0.5)) * roi.bin_width / static_cast<T>(roi.columns);
      Point<T> point;
      if (locate(spec, y, x, point)) points.push_back(point);
    }
  }
}

// As ONNX's reference and ONNX Runtime do it, "max" is over the weighted corners of all points.
template <class T>
T pool_bin(const RoiSpec& spec, const Roi<T>& roi, const std::vector<Point<T>>& points,
           const T* image) {
  const int64_t all = roi.rows * roi.columns;
  if (!spec.max) {
    T sum = 0;
    for (const Point<T>& point : points) {
      for (size_t k = 0; k < 4; ++k) sum += point.weight[k] * image[point.at[k]];
    }
    return sum / static_cast<T>(std::max<int64_t>(all, 1));
  }
  bool any = static_cast<int64_t>(points.size()) < all;  // a point outside is a 0
  T best = 0;
  for (const Point<T>& point : points) {
    for (size_t k = 0; k < 4; ++k) {
      const T value = point.weight[k] * image[point.at[k]];
      best = any ? std::max(best, value) : value;
      any = true;
    }
  }
  return best;
}

Kernel prepare_roi_align(const NodeContext& c) {
  const RoiSpec spec = read_rois(c);
  const Shape& rois = c.shape(1);
  require_shape(c, 1, {rois[0], 4});
  require_shape(c, 2, {rois[0]});
  if (c.dtype(2) != DType::int64) c.invalid("batch_indices are not int64");
  if (c.dtype(1) != c.dtype(0)) c.invalid("regions of another type than the input");
  if (spec.height * spec.width == 0 && c.output_types[0].shape.count() > 0) {
    c.invalid("regions of an empty image");
  }
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{
        "", [spec, count = rois[0], where = label(c)](const KernelArgs& args) {
          const T* x = args.inputs[0].as<const T>();
          const T* regions = args.inputs[1].as<const T>();
          const auto* images = args.inputs[2].as<const int64_t>();
          T* y = args.outputs[0].as<T>();
          const int64_t bins = spec.out_height * spec.out_width;
          const int64_t plane = spec.height * spec.width;
          parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
            std::vector<Point<T>> points;
            for (int64_t r = begin; r < end; ++r) {
              if (images[r] < 0 || images[r] >= spec.batch) {
                fail(ErrorCode::invalid_model, "{}: image {} of {}", where, images[r], spec.batch);
              }
              const Roi<T> roi = read_roi(spec, regions + 4 * r, where);
              for (int64_t b = 0; b < bins; ++b) {
                bin_points(spec, roi, b, points);
                for (int64_t k = 0; k < spec.channels; ++k) {
                  const T* image = x + (images[r] * spec.channels + k) * plane;
                  y[(r * spec.channels + k) * bins + b] = pool_bin(spec, roi, points, image);
                }
              }
            }
          });
        }};
  });
}

constexpr OpDef kRows[] = {
    sizing_row(row("NonMaxSuppression", 10, infer_suppression, prepare_suppression)),
    row("RoiAlign", 10, infer_roi_align, prepare_roi_align),
};

}  // namespace

constinit const std::span<const OpDef> kDetectionOps = kRows;

}  // namespace compress
