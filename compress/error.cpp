#include "compress/error.h"

namespace compress {
namespace {

// Length of the well-formed UTF-8 sequence at the start of `text`, or 0.
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  size_t length = 0;
  if (lead < 0x80)
    length = 1;
  else if (lead >= 0xC2 && lead <= 0xDF)
    length = 2;
  else if (lead >= 0xE0 && lead <= 0xEF)
    length = 3;
  else if (lead >= 0xF0 && lead <= 0xF4)
    length = 4;
  if (length == 0 || length > text.size()) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  return length;
}

}  // namespace

std::string printable(std::string_view text) {
  constexpr size_t kMaxShown = 400;  // a name may be a megabyte long; an error line may not
  std::string out;
  for (size_t i = 0; i < text.size();) {
    if (out.size() > kMaxShown) return out + "...";
    const unsigned char c = static_cast<unsigned char>(text[i]);
    const size_t length = utf8_length(text.substr(i));
    // 0xC2 0x80..0x9F are the C1 controls, which terminals obey as they obey ESC.
    const bool c1 = length == 2 && c == 0xC2 && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (length == 0 || c < 0x20 || c == 0x7F || c1) {
      fmt::format_to(std::back_inserter(out), "\\x{:02x}", c);
      ++i;
    } else {
      out += text.substr(i, length);
      i += length;
    }
  }
  return out;
}

Error::Error(ErrorCode code, std::string message)
    : code_(code), message_(std::move(message)), line_(printable(message_)) {}

void Error::add_context(std::string context) {
  contexts_ += contexts_.empty() ? context : ", " + context;
  line_ = fmt::format("{} ({})", printable(message_), printable(contexts_));
}

}  // namespace compress
