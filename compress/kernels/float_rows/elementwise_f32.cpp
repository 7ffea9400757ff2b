#include "compress/kernels/float_rows/elementwise_f32.h"

#include <algorithm>

#include "compress/core/parallel.h"
#include "compress/kernels/aligned.h"

namespace compress::kernels {
namespace {

constexpr const ElementwiseF32Kernel* kKernels[] = {&kElementwiseF32Avx2, &kElementwiseF32Ref};

constexpr int64_t kBlock = 512;           // elements: 2 KB an operand
constexpr int64_t kThreadWork = 1 << 16;  // elements times steps that repay waking a thread

// Steps whose cost is that of several others.
int64_t cost_of(const ElementProgram& program) {
  int64_t cost = 0;
  for (const ElementStep& step : program.steps) {
    const bool heavy = step.op >= ElementOp::exponential && step.op <= ElementOp::gelu_tanh &&
                       step.op != ElementOp::clip && step.op != ElementOp::leaky;
    cost += heavy ? 8 : 1;
  }
  return std::max<int64_t>(cost, 1);
}

// Elements [begin, begin + count) of a repeated input, in the order of the output.
void spread(const ElementLayout& layout, const ElementLayout::Input& input, const float* from,
            int64_t begin, int64_t count, float* to) noexcept {
  constexpr size_t kMaxDims = 16;
  const size_t rank = layout.dims.size();
  std::array<int64_t, kMaxDims> at{};
  int64_t offset = 0;
  int64_t rest = begin;
  for (size_t d = rank; d-- > 0;) {
    at[d] = rest % layout.dims[d];
    rest /= layout.dims[d];
    offset += at[d] * input.strides[d];
  }
  const int64_t width = layout.dims[rank - 1];
  const int64_t step = input.strides[rank - 1];
  while (count > 0) {
    const int64_t run = std::min(count, width - at[rank - 1]);
    if (step == 0) {
      std::fill_n(to, run, from[offset]);
    } else {
      for (int64_t i = 0; i < run; ++i) to[i] = from[offset + i];
    }
    to += run;
    count -= run;
    offset -= at[rank - 1] * step;
    at[rank - 1] = 0;
    for (size_t d = rank - 1; d-- > 0;) {
      offset += input.strides[d];
      if (++at[d] < layout.dims[d]) break;
      offset -= at[d] * input.strides[d];
      at[d] = 0;
    }
  }
}

// Elements of a block: whole lines where every repeated input is one line for all of them
// (channels), so that it is written out once; 0 where they are not so.
int64_t lines_block(const ElementLayout& layout) noexcept {
  const int64_t width = layout.dims.empty() ? 0 : layout.dims.back();
  if (width <= 0 || width > kBlock) return 0;
  bool any = false;
  for (const ElementLayout::Input& input : layout.inputs) {
    if (input.kind != ElementLayout::Kind::spread) continue;
    any = true;
    const auto outer = input.strides.end() - 1;
    if (*outer != 1 ||
        std::any_of(input.strides.begin(), outer, [](int64_t s) { return s != 0; })) {
      return 0;
    }
  }
  return any ? kBlock / width * width : 0;
}

}  // namespace

std::span<const ElementwiseF32Kernel* const> elementwise_f32_kernels() noexcept { return kKernels; }

const ElementwiseF32Kernel& best_elementwise_f32() noexcept {
  return active_isa() == Isa::ref ? kElementwiseF32Ref : kElementwiseF32Avx2;
}

ElementLayout element_layout(std::span<const int64_t> out,
                             std::span<const std::vector<int64_t>> inputs) {
  ElementLayout layout;
  for (const int64_t dim : out) layout.count *= dim;
  std::vector<std::vector<int64_t>> strides(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    strides[i].assign(out.size(), 0);
    int64_t stride = 1;
    for (size_t k = 0; k < inputs[i].size(); ++k) {
      const size_t from = inputs[i].size() - 1 - k;
      const size_t to = out.size() - 1 - k;
      if (inputs[i][from] != 1) strides[i][to] = stride;
      stride *= inputs[i][from];
    }
  }
  // From the last dimension outwards: one joins the one inside it where all inputs step alike.
  std::vector<std::vector<int64_t>> merged(inputs.size());
  for (size_t d = out.size(); d-- > 0;) {
    if (out[d] == 1) continue;
    bool joins = !layout.dims.empty();
    for (size_t i = 0; i < inputs.size() && joins; ++i) {
      joins = strides[i][d] == merged[i].front() * layout.dims.front();
    }
    if (joins) {
      layout.dims.front() *= out[d];
      continue;
    }
    layout.dims.insert(layout.dims.begin(), out[d]);
    for (size_t i = 0; i < inputs.size(); ++i) {
      merged[i].insert(merged[i].begin(), strides[i][d]);
    }
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    ElementLayout::Input input;
    int64_t count = 1;
    for (const int64_t dim : inputs[i]) count *= dim;
    input.strides = merged[i];
    input.kind = count == layout.count ? ElementLayout::Kind::whole
                 : count == 1          ? ElementLayout::Kind::single
                                       : ElementLayout::Kind::spread;
    layout.inputs.push_back(std::move(input));
  }
  return layout;
}

void run_elements(const ElementProgram& program, const ElementLayout& layout,
                  std::span<const float* const> inputs, float* out,
                  const ElementwiseF32Kernel& kernel) noexcept {
  using Kind = ElementLayout::Kind;
  const int64_t lines = lines_block(layout), block = lines > 0 ? lines : kBlock;
  const int64_t grain = round_up(divide_up(kThreadWork, cost_of(program)), block);
  parallel_for(0, layout.count, grain, [&](int64_t begin, int64_t end) {
    alignas(64) float buffers[ElementProgram::kMaxInputs + ElementProgram::kMaxRegisters][kBlock];
    std::array<const float*, ElementProgram::kMaxInputs + ElementProgram::kMaxRegisters> from{};
    const auto first = static_cast<size_t>(program.inputs);
    for (size_t i = 0; i < first; ++i) {
      from[i] = buffers[i];
      if (layout.inputs[i].kind == Kind::single) {
        std::fill_n(buffers[i], std::min(block, end - begin), inputs[i][0]);
      } else if (layout.inputs[i].kind == Kind::spread && lines > 0) {
        spread(layout, layout.inputs[i], inputs[i], begin, std::min(block, end - begin),
               buffers[i]);
      }
    }
    for (size_t i = first; i < from.size(); ++i) from[i] = buffers[i];
    for (int64_t at = begin; at < end; at += block) {
      const int64_t count = std::min(block, end - at);
      for (size_t i = 0; i < first; ++i) {
        if (layout.inputs[i].kind == Kind::whole) from[i] = inputs[i] + at;
        if (layout.inputs[i].kind == Kind::spread && lines == 0) {
          spread(layout, layout.inputs[i], inputs[i], at, count, buffers[i]);
        }
      }
      for (size_t s = 0; s < program.steps.size(); ++s) {
        const ElementStep& step = program.steps[s];
        float* to = s + 1 == program.steps.size() ? out + at : buffers[step.to];
        kernel.apply(step.op, step.p, step.q, from[static_cast<size_t>(step.a)],
                     step.b >= 0 ? from[static_cast<size_t>(step.b)] : nullptr, to, count);
      }
    }
  });
}

void activate_f32(const ActivationF32& activation, float* values, int64_t count) noexcept {
  const ElementwiseF32Kernel& kernel = best_elementwise_f32();
  parallel_for(0, count, kThreadWork / 8, [&](int64_t begin, int64_t end) {
    kernel.apply(activation.op, activation.p, activation.q, values + begin, nullptr, values + begin,
                 end - begin);
  });
}

}  // namespace compress::kernels
