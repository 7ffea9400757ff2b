#include "compress/kernels/dnnl/dnnl_conv_gradient.h"

#include <algorithm>

#include "compress/core/one_thread.h"
#include "compress/core/parallel.h"
#include "compress/kernels/dnnl/dnnl_prepared.h"

namespace compress::kernels {
namespace {

// The memory of the workspace, one part after the other.
class Parts {
 public:
  size_t add(size_t bytes) {
    const size_t at = end_;
    end_ += aligned(bytes);
    return at;
  }
  size_t end() const { return end_; }

 private:
  size_t end_ = 0;
};

struct Geometry {
  memory::desc x, y, plain_w, any_x, any_y, any_w, bias;
  memory::dims strides, dilations, pad_begin, pad_end;
};

Geometry geometry_of(const ConvF32Params& p, bool bias) {
  const int64_t in_group = p.in_channels / p.groups, out_group = p.out_channels / p.groups;
  const memory::dims w = p.groups == 1
                             ? memory::dims{p.out_channels, p.in_channels, p.kernel_h, p.kernel_w}
                             : memory::dims{p.groups, out_group, in_group, p.kernel_h, p.kernel_w};
  const memory::dims x{p.batch, p.in_channels, p.in_h, p.in_w};
  const memory::dims y{p.batch, p.out_channels, p.out_h(), p.out_w()};
  Geometry g;
  g.x = g.any_x = memory::desc(x, kFloat, Tag::nhwc);
  g.y = g.any_y = memory::desc(y, kFloat, Tag::nhwc);
  // One channel lies the same in every layout, and the kernels for few channels want it plain.
  if (p.in_channels == 1) g.any_x = memory::desc(x, kFloat, Tag::nchw);
  g.plain_w = memory::desc(w, kFloat, p.groups == 1 ? Tag::oihw : Tag::goihw);
  g.any_w = memory::desc(w, kFloat, Tag::any);
  if (bias) g.bias = memory::desc({p.out_channels}, kFloat, Tag::x);
  g.strides = {p.stride_h, p.stride_w};
  g.dilations = {p.dilation_h - 1, p.dilation_w - 1};
  g.pad_begin = {p.pad_top, p.pad_left};
  g.pad_end = {p.pad_bottom, p.pad_right};
  return g;
}

constexpr auto kDirect = dnnl::algorithm::convolution_direct;

dnnl::convolution_forward::primitive_desc forward_of(const Geometry& g,
                                                     const dnnl::primitive_attr& attr,
                                                     dnnl::prop_kind kind) {
  const dnnl::convolution_forward::desc description(kind, kDirect, g.any_x, g.any_w, g.bias,
                                                    g.any_y, g.strides, g.dilations, g.pad_begin,
                                                    g.pad_end);
  return {description, attr, cpu_engine()};
}

}  // namespace

// `weights` converts b (forward, data) or the result (weights).
struct DnnlConvPass::State {
  Kind kind;
  Prepared prepared;
  bool one_thread;
  std::optional<Prepared> weights;
  size_t weights_at = 0;  // in the workspace, behind the scratch memory
  size_t workspace_bytes = 0;
};

DnnlConvPass::DnnlConvPass(std::unique_ptr<State> state) : state_(std::move(state)) {}
DnnlConvPass::~DnnlConvPass() = default;

std::unique_ptr<DnnlConvPass> DnnlConvPass::make(const ConvF32Params& p, Kind kind, bool bias,
                                                 bool one_thread) {
  std::unique_ptr<DnnlConvPass> made;
  const auto build = [&] {
    try {
      const Geometry g = geometry_of(p, bias);
      dnnl::primitive_attr attr;
      attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
      std::unique_ptr<State> state;
      memory::desc w;
      if (kind == Kind::forward) {
        dnnl::post_ops ops;
        append_clamp(ops, p.clamp);
        attr.set_post_ops(ops);
        const auto chosen = forward_of(g, attr, dnnl::prop_kind::forward_inference);
        w = chosen.weights_desc();
        state.reset(new State{kind, Prepared(chosen), one_thread, make_reorder(g.plain_w, w)});
        state->prepared.add(DNNL_ARG_SRC, g.any_x);
        state->prepared.add(DNNL_ARG_WEIGHTS, w);
        state->prepared.add(DNNL_ARG_DST, g.any_y);
        if (bias) state->prepared.add(DNNL_ARG_BIAS, g.bias);
      } else {
        const auto hint = forward_of(g, dnnl::primitive_attr(), dnnl::prop_kind::forward_training);
        if (kind == Kind::data) {
          const dnnl::convolution_backward_data::desc description(
              kDirect, g.any_x, g.any_w, g.any_y, g.strides, g.dilations, g.pad_begin, g.pad_end);
          const dnnl::convolution_backward_data::primitive_desc chosen(description, attr,
                                                                       cpu_engine(), hint);
          w = chosen.weights_desc();
          state.reset(new State{kind, Prepared(chosen), one_thread, make_reorder(g.plain_w, w)});
          state->prepared.add(DNNL_ARG_DIFF_DST, g.any_y);
          state->prepared.add(DNNL_ARG_WEIGHTS, w);
          state->prepared.add(DNNL_ARG_DIFF_SRC, g.any_x);
        } else {
          const dnnl::convolution_backward_weights::desc description(
              kDirect, g.any_x, g.any_w, g.bias, g.any_y, g.strides, g.dilations, g.pad_begin,
              g.pad_end);
          const dnnl::convolution_backward_weights::primitive_desc chosen(description, attr,
                                                                          cpu_engine(), hint);
          w = chosen.diff_weights_desc();
          state.reset(new State{kind, Prepared(chosen), one_thread, make_reorder(w, g.plain_w)});
          state->prepared.add(DNNL_ARG_DIFF_DST, g.any_y);
          state->prepared.add(DNNL_ARG_SRC, g.any_x);
          state->prepared.add(DNNL_ARG_DIFF_WEIGHTS, w);
          if (bias) state->prepared.add(DNNL_ARG_DIFF_BIAS, g.bias);
        }
      }
      Parts parts;
      parts.add(std::max(state->prepared.workspace_bytes(),
                         state->weights ? state->weights->workspace_bytes() : 0));
      state->weights_at = parts.add(state->weights ? w.get_size() : 0);
      state->workspace_bytes = parts.end();
      made.reset(new DnnlConvPass(std::move(state)));
    } catch (const dnnl::error&) {
    }
  };
  if (one_thread) {
    on_one_thread(build);
  } else {
    build();
  }
  return made;
}

size_t DnnlConvPass::workspace_bytes() const noexcept { return state_->workspace_bytes; }
const char* DnnlConvPass::implementation() const noexcept {
  return state_->prepared.implementation();
}

void DnnlConvPass::run(const float* a, const float* b, float* bias, float* out,
                       void* workspace) noexcept {
  State& s = *state_;
  const auto here = [&] {
    auto* inner = static_cast<uint8_t*>(workspace) + s.weights_at;
    if (s.kind == Kind::weights) {
      s.prepared.point(DNNL_ARG_DIFF_DST, a);
      s.prepared.point(DNNL_ARG_SRC, b);
      s.prepared.point(DNNL_ARG_DIFF_WEIGHTS, s.weights ? static_cast<void*>(inner) : out);
      if (bias != nullptr) s.prepared.point(DNNL_ARG_DIFF_BIAS, bias);
      s.prepared.run(workspace);
      if (s.weights) run_reorder(*s.weights, inner, out, workspace);
      return;
    }
    if (s.weights) run_reorder(*s.weights, b, inner, workspace);
    const bool forward = s.kind == Kind::forward;
    s.prepared.point(forward ? DNNL_ARG_SRC : DNNL_ARG_DIFF_DST, a);
    s.prepared.point(DNNL_ARG_WEIGHTS, s.weights ? static_cast<const void*>(inner) : b);
    s.prepared.point(forward ? DNNL_ARG_DST : DNNL_ARG_DIFF_SRC, out);
    if (bias != nullptr) s.prepared.point(DNNL_ARG_BIAS, bias);
    s.prepared.run(workspace);
  };
  if (s.one_thread) {
    on_one_thread(here);
  } else {
    here();
  }
}

}  // namespace compress::kernels
