// What HTML pages are made of: one head and style for all of them, no script, nothing loaded.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace compress {

// `body` is HTML, `title` is text.
std::string html_page(std::string_view title, std::string_view body);

// "compress batch" above a large title. All are text.
std::string html_heading(std::string_view eyebrow, std::string_view title,
                         const std::vector<std::string>& lines);

// A figure that matters more than a table's row.
struct Tile {
  std::string label;
  std::string value;
  std::string note;
  bool bad = false;
};
std::string html_tiles(const std::vector<Tile>& tiles);

// "" where the body is.
std::string html_section(std::string_view title, std::string_view body);
std::string html_paragraph(std::string_view text);
std::string html_list(const std::vector<std::string>& lines);
std::string html_details(std::string_view summary, std::string_view body);
std::string html_figure(std::string_view caption, std::string_view svg, std::string_view note = "");
// Beside each other where there is room.
std::string html_figures(const std::vector<std::string>& figures, bool small = false);

}  // namespace compress
