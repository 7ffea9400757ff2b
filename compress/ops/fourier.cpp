// Fourier transforms of signals: DFT, STFT, MelWeightMatrix. Computed in double.
#include <algorithm>
#include <cmath>
#include <complex>
#include <numbers>

#include "compress/ops/special_families.h"
#include "compress/ops/support.h"
#include "compress/ops/typed.h"

namespace compress {
namespace {

using ops::axis_of;
using ops::int_input;
using ops::known;
using ops::prepare_at_run;
using ops::row;

using Complex = std::complex<double>;

// Far above any real signal, low enough for sums and products to stay inside 63 bits.
constexpr int64_t kLimit = int64_t{1} << 30;

// --- A mixed-radix transform of any length -------------------------------------------------------

// The e^(-2 pi i k / n), or their conjugates for the way back.
std::vector<Complex> roots_of(int64_t n, bool inverse) {
  std::vector<Complex> roots(static_cast<size_t>(n));
  for (int64_t k = 0; k < n; ++k) {
    const double angle = 2 * std::numbers::pi * static_cast<double>(k) / static_cast<double>(n);
    roots[static_cast<size_t>(k)] = {std::cos(angle), inverse ? std::sin(angle) : -std::sin(angle)};
  }
  return roots;
}

int64_t smallest_factor(int64_t n) {
  for (int64_t p = 2; p * p <= n; ++p) {
    if (n % p == 0) return p;
  }
  return n;
}

// A length takes its sum of prime factors times itself; a long prime would never end.
void require_quick(const NodeContext& c, int64_t length) {
  constexpr int64_t kMost = int64_t{1} << 34;
  int64_t factors = 0;
  for (int64_t rest = length; rest > 1; rest /= smallest_factor(rest)) {
    factors += smallest_factor(rest);
  }
  if (factors > kMost / length) c.unsupported(fmt::format("a transform of length {}", length));
}

struct Transform {
  int64_t size;
  std::vector<Complex> roots;
  std::vector<Complex> column;  // of one butterfly

  Transform(int64_t n, bool inverse)
      : size(n), roots(roots_of(n, inverse)), column(static_cast<size_t>(n)) {}

