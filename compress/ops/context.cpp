#include "compress/error.h"
#include "compress/ops/op.h"
#include "compress/ops/support.h"

namespace compress {

bool NodeContext::has_input(int i) const {
  return i >= 0 && i < input_count() && node_.inputs[static_cast<size_t>(i)] != kNoValue;
}

bool NodeContext::has_output(int i) const {
  return i >= 0 && i < static_cast<int>(node_.outputs.size()) &&
         node_.outputs[static_cast<size_t>(i)] != kNoValue;
}

const TypeInfo& NodeContext::in(int i) const {
  static const TypeInfo none;
  return i >= 0 && static_cast<size_t>(i) < input_types.size() ? input_types[static_cast<size_t>(i)]
                                                               : none;
}

const Tensor* NodeContext::constant(int i) const {
  if (!has_input(i) || static_cast<size_t>(i) >= constants.size()) return nullptr;
  const Tensor* tensor = constants[static_cast<size_t>(i)];
  return tensor != nullptr && *tensor ? tensor : nullptr;
}

std::optional<std::vector<int64_t>> NodeContext::ints(std::string_view attribute, int i,
                                                      std::vector<int64_t> fallback) const {
  if (has_input(i)) {
    const Tensor* tensor = constant(i);
    if (tensor == nullptr) return std::nullopt;
    return tensor->to_ints();
  }
  if (attribute.empty() || node_.attribute(attribute) == nullptr) return fallback;
  return node_.ints_or(attribute, std::move(fallback));
}

void NodeContext::invalid(std::string_view what) const {
  fail(ErrorCode::invalid_model, "{}: {}", ops::label(*this), what);
}

void NodeContext::unsupported(std::string_view what) const {
  fail(ErrorCode::unsupported, "{}: {}", ops::label(*this), what);
}

void NodeContext::set_output(int i, DType dtype, const Shape& shape) {
  output_types.resize(node_.outputs.size());
  if (!has_output(i)) return;
  output_types[static_cast<size_t>(i)] = {dtype, true, shape};
}

void NodeContext::set_output(int i, DType dtype) {
  output_types.resize(node_.outputs.size());
  if (!has_output(i)) return;
  output_types[static_cast<size_t>(i)] = {dtype, false, Shape()};
}

}  // namespace compress
