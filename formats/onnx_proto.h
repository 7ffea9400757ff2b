// Protobuf's messages, and errors of ONNX's library as ours. Included by files that call it.
#pragma once

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/stubs/logging.h>
#include <onnx/onnx_pb.h>

#include <climits>
#include <new>
#include <string>
#include <string_view>

#include "compress/error.h"
#include "formats/onnx_reader.h"

namespace compress {

// ONNX's messages span lines; an error of ours is one.
inline std::string one_line(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool space = c == '\n' || c == '\r' || c == '\t' || c == ' ';
    if (!space) out += c;
    if (space && !out.empty() && out.back() != ' ') out += ' ';
  }
  while (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

// Fails (invalid_model) with `complaint`.
template <class Message>
Message parse_proto(const std::string& wire, std::string_view complaint) {
  // Protobuf writes its complaints to standard error, which is not the library's to write to.
  static const bool silenced = [] {
    google::protobuf::SetLogHandler(nullptr);
    return true;
  }();
  static_cast<void>(silenced);
  if (wire.size() > INT_MAX) fail(ErrorCode::invalid_model, "{}", complaint);
  google::protobuf::io::ArrayInputStream bytes(wire.data(), static_cast<int>(wire.size()));
  google::protobuf::io::CodedInputStream stream(&bytes);
  stream.SetRecursionLimit(3 * kMaxGraphDepth + 20);
  Message message;
  if (!message.ParseFromCodedStream(&stream) || !stream.ConsumedEntireMessage()) {
    fail(ErrorCode::invalid_model, "{}", complaint);
  }
  return message;
}

// Runs a call of ONNX's library; what it throws becomes an error of one line.
template <class Body>
auto guarded(ErrorCode code, std::string_view what, Body&& body) {
  try {
    return body();
  } catch (const Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    fail(code, "{}: {}", what, one_line(error.what()));
  }
}

}  // namespace compress
