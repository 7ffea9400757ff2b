#include "compress/report/page.h"

#include "compress/error.h"
#include "compress/report/plot.h"
#include "compress/report/tables.h"

namespace compress {
namespace {

constexpr std::string_view kStyle =
    ":root{color-scheme:light dark}*{box-sizing:border-box}"
    "body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif;"
    "overflow-wrap:anywhere}"
    "main{max-width:64rem;margin:0 auto;padding:2.5rem 1.25rem 3rem}"
    ".eyebrow{margin:0;color:var(--mute);font-size:.85rem}"
    "h1{margin:.1rem 0 .4rem;font-size:1.7rem;line-height:1.2;font-weight:650}"
    "h2{margin:2.6rem 0 .8rem;font-size:1.1rem;font-weight:650}"
    "p{margin:.4rem 0;max-width:46rem}.mute,.ci,footer{color:var(--mute)}"
    ".mute,footer{font-size:.87rem}ul{margin:.4rem 0;padding-left:1.2rem;max-width:46rem}"
    ".tiles{display:flex;flex-wrap:wrap;gap:.6rem 2.6rem;margin:1.5rem 0 0}"
    ".tile b{display:block;font-size:1.55rem;line-height:1.25;font-weight:600;"
    "font-variant-numeric:tabular-nums}.tile span{display:block;color:var(--mute);"
    "font-size:.85rem}.tile.bad b,.bad,.bad td{color:var(--x)}.good{color:var(--good)}"
    ".wide{overflow-x:auto;margin:.4rem 0}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem;"
    "line-height:1.4}"
    "th,td{padding:.3rem 1.1rem .3rem 0;border-bottom:1px solid var(--line);text-align:left;"
    "vertical-align:baseline;overflow-wrap:normal}th{color:var(--mute);font-weight:500}"
    ".n{text-align:right;white-space:nowrap}td:last-child,th:last-child{padding-right:0}"
    ".ci{display:block;font-size:.8rem}"
    "figure{margin:0;min-width:0}figcaption{font-size:.87rem;font-weight:550;margin-bottom:.35rem}"
    "figcaption span{display:block;font-weight:400;color:var(--mute)}"
    ".figures{display:grid;gap:1.8rem 2.2rem;margin:.8rem 0;"
    "grid-template-columns:repeat(auto-fit,minmax(min(100%,25rem),1fr))}"
    ".figures.small{grid-template-columns:repeat(auto-fill,minmax(min(100%,17rem),1fr))}"
    "details{margin:.8rem 0}summary{cursor:pointer;color:var(--mute);font-size:.9rem}"
    "pre{overflow-x:auto;padding:.8rem 1rem;background:color-mix(in srgb,var(--line) 45%,"
    "transparent);border-radius:4px;font:.8rem/1.5 ui-monospace,monospace}"
    "footer{margin-top:3rem;padding-top:.8rem;border-top:1px solid var(--line)}"
    "@media(max-width:480px){main{padding-top:1.4rem}h1{font-size:1.35rem}"
    "th,td{padding-right:.7rem}.tiles{gap:.6rem 1.6rem}"
    // A line for what it is, one for before, after and the change.
    ".sum,.sum tbody,.sum thead{display:block}.sum tr{display:grid;"
    "grid-template-columns:1fr 1fr 1fr;border-bottom:1px solid var(--line)}"
    ".sum tr>*{border:0;text-align:left;white-space:normal;padding:.1rem .5rem .1rem 0}"
    ".sum tr>:first-child{grid-column:1/-1;color:var(--mute);padding-top:.4rem}}"
    "@media print{:root{color-scheme:light}main{max-width:none;padding:0}body{font-size:10pt}"
    "figure,tr,.tile{break-inside:avoid}h2{break-after:avoid}.wide{overflow:visible}"
    "details::details-content{content-visibility:visible;height:auto}}";

}  // namespace

std::string html_page(std::string_view title, std::string_view body) {
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
      "<link rel=\"icon\" href=\"data:,\"><title>{}</title>\n<style>{}{}</style></head>\n"
      "<body><main>\n{}</main></body></html>\n",
      escape_xml(title), plot_style(), kStyle, body);
}

std::string html_heading(std::string_view eyebrow, std::string_view title,
                         const std::vector<std::string>& lines) {
  std::string out = fmt::format("<header><p class=\"eyebrow\">{}</p><h1>{}</h1>",
                                escape_xml(eyebrow), escape_xml(title));
  for (const std::string& line : lines)
    out += fmt::format("<p class=\"mute\">{}</p>", escape_xml(line));
  return out + "</header>\n";
}

std::string html_tiles(const std::vector<Tile>& tiles) {
  std::string out = "<div class=\"tiles\">\n";
  for (const Tile& tile : tiles) {
    out += fmt::format("<div class=\"tile{}\"><span>{}</span><b>{}</b><span>{}</span></div>\n",
                       tile.bad ? " bad" : "", escape_xml(tile.label), escape_xml(tile.value),
                       escape_xml(tile.note));
  }
  return out + "</div>\n";
}

std::string html_section(std::string_view title, std::string_view body) {
  if (body.empty()) return "";
  return fmt::format("<section><h2>{}</h2>\n{}</section>\n", escape_xml(title), body);
}

std::string html_paragraph(std::string_view text) {
  return text.empty() ? "" : fmt::format("<p class=\"mute\">{}</p>\n", escape_xml(text));
}

std::string html_list(const std::vector<std::string>& lines) {
  if (lines.empty()) return "";
  std::string out = "<ul>\n";
  for (const std::string& line : lines) out += fmt::format("<li>{}</li>\n", escape_xml(line));
  return out + "</ul>\n";
}

std::string html_details(std::string_view summary, std::string_view body) {
  return fmt::format("<details><summary>{}</summary>\n{}</details>\n", escape_xml(summary), body);
}

std::string html_figure(std::string_view caption, std::string_view svg, std::string_view note) {
  const std::string under = note.empty() ? "" : fmt::format("<span>{}</span>", escape_xml(note));
  return fmt::format("<figure><figcaption>{}{}</figcaption>\n{}</figure>\n", escape_xml(caption),
                     under, svg);
}

std::string html_figures(const std::vector<std::string>& figures, bool small) {
  if (figures.empty()) return "";
  std::string out = fmt::format("<div class=\"figures{}\">\n", small ? " small" : "");
  for (const std::string& figure : figures) out += figure;
  return out + "</div>\n";
}

}  // namespace compress
