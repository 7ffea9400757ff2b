#include "compress/ops/window.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace compress {
namespace {

// Far above any real size, low enough that sums and products below stay inside 63 bits.
constexpr int64_t kLimit = int64_t{1} << 30;

std::vector<int64_t> sizes(const NodeContext& c, std::string_view name, size_t count, int64_t least,
                           int64_t fallback) {
  std::vector<int64_t> values = c.node().ints_or(name, {});
  if (values.empty()) values.assign(count, fallback);
  if (values.size() != count) {
    c.invalid(fmt::format("{} has {} values, {} are needed", name, values.size(), count));
  }
  for (const int64_t value : values) {
    if (value < least || value > kLimit) c.invalid(fmt::format("{} holds {}", name, value));
  }
  return values;
}

// Everything except pads and outputs.
Window read_steps(const NodeContext& c, const Shape& x, std::span<const int64_t> kernel) {
  Window w;
  w.spatial = x.rank() - 2;
  if (w.spatial < 1) c.invalid(fmt::format("the input has shape {}", x.to_string()));
  if (w.spatial > 3) c.unsupported(fmt::format("{} spatial dimensions", w.spatial));
  const auto spatial = static_cast<size_t>(w.spatial);
  if (kernel.size() != spatial) {
    c.invalid(fmt::format("a kernel of {} dimensions over an input of shape {}", kernel.size(),
                          x.to_string()));
  }
  const std::vector<int64_t> stride = sizes(c, "strides", spatial, 1, 1);
  const std::vector<int64_t> dilation = sizes(c, "dilations", spatial, 1, 1);
  for (size_t i = 0; i < spatial; ++i) {
    const size_t d = 3 - spatial + i;
    w.in[d] = x[static_cast<int>(i) + 2];
    w.kernel[d] = kernel[i];
    w.stride[d] = stride[i];
    w.dilation[d] = dilation[i];
    if (w.in[d] > (int64_t{1} << 60)) c.invalid(fmt::format("input shape {}", x.to_string()));
    if (kernel[i] == 0 || kernel[i] > kLimit) c.invalid(fmt::format("kernel size {}", kernel[i]));
  }
  return w;
}

void read_explicit_pads(const NodeContext& c, Window& w) {
  const auto spatial = static_cast<size_t>(w.spatial);
  const std::vector<int64_t> pads = sizes(c, "pads", 2 * spatial, 0, 0);
  for (size_t i = 0; i < spatial; ++i) {
    w.pad_begin[3 - spatial + i] = pads[i];
    w.pad_end[3 - spatial + i] = pads[spatial + i];
  }
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The number of windows along dimension d; explicit pads.
int64_t count_windows(const NodeContext& c, const Window& w, size_t d, bool ceil_mode) {
  const int64_t reach = w.dilation[d] * (w.kernel[d] - 1) + 1;
  const int64_t room = w.in[d] + w.pad_begin[d] + w.pad_end[d] - reach;
  if (room < 0) {
    c.invalid(fmt::format("a window of {} over {} padded values", reach, room + reach));
  }
  if (!ceil_mode) return room / w.stride[d] + 1;
  int64_t windows = ceil_div(room, w.stride[d]) + 1;
  // A window that would begin in the padding behind the input is dropped (AveragePool-19).
  if ((windows - 1) * w.stride[d] >= w.in[d] + w.pad_begin[d]) --windows;
  return windows;
}

}  // namespace

Window::Range Window::outputs_of_tap(size_t d, int64_t k) const {
  const int64_t first = offset(d, k);
  const int64_t begin = first >= 0 ? 0 : ceil_div(-first, stride[d]);
  const int64_t last = in[d] - 1 - first;
  const int64_t end = last < 0 ? 0 : std::min(out[d], last / stride[d] + 1);
  return {begin, std::max(begin, end)};
}

Window::Range Window::taps_of_output(size_t d, int64_t o) const {
  const int64_t first = o * stride[d] - pad_begin[d];
  const int64_t begin = first >= 0 ? 0 : std::min(kernel[d], ceil_div(-first, dilation[d]));
  const int64_t last = in[d] - 1 - first;
  const int64_t end = last < 0 ? 0 : std::min(kernel[d], last / dilation[d] + 1);
  return {begin, std::max(begin, end)};
}

Window read_window(const NodeContext& c, const Shape& x, std::span<const int64_t> kernel,
                   bool ceil_mode) {
  Window w = read_steps(c, x, kernel);
  const std::string auto_pad = c.node().string_or("auto_pad", "NOTSET");
  const bool same = auto_pad == "SAME_UPPER" || auto_pad == "SAME_LOWER";
  if (auto_pad == "NOTSET" || auto_pad.empty()) {
    read_explicit_pads(c, w);
  } else if (!same && auto_pad != "VALID") {
    c.invalid(fmt::format("auto_pad {}", printable(auto_pad)));
  }
  for (size_t d = 3 - static_cast<size_t>(w.spatial); d < 3; ++d) {
    if (w.in[d] < 0 || w.kernel[d] < 0) {
      w.out[d] = kUnknownDim;
    } else if (same) {
      w.out[d] = ceil_div(w.in[d], w.stride[d]);
      const int64_t reach = w.dilation[d] * (w.kernel[d] - 1) + 1;
      const int64_t pad = std::max<int64_t>(0, (w.out[d] - 1) * w.stride[d] + reach - w.in[d]);
      w.pad_begin[d] = auto_pad == "SAME_UPPER" ? pad / 2 : pad - pad / 2;
      w.pad_end[d] = pad - w.pad_begin[d];
    } else {
      w.out[d] = count_windows(c, w, d, ceil_mode);
    }
  }
  return w;
}

Window read_transposed_window(const NodeContext& c, const Shape& x,
                              std::span<const int64_t> kernel) {
  Window w = read_steps(c, x, kernel);
  const auto spatial = static_cast<size_t>(w.spatial);
  const std::vector<int64_t> extra = sizes(c, "output_padding", spatial, 0, 0);
  std::vector<int64_t> wanted = c.node().ints_or("output_shape", {});
  // Some exporters write batch and channels as well.
  if (wanted.size() == spatial + 2) wanted.erase(wanted.begin(), wanted.begin() + 2);
  if (!wanted.empty() && wanted.size() != spatial) c.invalid("output_shape has another rank");
  const std::string auto_pad = c.node().string_or("auto_pad", "NOTSET");
  const bool same = auto_pad == "SAME_UPPER" || auto_pad == "SAME_LOWER";
  if (!same && auto_pad != "VALID") read_explicit_pads(c, w);
  for (size_t i = 0; i < spatial; ++i) {
    const size_t d = 3 - spatial + i;
    if (w.in[d] < 0 || w.kernel[d] < 0) {
      w.out[d] = kUnknownDim;
      continue;
    }
    if (w.in[d] > kLimit) c.invalid(fmt::format("input shape {}", x.to_string()));
    const int64_t reach = (w.kernel[d] - 1) * w.dilation[d] + 1;
    const int64_t full = w.stride[d] * (w.in[d] - 1) + extra[i] + reach;
    if (wanted.empty() && !same) {
      w.out[d] = full - w.pad_begin[d] - w.pad_end[d];
    } else {
      w.out[d] = wanted.empty() ? w.in[d] * w.stride[d] : wanted[i];
      const int64_t pad = std::max<int64_t>(0, full - w.out[d]);
      w.pad_begin[d] = auto_pad == "SAME_UPPER" ? pad / 2 : pad - pad / 2;
      w.pad_end[d] = pad - w.pad_begin[d];
    }
    if (w.out[d] < 0) c.invalid(fmt::format("an output dimension is {}", w.out[d]));
  }
  return w;
}

Shape window_output(const Window& w, int64_t batch, int64_t channels) {
  Shape shape{batch, channels};
  for (size_t d = 3 - static_cast<size_t>(w.spatial); d < 3; ++d) shape.push_back(w.out[d]);
  return shape;
}

}  // namespace compress
