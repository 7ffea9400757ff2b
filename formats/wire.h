// Protocol Buffers' wire format, read from memory and written to it.
// https://protobuf.dev/programming-guides/encoding/
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "compress/error.h"

namespace compress {

enum class WireType : uint8_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

// Takes a varint off the front of `wire`; false where it is cut off or longer than 64 bits.
inline bool take_varint(std::string_view& wire, uint64_t& value) {
  value = 0;
  for (size_t i = 0; i < 10 && i < wire.size(); ++i) {
    const uint64_t byte = static_cast<unsigned char>(wire[i]);
    if (i == 9 && byte > 1) return false;
    value |= (byte & 0x7F) << (7 * i);
    if (byte < 0x80) {
      wire.remove_prefix(i + 1);
      return true;
    }
  }
  return false;
}

template <class T>
T load_le(const char* from) {
  static_assert(std::endian::native == std::endian::little);
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

struct WireField {
  uint32_t number = 0;
  WireType type = WireType::varint;
  uint64_t value = 0;      // of varint, fixed32, fixed64
  std::string_view bytes;  // of bytes
  std::string_view whole;  // tag included; for what is kept as it is

  std::string_view text() const { return expect(WireType::bytes), bytes; }
  std::string string() const { return std::string(text()); }
  int64_t int64() const { return expect(WireType::varint), static_cast<int64_t>(value); }
  float float32() const {
    return expect(WireType::fixed32), std::bit_cast<float>(static_cast<uint32_t>(value));
  }

 private:
  void expect(WireType wanted) const {
    if (type != wanted) {
      fail(ErrorCode::invalid_model, "not an ONNX model: field {} has wire type {}", number,
           static_cast<int>(type));
    }
  }
};

// The fields of one message, in order. Fails (invalid_model) on bytes that are no message; never
// reads outside `wire`.
class WireReader {
 public:
  explicit WireReader(std::string_view wire) : rest_(wire) {}

  bool next(WireField& field) {
    if (rest_.empty()) return false;
    const char* const begin = rest_.data();
    uint64_t tag = 0;
    if (!take_varint(rest_, tag) || tag > UINT32_MAX || tag >> 3 == 0) broken("a broken tag");
    field.number = static_cast<uint32_t>(tag >> 3);
    field.type = static_cast<WireType>(tag & 7);
    field.value = 0;
    field.bytes = {};
    switch (field.type) {
      case WireType::varint:
        if (!take_varint(rest_, field.value)) broken("a broken number");
        break;
      case WireType::fixed64:
        take_fixed<uint64_t>(field);
        break;
      case WireType::fixed32:
        take_fixed<uint32_t>(field);
        break;
      case WireType::bytes: {
        uint64_t size = 0;
        if (!take_varint(rest_, size)) broken("a broken length");
        if (size > rest_.size()) broken("it is cut off");
        field.bytes = rest_.substr(0, static_cast<size_t>(size));
        rest_.remove_prefix(static_cast<size_t>(size));
        break;
      }
      default:
        broken("an unknown wire type");
    }
    field.whole = {begin, static_cast<size_t>(rest_.data() - begin)};
    return true;
  }

 private:
  [[noreturn]] static void broken(std::string_view what) {
    fail(ErrorCode::invalid_model, "not an ONNX model, or damaged: {}", what);
  }

  template <class T>
  void take_fixed(WireField& field) {
    if (rest_.size() < sizeof(T)) broken("it is cut off");
    field.value = load_le<T>(rest_.data());
    rest_.remove_prefix(sizeof(T));
  }

  std::string_view rest_;
};

// --- Writing: each appends to `out`
// ----------------------------------------------------------------

inline void put_varint(std::string& out, uint64_t value) {
  while (value >= 0x80) {
    out.push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out.push_back(static_cast<char>(value));
}

inline void put_tag(std::string& out, uint32_t number, WireType type) {
  put_varint(out, (uint64_t{number} << 3) | static_cast<uint64_t>(type));
}

inline void put_int(std::string& out, uint32_t number, int64_t value) {
  put_tag(out, number, WireType::varint);
  put_varint(out, static_cast<uint64_t>(value));
}

inline void put_float(std::string& out, uint32_t number, float value) {
  put_tag(out, number, WireType::fixed32);
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof value);
}

inline void put_bytes(std::string& out, uint32_t number, std::string_view bytes) {
  put_tag(out, number, WireType::bytes);
  put_varint(out, bytes.size());
  out += bytes;
}

// Text that proto2 leaves out where it is empty.
inline void put_text(std::string& out, uint32_t number, std::string_view text) {
  if (!text.empty()) put_bytes(out, number, text);
}

}  // namespace compress
