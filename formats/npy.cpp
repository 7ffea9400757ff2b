#include "formats/npy.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "compress/error.h"
#include "formats/arrays.h"
#include "formats/file.h"

namespace compress {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
// NumPy itself refuses to evaluate longer headers; ours never needs more than a few hundred bytes.
constexpr uint32_t kMaxHeader = 64 * 1024;

struct DescrRow {
  std::string_view code;  // without byte order
  DType dtype;
};
constexpr DescrRow kDescrs[] = {
    {"b1", DType::boolean}, {"u1", DType::uint8},   {"i1", DType::int8},    {"u2", DType::uint16},
    {"i2", DType::int16},   {"u4", DType::uint32},  {"i4", DType::int32},   {"u8", DType::uint64},
    {"i8", DType::int64},   {"f2", DType::float16}, {"f4", DType::float32}, {"f8", DType::float64},
};

// A reader of the dictionary that a header is: {'descr': '<f4', 'fortran_order': False, 'shape':
// (3, 4), } as Python writes it. Anything else is refused.
class HeaderText {
 public:
  explicit HeaderText(std::string_view text) : text_(text) {}

  void skip_blanks() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  bool take(char c) {
    skip_blanks();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!take(c)) broken();
  }
  bool at_end() {
    skip_blanks();
    return at_ == text_.size();
  }
  bool take_word(std::string_view word) {
    skip_blanks();
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  std::string_view quoted() {
    skip_blanks();
    const char quote = at_ < text_.size() ? text_[at_] : '\0';
    if (quote != '\'' && quote != '"') broken();
    const size_t end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) broken();
    const std::string_view inside = text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    return inside;
  }
  int64_t number() {
    skip_blanks();
    const size_t start = at_;
    int64_t value = 0;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
      if (value > (int64_t{1} << 58))
        fail(ErrorCode::invalid_model, "npy header: absurd dimension");
      value = value * 10 + (text_[at_++] - '0');
    }
    if (at_ == start) broken();
    return value;
  }
  [[noreturn]] void broken() const {
    fail(ErrorCode::invalid_model, "npy header: not a plain dictionary at character {}", at_);
  }

 private:
  std::string_view text_;
  size_t at_ = 0;
};

Shape parse_shape(HeaderText& text) {
  Shape shape;
  text.expect('(');
  while (!text.take(')')) {
    shape.push_back(text.number());
    if (text.take(',')) continue;
    text.expect(')');
    if (shape.rank() == 1) text.broken();  // "(3)" is a number, not a tuple
    break;
  }
  return shape;
}

void parse_descr(HeaderText& text, NpyHeader& header) {
  text.skip_blanks();
  if (text.take('[')) {
    fail(ErrorCode::unsupported, "npy header: structured arrays are not read");
  }
  const std::string_view descr = text.quoted();
  const char order = descr.empty() ? '\0' : descr.front();
  const bool has_order = order == '<' || order == '>' || order == '|' || order == '=';
  const std::string_view code = has_order ? descr.substr(1) : descr;
  for (const DescrRow& row : kDescrs) {
    if (row.code != code) continue;
    header.dtype = row.dtype;
    header.big_endian = order == '>';
    return;
  }
  fail(ErrorCode::unsupported,
       "npy header: type '{}' is not read; bool, integers and floats of 16, 32 and 64 bits are",
       descr);
}

void swap_bytes(std::byte* data, uint64_t count, size_t size) {
  for (uint64_t i = 0; i < count; ++i, data += size) std::reverse(data, data + size);
}