  // The transform of in[0], in[stride], ... of n elements, where n * stride is `size`.
  void run(const Complex* in, int64_t stride, int64_t n, Complex* out) {
    if (n == 1) {
      *out = *in;
      return;
    }
    const int64_t p = smallest_factor(n), m = n / p;
    for (int64_t q = 0; q < p; ++q) run(in + q * stride, stride * p, m, out + q * m);
    const auto root = [&](int64_t power) { return roots[static_cast<size_t>(power * stride)]; };
    for (int64_t k = 0; k < m; ++k) {
      for (int64_t q = 0; q < p; ++q) {
        column[static_cast<size_t>(q)] = out[q * m + k] * root(q * k);
      }
      for (int64_t j = 0; j < p; ++j) {
        Complex sum = column[0];
        for (int64_t q = 1; q < p; ++q) sum += column[static_cast<size_t>(q)] * root(q * j % p * m);
        out[j * m + k] = sum;
      }
    }
  }
};

// --- DFT -----------------------------------------------------------------------------------------

struct DftSpec {
  int axis;
  bool inverse, onesided;
  std::optional<int64_t> length;
};

// nullopt where an input that decides shapes is not known yet. The axis is an attribute up to opset
// 19 and input 2 since.
std::optional<DftSpec> read_dft(const NodeContext& c) {
  const int rank = c.shape(0).rank();
  if (rank < 2) c.invalid(fmt::format("the input has shape {}", c.shape(0).to_string()));
  DftSpec spec{0, c.node().int_or("inverse", 0) != 0, c.node().int_or("onesided", 0) != 0, {}};
  int64_t axis = -2;
  if (c.opset() < 20) {
    axis = c.node().int_or("axis", 1);
  } else if (c.has_input(2)) {
    const auto given = int_input(c, 2);
    if (!given) return std::nullopt;
    axis = *given;
  }
  spec.axis = axis_of(c, axis, rank);
  if (spec.axis == rank - 1) c.invalid("the last axis holds real and imaginary parts");
  const int64_t parts = c.shape(0)[rank - 1];
  if (known(parts) && parts != 1 && parts != 2) {
    c.invalid(fmt::format("the input has shape {}", c.shape(0).to_string()));
  }
  if (c.has_input(1)) {
    spec.length = int_input(c, 1);
    if (!spec.length) return std::nullopt;
  } else if (const int64_t dim = c.shape(0)[spec.axis]; known(dim)) {
    spec.length = spec.inverse && spec.onesided ? 2 * (std::min(dim, kLimit) - 1) : dim;
  }
  if (spec.length && (*spec.length < 1 || *spec.length > kLimit)) {
    c.invalid(fmt::format("dft_length is {}", *spec.length));
  }
  return spec;
}

void infer_dft(NodeContext& c) {
  ops::require_inputs(c, 1, 3);
  if (!c.in(0).has_shape) return c.set_output(0, c.dtype(0));
  const std::optional<DftSpec> spec = read_dft(c);
  if (!spec) return c.set_output(0, c.dtype(0), ops::unknown_shape(c.shape(0).rank()));
  Shape out = c.shape(0);
  const bool real = spec->inverse && spec->onesided;
  out[out.rank() - 1] = real ? 1 : 2;
  out[spec->axis] = kUnknownDim;
  if (spec->length) {
    out[spec->axis] = spec->onesided && !spec->inverse ? *spec->length / 2 + 1 : *spec->length;
  }
  c.set_output(0, c.dtype(0), out);
}

// The signal of n elements `step` apart with `parts` numbers each, cut or filled up with zeros.
template <class T>
void read_signal(const T* x, int64_t n, int64_t step, int64_t parts, std::vector<Complex>& signal) {
  const auto size = static_cast<int64_t>(signal.size());
  for (int64_t i = 0; i < size; ++i) {
    Complex& value = signal[static_cast<size_t>(i)];
    value = 0;
    if (i >= n) continue;
    const T* at = x + i * step * parts;
    value = {static_cast<double>(at[0]), parts == 2 ? static_cast<double>(at[1]) : 0.0};
  }
}

// The half of a spectrum that a real signal's other half mirrors.
void mirror(std::vector<Complex>& spectrum) {
  const size_t n = spectrum.size();
  for (size_t k = n / 2 + 1; k < n; ++k) spectrum[k] = std::conj(spectrum[n - k]);
}

Kernel prepare_dft(const NodeContext& c) {
  const std::optional<DftSpec> given = read_dft(c);
  if (!given) return prepare_at_run(c);
  const DftSpec spec = *given;
  require_quick(c, *spec.length);
  const Shape& x_shape = c.shape(0);
  const Shape& y_shape = c.output_types[0].shape;
  const int last = x_shape.rank() - 1;
  const int64_t outer = x_shape.count(0, spec.axis);
  const int64_t inner = x_shape.count(spec.axis + 1, last);
  const int64_t taken = x_shape[spec.axis], made = y_shape[spec.axis];
  const int64_t parts = x_shape[last], parts_out = y_shape[last];
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{"", [=](const KernelArgs& args) {
                    const T* x = args.inputs[0].as<const T>();
                    T* y = args.outputs[0].as<T>();
                    const int64_t n = *spec.length;
                    parallel_for(0, outer * inner, 1, [&](int64_t begin, int64_t end) {
                      if (begin == end) return;
                      Transform transform(n, spec.inverse);
                      std::vector<Complex> in(static_cast<size_t>(n)), out(in.size());
                      const double scale = spec.inverse ? 1.0 / static_cast<double>(n) : 1.0;
                      for (int64_t u = begin; u < end; ++u) {
                        const int64_t o = u / inner, i = u % inner;
                        read_signal(x + (o * taken * inner + i) * parts, taken, inner, parts, in);
                        if (spec.inverse && spec.onesided) mirror(in);
                        transform.run(in.data(), 1, n, out.data());
                        for (int64_t k = 0; k < made; ++k) {
                          const Complex value = out[static_cast<size_t>(k)] * scale;
                          T* to = y + ((o * made + k) * inner + i) * parts_out;
                          to[0] = static_cast<T>(value.real());
                          if (parts_out == 2) to[1] = static_cast<T>(value.imag());
                        }
                      }
                    });
                  }};
  });
}

