#include "compress/error.h"
#include "formats/arrays.h"
#include "formats/file.h"

namespace compress {
namespace {

// RFC 4180: fields separated by commas, records by CRLF or LF; a quoted field may hold both, and a
// quote as two.
class CsvText {
 public:
  explicit CsvText(std::string_view text) : text_(text) {
    if (text_.starts_with("\xEF\xBB\xBF")) text_.remove_prefix(3);
  }

  bool at_end() const { return at_ >= text_.size(); }
  size_t line() const { return line_; }

  std::vector<std::string> record() {
    std::vector<std::string> fields;
    do {
      fields.push_back(at_ < text_.size() && text_[at_] == '"' ? quoted() : plain());
    } while (take(','));
    take('\r');
    if (!take('\n') && !at_end()) broken("text after a quoted field");
    ++line_;
    return fields;
  }

 private:
  bool take(char c) {
    if (at_end() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  std::string plain() {
    size_t end = text_.find_first_of(",\n", at_);
    if (end == std::string_view::npos) end = text_.size();
    size_t last = end;
    const bool ends_record = end == text_.size() || text_[end] == '\n';
    if (ends_record && last > at_ && text_[last - 1] == '\r') --last;
    std::string field(text_.substr(at_, last - at_));
    at_ = last;
    return field;
  }
  std::string quoted() {
    std::string field;
    ++at_;
    while (true) {
      const size_t end = text_.find('"', at_);
      if (end == std::string_view::npos) broken("a quote that is not closed");
      field += text_.substr(at_, end - at_);
      at_ = end + 1;
      if (!take('"')) return field;
      field += '"';
    }
  }
  [[noreturn]] void broken(std::string_view what) const {
    fail(ErrorCode::invalid_model, "CSV: {} in record {}", what, line_);
  }

  std::string_view text_;
  size_t at_ = 0;
  size_t line_ = 1;
};

}  // namespace

Csv read_csv(const std::string& path) {
  const auto file = MappedFile::open(path);
  return in_context([&] { return fmt::format("in {}", path); },
                    [&] {
                      CsvText text(file->text());
                      Csv csv;
                      if (text.at_end()) fail(ErrorCode::invalid_model, "CSV: empty");
                      csv.header = text.record();
                      while (!text.at_end()) {
                        const size_t line = text.line();
                        std::vector<std::string> row = text.record();
                        if (row.size() == 1 && row.front().empty()) continue;  // a blank line
                        if (row.size() != csv.header.size()) {
                          fail(ErrorCode::invalid_model, "CSV: record {} has {} fields, not {}",
                               line, row.size(), csv.header.size());
                        }
                        csv.rows.push_back(std::move(row));
                      }
                      return csv;
                    });
}

}  // namespace compress
