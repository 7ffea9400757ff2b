// Optional values where they are tensors: an optional that is there is its tensor.
#include "compress/ops/special_families.h"
#include "compress/ops/support.h"

namespace compress {
namespace {

using namespace ops;

void infer_has_element(NodeContext& context) {
  require_inputs(context, 0, 1);
  context.set_output(0, DType::boolean, Shape());
}

Kernel prepare_has_element(const NodeContext& context) {
  return {"", [has = context.has_input(0)](const KernelArgs& args) {
            *static_cast<bool*>(args.outputs[0].data) = has;
          }};
}

void infer_get_element(NodeContext& context) {
  require_inputs(context, 1, 1);
  infer_same(context);
}

constexpr OpDef kRows[] = {
    any_row("OptionalHasElement", 15, infer_has_element, prepare_has_element),
    moving_row("OptionalGetElement", 15, infer_get_element, copy_all_kernel),
};

}  // namespace

constinit const std::span<const OpDef> kOptionalOps = kRows;

}  // namespace compress
