#include "compress/report/tables.h"

#include <algorithm>

#include "compress/error.h"

namespace compress {
namespace {

bool is_right(std::string_view align, size_t column) {
  return align[std::min(column, align.size() - 1)] == 'r';
}

}  // namespace

std::string text_table(const Cells& cells, std::string_view align, size_t indent) {
  std::vector<size_t> width(cells[0].size(), 0);
  for (const auto& row : cells) {
    for (size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], printable(row[i]).size());
  }
  std::string out;
  for (const auto& row : cells) {
    std::string line(indent, ' ');
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string text = printable(row[i]);
      const std::string space(width[i] - text.size(), ' ');
      line += (is_right(align, i) ? space + text : text + space) + "  ";
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string markdown_table(const Cells& cells, std::string_view align) {
  std::string out;
  for (size_t r = 0; r < cells.size(); ++r) {
    out += "|";
    for (const std::string& cell : cells[r]) out += " " + escape_markdown(cell) + " |";
    out += "\n";
    if (r > 0) continue;
    out += "|";
    for (size_t i = 0; i < cells[r].size(); ++i) out += is_right(align, i) ? "--:|" : "---|";
    out += "\n";
  }
  return out;
}

std::string html_table(const Cells& cells, std::string_view align, const std::set<size_t>& bad) {
  std::string out = "<div class=\"wide\"><table>\n";
  for (size_t r = 0; r < cells.size(); ++r) {
    const char* tag = r == 0 ? "th" : "td";
    out += r == 0 ? "<thead><tr>" : bad.count(r) > 0 ? "<tr class=\"bad\">" : "<tr>";
    for (size_t i = 0; i < cells[r].size(); ++i) {
      out += fmt::format("<{0}{1}>{2}</{0}>", tag, is_right(align, i) ? " class=\"n\"" : "",
                         escape_xml(cells[r][i]));
    }
    out += r == 0 ? "</tr></thead><tbody>\n" : "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

std::string csv_table(const Cells& cells) {
  std::string out;
  for (const auto& row : cells) {
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string text = printable(row[i]);
      if (i > 0) out += ",";
      if (text.find_first_of(",\"") == std::string::npos) {
        out += text;
        continue;
      }
      out += "\"";
      for (const char c : text) out += c == '"' ? std::string("\"\"") : std::string(1, c);
      out += "\"";
    }
    out += "\n";
  }
  return out;
}

std::string escape_markdown(std::string_view text) {
  std::string out;
  for (const char c : printable(text)) {
    if (c == '|' || c == '<' || c == '*' || c == '_' || c == '`') out += '\\';
    out += c;
  }
  return out;
}

std::string escape_xml(std::string_view text) {
  std::string out;
  for (const char c : printable(text)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string extension_of(std::string_view path) {
  const size_t dot = path.rfind('.');
  return dot == std::string_view::npos ? "" : std::string(path.substr(dot + 1));
}

void check_extension(std::string_view flag, std::string_view path,
                     const std::vector<std::string_view>& known) {
  if (std::find(known.begin(), known.end(), extension_of(path)) != known.end()) return;
  fail(ErrorCode::usage, "{} {}: the extension chooses the format; one of .{}", flag, path,
       fmt::join(known, " ."));
}

}  // namespace compress