// Column-major to row-major: the bytes are those of the transposed array in row-major order.
Tensor from_fortran(const Tensor& stored) {
  const Shape& shape = stored.shape();
  const TensorData data = stored.read();
  const size_t size = static_cast<size_t>(info(stored.dtype()).bits) / 8;
  Tensor out = Tensor::allocate(stored.dtype(), shape);
  std::byte* to = out.mutable_data();
  const std::byte* from = data.bytes().data();
  std::array<int64_t, kMaxRank> index{};
  std::array<int64_t, kMaxRank> stride{};
  int64_t step = 1;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    stride[static_cast<size_t>(axis)] = step;
    step *= shape[axis];
  }
  int64_t offset = 0;
  for (int64_t i = 0; i < out.count(); ++i) {
    std::memcpy(to + static_cast<size_t>(i) * size, from + static_cast<size_t>(offset) * size,
                size);
    for (int axis = shape.rank() - 1; axis >= 0; --axis) {
      const auto a = static_cast<size_t>(axis);
      offset += stride[a];
      if (++index[a] < shape[axis]) break;
      offset -= stride[a] * shape[axis];
      index[a] = 0;
    }
  }
  return out;
}

bool has_true_bools_only(const Tensor& tensor) {
  const TensorData data = tensor.read();
  return std::all_of(data.bytes().begin(), data.bytes().end(),
                     [](std::byte b) { return std::to_integer<int>(b) <= 1; });
}

}  // namespace

size_t npy_header_size(std::span<const std::byte> prefix) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(prefix.data());
  if (prefix.size() < 10 ||
      std::string_view(reinterpret_cast<const char*>(bytes), kMagic.size()) != kMagic) {
    fail(ErrorCode::invalid_model, "not a .npy array (wrong first bytes)");
  }
  const int version = bytes[6];
  if (version < 1 || version > 3 || bytes[7] != 0) {
    fail(ErrorCode::unsupported, "npy version {}.{} is not read", version, bytes[7]);
  }
  uint32_t length = static_cast<uint32_t>(bytes[8]) | static_cast<uint32_t>(bytes[9]) << 8;
  if (version == 1) return 10 + length;
  if (prefix.size() < kNpyPrefix) fail(ErrorCode::invalid_model, "npy header: truncated");
  length |= static_cast<uint32_t>(bytes[10]) << 16 | static_cast<uint32_t>(bytes[11]) << 24;
  if (length > kMaxHeader) {
    fail(ErrorCode::invalid_model, "npy header: {} bytes are more than any array needs", length);
  }
  return kNpyPrefix + length;
}

NpyHeader parse_npy_header(std::span<const std::byte> bytes) {
  const size_t size = npy_header_size(bytes.first(std::min(bytes.size(), kNpyPrefix)));
  if (size > bytes.size()) {
    fail(ErrorCode::invalid_model, "npy header: {} bytes announced, {} there", size, bytes.size());
  }
  const size_t prefix = std::to_integer<int>(bytes[6]) == 1 ? 10 : kNpyPrefix;
  HeaderText text({reinterpret_cast<const char*>(bytes.data()) + prefix, size - prefix});
  NpyHeader header;
  header.data_offset = size;
  bool seen_descr = false, seen_order = false, seen_shape = false;
  const auto once = [](bool& seen, std::string_view key) {
    if (seen) fail(ErrorCode::invalid_model, "npy header: '{}' twice", key);
    seen = true;
  };
  text.expect('{');
  while (!text.take('}')) {
    const std::string_view key = text.quoted();
    text.expect(':');
    if (key == "descr") {
      once(seen_descr, key);
      parse_descr(text, header);
    } else if (key == "fortran_order") {
      once(seen_order, key);
      header.fortran_order = text.take_word("True");
      if (!header.fortran_order && !text.take_word("False")) text.broken();
    } else if (key == "shape") {
      once(seen_shape, key);
      header.shape = parse_shape(text);
    } else {
      fail(ErrorCode::invalid_model, "npy header: unknown key '{}'", key);
    }
    if (text.take(',')) continue;
    text.expect('}');
    break;
  }
  if (!text.at_end()) text.broken();
  if (!seen_descr || !seen_order || !seen_shape) {
    fail(ErrorCode::invalid_model, "npy header: descr, fortran_order or shape is missing");
  }
  header.data_bytes = byte_size(header.dtype, static_cast<uint64_t>(header.shape.count()));
  return header;
}

