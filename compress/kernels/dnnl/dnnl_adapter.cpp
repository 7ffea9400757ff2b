#include "compress/kernels/dnnl/dnnl_adapter.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "compress/core/one_thread.h"
#include "compress/core/parallel.h"
#include "compress/kernels/aligned.h"
#include "compress/kernels/dnnl/dnnl_prepared.h"

namespace compress::kernels {
namespace {

// A copy of `data`, in the layout that the primitive prefers.
memory reordered(const float* data, const memory::desc& from, const memory::desc& to) {
  memory source(from, cpu_engine(), const_cast<float*>(data));
  memory target(to, cpu_engine());
  dnnl::stream stream(cpu_engine());
  dnnl::reorder(source, target).execute(stream, source, target);
  stream.wait();
  return target;
}

// `late_bias` is added after alpha: oneDNN scales its own bias by it.
dnnl::primitive_attr attributes(bool residual, const ClampF32& clamp, float alpha = 1.0f,
                                const memory::desc* late_bias = nullptr) {
  dnnl::post_ops ops;
  if (residual) ops.append_sum();
  if (late_bias) ops.append_binary(dnnl::algorithm::binary_add, *late_bias);
  append_clamp(ops, clamp);
  dnnl::primitive_attr attr;
  attr.set_post_ops(ops);
  if (alpha != 1.0f) attr.set_output_scales(0, {alpha});
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attr;
}

// Multiply-adds below which waking a second thread costs more than it saves: some 30 us of one
// core.
constexpr int64_t kSmallWork = int64_t{1} << 21;

int64_t work_of(const ConvF32Params& p) {
  return p.batch * p.out_h() * p.out_w() * p.out_channels * (p.in_channels / p.groups) *
         p.kernel_h * p.kernel_w;
}

// Whether an output position along an axis has all its taps in padding.
bool reads_padding_alone(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t dilation,
                         int64_t pad) {
  for (int64_t i = 0; i < out; ++i) {
    const int64_t first = i * stride - pad;
    const int64_t tap = first < 0 ? (-first + dilation - 1) / dilation : 0;  // the first one inside
    if (tap >= kernel || first + tap * dilation >= in) return true;
  }
  return false;
}

// brgconv of oneDNN 2.6 (AVX-512) adds a residual without the bias there, or crashes.
bool brgconv_is_wrong(const ConvF32Params& p) {
  return p.residual &&
         (reads_padding_alone(p.in_h, p.out_h(), p.kernel_h, p.stride_h, p.dilation_h, p.pad_top) ||
          reads_padding_alone(p.in_w, p.out_w(), p.kernel_w, p.stride_w, p.dilation_w, p.pad_left));
}

}  // namespace

// The convolution runs between `reorder_in` and `reorder_out` where it has layouts of its own; its
// tensors then follow the scratch memory in the workspace.
struct DnnlConvF32::State {
  Prepared prepared;
  bool small;  // made for one thread, and run so
  bool residual;
  size_t out_bytes;
  std::optional<Prepared> reorder_in, reorder_residual, reorder_out;
  size_t scratch_bytes = 0, in_bytes = 0, workspace_bytes = 0;
};

DnnlConvF32::DnnlConvF32(std::unique_ptr<State> state) : state_(std::move(state)) {}
DnnlConvF32::~DnnlConvF32() = default;

std::unique_ptr<DnnlConvF32> DnnlConvF32::make(const ConvF32Params& p, const float* weights,
                                               const float* bias) {
  std::unique_ptr<DnnlConvF32> made;
  if (work_of(p) < kSmallWork) {
    on_one_thread([&] { made = make_for_threads(p, weights, bias); });
    if (made) made->state_->small = true;
  } else {
    made = make_for_threads(p, weights, bias);
  }
  return made;
}

std::unique_ptr<DnnlConvF32> DnnlConvF32::make_for_threads(const ConvF32Params& p,
                                                           const float* weights,
                                                           const float* bias) try {
  const Tag tag = p.layout == ConvF32Params::Layout::nhwc ? Tag::nhwc : Tag::nchw;
  const int64_t in_group = p.in_channels / p.groups, out_group = p.out_channels / p.groups;
  const memory::dims weight_dims =
      p.groups == 1 ? memory::dims{p.out_channels, p.in_channels, p.kernel_h, p.kernel_w}
                    : memory::dims{p.groups, out_group, in_group, p.kernel_h, p.kernel_w};
  const memory::desc plain(weight_dims, kFloat, p.groups == 1 ? Tag::oihw : Tag::goihw);
  const memory::desc any(weight_dims, kFloat, Tag::any);
  // On plain NCHW oneDNN would fall back to im2col: let it choose, and convert at both ends.
  const Tag inner = p.layout == ConvF32Params::Layout::nhwc ? Tag::nhwc : Tag::any;
  const memory::desc input({p.batch, p.in_channels, p.in_h, p.in_w}, kFloat, tag);
  const memory::desc output({p.batch, p.out_channels, p.out_h(), p.out_w()}, kFloat, tag);
  const memory::desc bias_desc =
      bias ? memory::desc({p.out_channels}, kFloat, Tag::x) : memory::desc();
  const dnnl::convolution_forward::desc description(
      dnnl::prop_kind::forward_inference, dnnl::algorithm::convolution_direct,
      memory::desc(input.dims(), kFloat, inner), any, bias_desc,
      memory::desc(output.dims(), kFloat, inner), {p.stride_h, p.stride_w},
      {p.dilation_h - 1, p.dilation_w - 1}, {p.pad_top, p.pad_left}, {p.pad_bottom, p.pad_right});
  dnnl::convolution_forward::primitive_desc chosen(description, attributes(p.residual, p.clamp),
                                                   cpu_engine());
  if (brgconv_is_wrong(p)) {
    while (std::strncmp(chosen.impl_info_str(), "brgconv", 7) == 0) {
      if (!chosen.next_impl()) return nullptr;
    }
  }

  const memory::desc inner_in = chosen.src_desc(), inner_out = chosen.dst_desc();
  auto state = std::make_unique<State>(
      State{Prepared(chosen), false, p.residual, output.get_size(), {}, {}, {}});
  state->reorder_in = make_reorder(input, inner_in);
  state->reorder_out = make_reorder(inner_out, output);
  if (p.residual) state->reorder_residual = make_reorder(output, inner_out);
  size_t scratch = state->prepared.workspace_bytes();
  for (const auto* reorder : {&state->reorder_in, &state->reorder_residual, &state->reorder_out}) {
    if (*reorder) scratch = std::max(scratch, (*reorder)->workspace_bytes());
  }
  state->scratch_bytes = aligned(scratch);
  state->in_bytes = state->reorder_in ? aligned(inner_in.get_size()) : 0;
  state->workspace_bytes =
      state->scratch_bytes + state->in_bytes + (state->reorder_out ? inner_out.get_size() : 0);
  state->prepared.add(DNNL_ARG_SRC, inner_in);
  state->prepared.add(DNNL_ARG_DST, inner_out);
  state->prepared.add(DNNL_ARG_WEIGHTS, reordered(weights, plain, chosen.weights_desc()));
  if (bias) state->prepared.add(DNNL_ARG_BIAS, reordered(bias, bias_desc, bias_desc));
  return std::unique_ptr<DnnlConvF32>(new DnnlConvF32(std::move(state)));
} catch (const dnnl::error&) {
  return nullptr;
}

size_t DnnlConvF32::workspace_bytes() const noexcept { return state_->workspace_bytes; }
const char* DnnlConvF32::implementation() const noexcept {
  return state_->prepared.implementation();
}

void DnnlConvF32::run(const float* input, const float* residual, float* out,
                      void* workspace) noexcept {
  if (state_->small && thread_count() > 1) {
    on_one_thread([&] { run_here(input, residual, out, workspace); });
  } else {
    spread_threads();
    run_here(input, residual, out, workspace);
  }
}

void DnnlConvF32::run_here(const float* input, const float* residual, float* out,
                           void* workspace) noexcept {
  State& s = *state_;
  uint8_t* buffers = static_cast<uint8_t*>(workspace) + s.scratch_bytes;
  const void* source = input;
  void* target = out;
  if (s.reorder_in) {
    run_reorder(*s.reorder_in, input, buffers, workspace);
    source = buffers;
  }
  if (s.reorder_out) target = buffers + s.in_bytes;
  if (s.reorder_residual) {
    run_reorder(*s.reorder_residual, residual, target, workspace);
  } else if (s.residual && residual != target) {
    std::memcpy(target, residual, s.out_bytes);
  }
  s.prepared.point(DNNL_ARG_SRC, source);
  s.prepared.point(DNNL_ARG_DST, target);
  s.prepared.run(workspace);
  if (s.reorder_out) run_reorder(*s.reorder_out, target, out, workspace);
}

std::vector<int64_t> MatMulF32Params::out_dims() const {
  std::vector<int64_t> dims = a_dims;
  for (size_t i = 0; i + 2 < dims.size(); ++i) dims[i] = dims[i] == 1 ? b_dims[i] : dims[i];
  dims.back() = b_dims.back();
  return dims;
}

struct DnnlMatMulF32::State {
  Prepared prepared;
  bool constant_b;
};

DnnlMatMulF32::DnnlMatMulF32(std::unique_ptr<State> state) : state_(std::move(state)) {}
DnnlMatMulF32::~DnnlMatMulF32() = default;

std::unique_ptr<DnnlMatMulF32> DnnlMatMulF32::make(const MatMulF32Params& p,
                                                   const float* constant_b, const float* bias) try {
  const memory::dims out_dims = p.out_dims();
  memory::dims out_strides(out_dims.size(), 1);
  for (size_t i = out_dims.size() - 1; i > 0; --i) {
    out_strides[i - 1] = out_strides[i] * std::max<int64_t>(out_dims[i], 1);
  }
  const memory::desc a(p.a_dims, kFloat, p.a_strides), b(p.b_dims, kFloat, p.b_strides);
  const memory::desc out(out_dims, kFloat, out_strides);
  const memory::desc b_prepared = constant_b ? memory::desc(p.b_dims, kFloat, Tag::any) : b;
  memory::dims bias_dims(out_dims.size(), 1);
  bias_dims.back() = out_dims.back();
  const memory::desc bias_desc =
      bias ? memory::desc(bias_dims, kFloat, memory::dims(out_dims.size(), 1)) : memory::desc();
  const bool late_bias = bias && p.alpha != 1.0f;
  const dnnl::matmul::desc description = bias && !late_bias
                                             ? dnnl::matmul::desc(a, b_prepared, bias_desc, out)
                                             : dnnl::matmul::desc(a, b_prepared, out);
  const dnnl::matmul::primitive_desc chosen(
      description, attributes(false, p.clamp, p.alpha, late_bias ? &bias_desc : nullptr),
      cpu_engine());

  auto state = std::make_unique<State>(State{Prepared(chosen), constant_b != nullptr});
  state->prepared.add(DNNL_ARG_SRC, a);
  state->prepared.add(DNNL_ARG_DST, out);
  if (constant_b) {
    state->prepared.add(DNNL_ARG_WEIGHTS, reordered(constant_b, b, chosen.weights_desc()));
  } else {
    state->prepared.add(DNNL_ARG_WEIGHTS, b);
  }
  if (bias) {
    const int argument =
        late_bias ? DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1 : DNNL_ARG_BIAS;
    state->prepared.add(argument, reordered(bias, bias_desc, bias_desc));
  }
  return std::unique_ptr<DnnlMatMulF32>(new DnnlMatMulF32(std::move(state)));
} catch (const dnnl::error&) {
  return nullptr;
}

size_t DnnlMatMulF32::workspace_bytes() const noexcept {
  return state_->prepared.workspace_bytes();
}
const char* DnnlMatMulF32::implementation() const noexcept {
  return state_->prepared.implementation();
}

void DnnlMatMulF32::run(const float* a, const float* b, float* out, void* workspace) noexcept {
  spread_threads();
  state_->prepared.point(DNNL_ARG_SRC, a);
  state_->prepared.point(DNNL_ARG_DST, out);
  if (!state_->constant_b) state_->prepared.point(DNNL_ARG_WEIGHTS, b);
  state_->prepared.run(workspace);
}

}  // namespace compress::kernels