// --- STFT: DFTs of overlapping frames ------------------------------------------------------------

struct Frames {
  int64_t length, step;
};

// [batch, length, 1 or 2]. Exporters leave out the last axis of real signals, and ONNX Runtime
// takes them so. nullopt where the rank is not known.
std::optional<Shape> signal_shape(const NodeContext& c) {
  if (!c.in(0).has_shape) return std::nullopt;
  const Shape& given = c.shape(0);
  if (given.rank() == 2) return Shape{given[0], given[1], 1};
  if (given.rank() != 3) c.invalid(fmt::format("the signal has shape {}", given.to_string()));
  return given;
}

// nullopt where a size is not known yet.
std::optional<Frames> read_frames(const NodeContext& c) {
  const auto step = int_input(c, 1);
  if (!step) return std::nullopt;
  int64_t length = c.shape(0)[1];
  if (known_rank(c, 2, 1)) length = c.shape(2)[0];
  if (c.has_input(3)) {
    const auto given = int_input(c, 3);
    if (!given) return std::nullopt;
    if (c.has_input(2) && known(length) && *given != length) {
      c.invalid(fmt::format("a window of {} values for frames of {}", length, *given));
    }
    length = *given;
  }
  if (!known(length)) return std::nullopt;
  if (length < 1 || length > kLimit || *step < 1 ||
      (known(c.shape(0)[1]) && length > c.shape(0)[1])) {
    c.invalid(fmt::format("frames of {} every {} in a signal of shape {}", length, *step,
                          c.shape(0).to_string()));
  }
  return Frames{length, *step};
}

void infer_stft(NodeContext& c) {
  ops::require_inputs(c, 2, 4);
  const std::optional<Shape> shape = signal_shape(c);
  if (!shape) return c.set_output(0, c.dtype(0));
  const Shape& signal = *shape;
  const bool onesided = c.node().int_or("onesided", 1) != 0;
  if (known(signal[2]) && signal[2] != 1 && (signal[2] != 2 || onesided)) {
    c.invalid(fmt::format("the signal has shape {}", signal.to_string()));
  }
  const std::optional<Frames> frames = read_frames(c);
  Shape out{signal[0], kUnknownDim, kUnknownDim, 2};
  if (frames) {
    if (known(signal[1])) out[1] = (signal[1] - frames->length) / frames->step + 1;
    out[2] = onesided ? frames->length / 2 + 1 : frames->length;
  }
  c.set_output(0, c.dtype(0), out);
}

Kernel prepare_stft(const NodeContext& c) {
  const std::optional<Frames> frames = read_frames(c);
  if (!frames) return prepare_at_run(c);
  require_quick(c, frames->length);
  if (c.has_input(2) && c.dtype(2) != c.dtype(0)) c.invalid("a window of another type");
  const Shape signal = *signal_shape(c);
  const Shape& out = c.output_types[0].shape;
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{"", [=, n = frames->length, step = frames->step, length = signal[1],
                       parts = signal[2]](const KernelArgs& args) {
                    const T* x = args.inputs[0].as<const T>();
                    const T* window = data_or_null<T>(args, 2);
                    T* y = args.outputs[0].as<T>();
                    parallel_for(0, out[0] * out[1], 1, [&](int64_t begin, int64_t end) {
                      if (begin == end) return;
                      Transform transform(n, false);
                      std::vector<Complex> frame(static_cast<size_t>(n)), spectrum(frame.size());
                      for (int64_t f = begin; f < end; ++f) {
                        const int64_t first = f / out[1] * length + f % out[1] * step;
                        read_signal(x + first * parts, n, 1, parts, frame);
                        for (size_t i = 0; window != nullptr && i < frame.size(); ++i) {
                          frame[i] *= static_cast<double>(window[i]);
                        }
                        transform.run(frame.data(), 1, n, spectrum.data());
                        for (int64_t k = 0; k < out[2]; ++k) {
                          T* to = y + (f * out[2] + k) * 2;
                          to[0] = static_cast<T>(spectrum[static_cast<size_t>(k)].real());
                          to[1] = static_cast<T>(spectrum[static_cast<size_t>(k)].imag());
                        }
                      }
                    });
                  }};
  });
}

