#include "formats/onnx_check.h"
#include "formats/onnx_fields.h"
#include "formats/onnx_reader.h"
#include "formats/wire.h"

namespace compress {
namespace {

namespace field = onnx_field;

// Shapes, axes, pads and scales that inference reads are far below this; weights are above.
constexpr size_t kKeptBytes = 4096;

bool is_data_field(uint32_t number) {
  switch (number) {
    case field::tensor::float_data:
    case field::tensor::int32_data:
    case field::tensor::string_data:
    case field::tensor::int64_data:
    case field::tensor::raw_data:
    case field::tensor::double_data:
    case field::tensor::uint64_data:
    case field::tensor::external_data:
    case field::tensor::data_location:
      return true;
    default:
      return false;
  }
}

std::string cut_tensor(std::string_view wire, Cut cut, TensorSource& source) {
  TensorWire tensor;
  if (wire.size() <= kKeptBytes) {
    tensor = scan_tensor(wire);
    if (!tensor.external) return std::string(wire);
  }
  std::string out;
  WireReader reader(wire);
  for (WireField f; reader.next(f);) {
    const bool dropped =
        is_data_field(f.number) || (f.number == field::tensor::dims && cut == Cut::for_checker);
    if (!dropped) out += f.whole;
  }
  if (tensor.external) {
    const Tensor content = read_tensor(tensor, source);
    if (content.bytes() <= kKeptBytes) {
      for (const int64_t dim : tensor.dims) {
        if (cut == Cut::for_checker) put_int(out, field::tensor::dims, dim);
      }
      const TensorData data = content.read();
      const auto bytes = data.bytes();
      if (!bytes.empty()) {
        put_bytes(out, field::tensor::raw_data,
                  {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
      }
      return out;
    }
  }
  if (cut == Cut::for_checker) put_int(out, field::tensor::dims, 0);
  return out;
}

// A sparse initializer as a dense one without data: name and type are what others refer to.
std::string cut_sparse(std::string_view wire, Cut cut) {
  std::string values;
  std::string dims;
  WireReader reader(wire);
  for (WireField f; reader.next(f);) {
    if (f.number == field::sparse::values) {
      WireReader parts(f.text());
      for (WireField part; parts.next(part);) {
        if (!is_data_field(part.number) && part.number != field::tensor::dims) {
          values += part.whole;
        }
      }
    }
    // Both messages number their dims differently; the value's encoding is the same.
    if (f.number == field::sparse::dims && cut == Cut::for_inference) {
      if (f.type == WireType::varint) {
        put_int(dims, field::tensor::dims, f.int64());
      } else {
        put_bytes(dims, field::tensor::dims, f.text());
      }
    }
  }
  if (cut == Cut::for_checker) put_int(dims, field::tensor::dims, 0);
  return dims + values;
}

// Copies a message; `replace` gives the new content of the fields that it knows.
template <class Replace>
std::string copy_message(std::string_view wire, Replace&& replace) {
  std::string out;
  WireReader reader(wire);
  for (WireField f; reader.next(f);) {
    if (f.type != WireType::bytes || !replace(f, out)) out += f.whole;
  }
  return out;
}

// The checker wants a shape of every input and output, which the specification does not and files
// of unknown rank cannot give; a scalar's stands in, as nothing but inference looks at it.
std::string with_shape(std::string_view info) {
  return copy_message(info, [](const WireField& f, std::string& out) {
    if (f.number != field::value_info::type) return false;
    put_bytes(out, f.number, copy_message(f.bytes, [](const WireField& t, std::string& type) {
                if (t.number != field::type::tensor) return false;
                std::string tensor(t.bytes);
                bool has_shape = false;
                WireReader reader(t.bytes);
                for (WireField part; reader.next(part);) {
                  has_shape |= part.number == field::tensor_type::shape;
                }
                if (!has_shape) put_bytes(tensor, field::tensor_type::shape, "");
                put_bytes(type, t.number, tensor);
                return true;
              }));
    return true;
  });
}

class Cutter {
 public:
  Cutter(Cut cut, TensorSource& source) : cut_(cut), source_(source) {}

  std::string model(std::string_view wire) {
    return copy_message(wire, [&](const WireField& f, std::string& out) {
      if (f.number == field::model::graph) {
        put_bytes(out, f.number, graph(f.bytes, 0));
      } else if (f.number == field::model::functions) {
        put_bytes(out, f.number, function(f.bytes));
      } else {
        // Training graphs may hold external data, and no check looks at them.
        return f.number > field::model::functions || f.number == 20;
      }
      return true;
    });
  }

 private:
  std::string graph(std::string_view wire, int depth) {
    if (depth > kMaxGraphDepth) fail(ErrorCode::invalid_model, "graphs are nested too deep");
    return copy_message(wire, [&](const WireField& f, std::string& out) {
      if (f.number == field::graph::node) {
        put_bytes(out, f.number, node(f.bytes, depth));
      } else if (f.number == field::graph::initializer) {
        put_bytes(out, f.number, cut_tensor(f.bytes, cut_, source_));
      } else if (cut_ == Cut::for_checker &&
                 (f.number == field::graph::input || f.number == field::graph::output)) {
        put_bytes(out, f.number, with_shape(f.bytes));
      } else if (f.number == field::graph::sparse_initializer) {
        put_bytes(out, field::graph::initializer, cut_sparse(f.bytes, cut_));
      } else {
        return false;
      }
      return true;
    });
  }

  std::string node(std::string_view wire, int depth) {
    return copy_message(wire, [&](const WireField& f, std::string& out) {
      if (f.number != field::node::attribute) return false;
      put_bytes(out, f.number, attribute(f.bytes, depth));
      return true;
    });
  }

  std::string attribute(std::string_view wire, int depth) {
    return copy_message(wire, [&](const WireField& f, std::string& out) {
      if (f.number == field::attribute::t || f.number == field::attribute::tensors) {
        put_bytes(out, f.number, cut_tensor(f.bytes, cut_, source_));
      } else if (f.number == field::attribute::g || f.number == field::attribute::graphs) {
        put_bytes(out, f.number, graph(f.bytes, depth + 1));
      } else {
        return false;
      }
      return true;
    });
  }

  std::string function(std::string_view wire) {
    return copy_message(wire, [&](const WireField& f, std::string& out) {
      if (f.number == field::function::node) {
        put_bytes(out, f.number, node(f.bytes, 0));
      } else if (f.number == field::function::attribute_proto) {
        put_bytes(out, f.number, attribute(f.bytes, 0));
      } else {
        return false;
      }
      return true;
    });
  }

  Cut cut_;
  TensorSource& source_;
};

}  // namespace

std::string cut_model(std::string_view wire, Cut cut, TensorSource& source) {
  return Cutter(cut, source).model(wire);
}

}  // namespace compress