Tensor npy_decode(const NpyHeader& header, Tensor stored) {
  const size_t size = static_cast<size_t>(info(header.dtype).bits) / 8;
  if (header.big_endian && size > 1) {
    const TensorData data = stored.read();
    Tensor swapped = Tensor::allocate(stored.dtype(), stored.shape());
    if (!data.bytes().empty()) {
      std::memcpy(swapped.mutable_data(), data.bytes().data(), data.bytes().size());
    }
    swap_bytes(swapped.mutable_data(), static_cast<uint64_t>(stored.count()), size);
    stored = std::move(swapped);
  }
  if (header.fortran_order && header.shape.rank() > 1) stored = from_fortran(stored);
  // A bool that is neither 0 nor 1 would be undefined behaviour for whoever reads it.
  if (header.dtype == DType::boolean && !has_true_bools_only(stored)) {
    const TensorData data = stored.read();
    Tensor clean = Tensor::allocate(DType::boolean, stored.shape());
    std::transform(data.bytes().begin(), data.bytes().end(), clean.mutable_data(),
                   [](std::byte b) { return std::byte{b != std::byte{0}}; });
    stored = std::move(clean);
  }
  return stored;
}

Tensor npy_tensor(std::span<const std::byte> file, std::shared_ptr<const void> keep) {
  const NpyHeader header = parse_npy_header(file);
  const std::span<const std::byte> data = file.subspan(header.data_offset);
  if (data.size() != header.data_bytes) {
    fail(ErrorCode::invalid_model, "npy: shape {} of {} needs {} bytes, {} follow the header",
         header.shape.to_string(), info(header.dtype).name, header.data_bytes, data.size());
  }
  const size_t size = static_cast<size_t>(info(header.dtype).bits) / 8;
  if (reinterpret_cast<uintptr_t>(data.data()) % size == 0) {
    return npy_decode(header,
                      Tensor::borrow(header.dtype, header.shape, data.data(), std::move(keep)));
  }
  Tensor copy = Tensor::allocate(header.dtype, header.shape);
  if (!data.empty()) std::memcpy(copy.mutable_data(), data.data(), data.size());
  return npy_decode(header, std::move(copy));
}

std::string npy_header(DType dtype, const Shape& shape) {
  std::string descr;
  for (const DescrRow& row : kDescrs) {
    if (row.dtype == dtype) descr = (info(dtype).bits == 8 ? "|" : "<") + std::string(row.code);
  }
  if (descr.empty()) {
    fail(ErrorCode::unsupported, "NumPy has no type for {}", info(dtype).name);
  }
  std::string dims;
  for (const int64_t dim : shape) dims += (dims.empty() ? "" : ", ") + std::to_string(dim);
  if (shape.rank() == 1) dims += ",";
  std::string text =
      "{'descr': '" + descr + "', 'fortran_order': False, 'shape': (" + dims + "), }";
  const size_t padded = (10 + text.size() + 1 + 63) / 64 * 64;
  text.resize(padded - 11, ' ');
  text += '\n';
  std::string header(kMagic);
  header += '\x01';
  header += '\0';
  header += static_cast<char>(text.size() & 0xFF);
  header += static_cast<char>(text.size() >> 8);
  return header + text;
}

Tensor npy_storable(const Tensor& tensor) {
  if (tensor.dtype() == DType::bfloat16) return convert(tensor, DType::float32);
  if (is_sub_byte(tensor.dtype()) && is_integer(tensor.dtype())) {
    return convert(tensor, info(tensor.dtype()).is_signed ? DType::int8 : DType::uint8);
  }
  return tensor;
}

Tensor read_npy(const std::string& path) {
  const auto file = MappedFile::open(path);
  return in_context([&] { return fmt::format("in {}", path); },
                    [&] { return npy_tensor(file->bytes(), file); });
}

void write_npy(const std::string& path, const Tensor& tensor) {
  const Tensor stored = npy_storable(tensor);
  AtomicFile file(path, true);
  file.write(npy_header(stored.dtype(), stored.shape()));
  file.write(stored.read().bytes());
  file.commit();
}

}  // namespace compress
