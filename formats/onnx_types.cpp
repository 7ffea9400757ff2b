#include "formats/onnx_types.h"

#include "formats/onnx_fields.h"
#include "formats/wire.h"

namespace compress {
namespace {

namespace info_field = onnx_field::value_info;

int64_t scan_dim(std::string_view wire, SymbolTable& symbols, ValueInfo& info) {
  int64_t dim = kUnknownDim;
  WireReader reader(wire);
  for (WireField f; reader.next(f);) {
    if (f.number == onnx_field::dim::value) {
      // -1 is how some exporters (Paddle) write a dimension that is not known.
      dim = f.int64();
      if (dim < kUnknownDim) {
        fail(ErrorCode::invalid_model, "value '{}': a dimension is {}", info.name, dim);
      }
    } else if (f.number == onnx_field::dim::param) {
      dim = symbols.find(f.text());
    } else {
      info.is_partial = true;
    }
  }
  return dim;
}

void scan_tensor_type(std::string_view wire, SymbolTable& symbols, ValueInfo& info) {
  int64_t element = 0;
  WireReader reader(wire);
  for (WireField f; reader.next(f);) {
    if (f.number == onnx_field::tensor_type::elem_type) {
      element = f.int64();
    } else if (f.number == onnx_field::tensor_type::shape) {
      info.type.has_shape = true;
      WireReader dims(f.text());
      for (WireField d; dims.next(d);) {
        if (d.number != onnx_field::shape::dim) continue;
        info.type.shape.push_back(scan_dim(d.text(), symbols, info));
      }
    } else {
      info.is_partial = true;
    }
  }
  if (element == 27 || element == 28) {
    fail(ErrorCode::unsupported, "value '{}': 6-bit floats", info.name);
  }
  if (element <= 0 || element > static_cast<int64_t>(DType::int2)) {
    fail(ErrorCode::invalid_model, "value '{}': element type {}", info.name, element);
  }
  info.type.dtype = static_cast<DType>(element);
}

void scan_type(std::string_view wire, SymbolTable& symbols, ValueInfo& info) {
  WireReader reader(wire);
  for (WireField f; reader.next(f);) {
    if (f.number == onnx_field::type::tensor) {
      scan_tensor_type(f.text(), symbols, info);
    } else {
      info.is_partial = true;
    }
    if (f.number != onnx_field::type::denotation) info.has_type = true;
  }
}

std::string type_wire(const Graph& graph, const TypeInfo& type) {
  std::string tensor;
  put_int(tensor, onnx_field::tensor_type::elem_type, static_cast<int64_t>(type.dtype));
  if (type.has_shape) {
    std::string shape;
    for (const int64_t size : type.shape) {
      std::string dim;
      if (size >= 0) {
        put_int(dim, onnx_field::dim::value, size);
      } else {
        put_text(dim, onnx_field::dim::param, graph.symbol_name(size));
      }
      put_bytes(shape, onnx_field::shape::dim, dim);
    }
    put_bytes(tensor, onnx_field::tensor_type::shape, shape);
  }
  std::string wire;
  put_bytes(wire, onnx_field::type::tensor, tensor);
  return wire;
}

bool same_type(const Graph& a_graph, const TypeInfo& a, const Graph& b_graph, const TypeInfo& b) {
  if (a.dtype != b.dtype || a.has_shape != b.has_shape || a.shape.rank() != b.shape.rank()) {
    return false;
  }
  for (int i = 0; i < a.shape.rank(); ++i) {
    const bool same = a.shape[i] >= 0 || b.shape[i] >= 0
                          ? a.shape[i] == b.shape[i]
                          : a_graph.symbol_name(a.shape[i]) == b_graph.symbol_name(b.shape[i]);
    if (!same) return false;
  }
  return true;
}

}  // namespace

int64_t SymbolTable::find(std::string_view name) {
  // Graph::symbol searches linearly; a file with more names than any real one keeps only these.
  constexpr size_t kMaxSymbols = 10'000;
  if (name.empty()) return kUnknownDim;
  const auto row = known_.find(std::string(name));
  if (row != known_.end()) return row->second;
  if (known_.size() >= kMaxSymbols) return kUnknownDim;
  return known_.emplace(name, graph_.symbol(name)).first->second;
}

ValueInfo scan_value_info(std::string_view wire, SymbolTable& symbols) {
  ValueInfo info;
  std::string_view type;
  WireReader reader(wire);
  for (WireField f; reader.next(f);) {
    if (f.number == info_field::name) {
      info.name = f.string();
    } else if (f.number == info_field::type) {
      type = f.text();
    } else {
      info.is_partial = true;
    }
  }
  scan_type(type, symbols, info);
  return info;
}

std::string value_info_wire(const Graph& graph, const Value& value) {
  std::string wire;
  put_bytes(wire, info_field::name, value.name);
  bool has_type = value.type.dtype != DType::undefined;
  if (!value.wire.empty()) {
    // The type as it was read says more (denotations, sequences), unless a pass changed it since.
    Graph scratch;
    SymbolTable symbols(scratch);
    const ValueInfo before = scan_value_info(value.wire, symbols);
    const bool keep_type = same_type(scratch, before.type, graph, value.type);
    WireReader reader(value.wire);
    for (WireField f; reader.next(f);) {
      if (f.number == info_field::name) continue;
      if (f.number == info_field::type) {
        if (!keep_type) continue;
        has_type = false;
      }
      wire += f.whole;
    }
  }
  if (has_type) put_bytes(wire, info_field::type, type_wire(graph, value.type));
  return wire;
}

}  // namespace compress