// --- MelWeightMatrix -----------------------------------------------------------------------------

struct MelSpec {
  int64_t bands, length, rate;
  double low, high;  // hertz
};

std::optional<MelSpec> read_mel(const NodeContext& c) {
  for (int i = 0; i < 5; ++i) {
    if (c.constant(i) == nullptr) return std::nullopt;
  }
  const MelSpec spec{*int_input(c, 0), *int_input(c, 1), *int_input(c, 2), *ops::double_input(c, 3),
                     *ops::double_input(c, 4)};
  const bool sizes = spec.bands >= 1 && spec.bands < kLimit && spec.length >= 1 &&
                     spec.length < kLimit && spec.rate >= 1;
  if (!sizes || !(spec.low >= 0 && spec.low <= spec.high &&
                  spec.high <= static_cast<double>(spec.rate) / 2)) {
    c.invalid(fmt::format("{} bands from {} to {} Hz of {} values at {} Hz", spec.bands, spec.low,
                          spec.high, spec.length, spec.rate));
  }
  return spec;
}

void infer_mel(NodeContext& c) {
  ops::require_inputs(c, 5, 5);
  const int64_t type = c.node().int_or("output_datatype", 1);
  if (type < 1 || type > 255 || info(static_cast<DType>(type)).dtype == DType::undefined) {
    c.invalid(fmt::format("output_datatype {}", type));
  }
  const std::optional<MelSpec> spec = read_mel(c);
  c.set_output(0, static_cast<DType>(type),
               {spec ? spec->length / 2 + 1 : kUnknownDim, spec ? spec->bands : kUnknownDim});
}

// The spectrum's bin at each edge of the triangles: bands + 2 steps that are even in mel, as ONNX's
// function spreads them.
std::vector<int64_t> mel_edges(const MelSpec& spec) {
  const auto mel = [](double hertz) { return 2595 * std::log10(1 + hertz / 700); };
  const double low = mel(spec.low);
  const double step = (mel(spec.high) - low) / static_cast<double>(spec.bands + 2);
  std::vector<int64_t> edges;
  for (int64_t i = 0; i < spec.bands + 2; ++i) {
    const double hertz = 700 * (std::pow(10, (static_cast<double>(i) * step + low) / 2595) - 1);
    edges.push_back(static_cast<int64_t>(
        std::floor(static_cast<double>(spec.length + 1) * hertz / static_cast<double>(spec.rate))));
  }
  return edges;
}

Kernel prepare_mel(const NodeContext& c) {
  const std::optional<MelSpec> spec = read_mel(c);
  if (!spec) return prepare_at_run(c);
  const int64_t bins = spec->length / 2 + 1, bands = spec->bands;
  return ops::dispatch(ops::NumericTypes(), c, c.output_types[0].dtype, [&](auto tag) -> Kernel {
    using T = decltype(tag);
    return {
        "", [=, edges = mel_edges(*spec)](const KernelArgs& args) {
          T* out = static_cast<T*>(args.outputs[0].data);
          std::fill_n(out, bins * bands, T(0));
          const auto set = [&](int64_t bin, int64_t band, double value) {
            if (bin >= 0 && bin < bins) out[bin * bands + band] = static_cast<T>(value);
          };
          for (int64_t band = 0; band < bands; ++band) {
            const int64_t left = edges[static_cast<size_t>(band)];
            const int64_t peak = edges[static_cast<size_t>(band + 1)];
            const int64_t right = edges[static_cast<size_t>(band + 2)];
            if (peak == left) set(peak, band, 1);
            for (int64_t bin = left; bin <= peak && peak > left; ++bin) {
              set(bin, band, static_cast<double>(bin - left) / static_cast<double>(peak - left));
            }
            for (int64_t bin = peak; bin < right; ++bin) {
              set(bin, band, static_cast<double>(right - bin) / static_cast<double>(right - peak));
            }
          }
        }};
  });
}

constexpr OpDef kRows[] = {
    row("DFT", 17, infer_dft, prepare_dft),
    row("STFT", 17, infer_stft, prepare_stft),
    row("MelWeightMatrix", 17, infer_mel, prepare_mel),
};

}  // namespace

constinit const std::span<const OpDef> kFourierOps = kRows;

}  // namespace compress
