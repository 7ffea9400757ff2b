// One table of text, written for a terminal, Markdown, HTML and CSV.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace compress {

using Cells = std::vector<std::vector<std::string>>;  // the first row is the head

// `align` has a letter a column, l or r; the last one holds for those that follow.
std::string text_table(const Cells& cells, std::string_view align, size_t indent);
std::string markdown_table(const Cells& cells, std::string_view align);
// Scrolls by itself where it is wider than the page. Rows in `bad` stand out.
std::string html_table(const Cells& cells, std::string_view align,
                       const std::set<size_t>& bad = {});
// RFC 4180, a line a row.
std::string csv_table(const Cells& cells);

// Text that cannot end the format around it; control characters are spelled out.
std::string escape_markdown(std::string_view text);
std::string escape_xml(std::string_view text);

// "json" of "a/b.json"; "" without a dot.
std::string extension_of(std::string_view path);
// Fails (usage), naming the flag, where the extension is not among `known`.
void check_extension(std::string_view flag, std::string_view path,
                     const std::vector<std::string_view>& known);

}  // namespace compress
