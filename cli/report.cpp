#include "cli/command.h"
#include "cli/console.h"
#include "cli/verification.h"
#include "compress/error.h"
#include "compress/report/history.h"
#include "formats/file.h"

namespace compress {

Run add_report(CLI::App& program) {
  CLI::App* command =
      program.add_subcommand("report", "reports of one model over time: what changed");
  command->footer(
      "Examples:\n"
      "  compress report monday.json tuesday.json\n"
      "  compress report runs/*.json -o history.html -o history.csv\n"
      "A row a report, by date. A change of accuracy or latency is told only where the 95 %\n"
      "confidence intervals exclude each other, and latencies are compared on one machine only.\n");
  struct State {
    std::vector<std::string> reports;
    std::vector<std::string> outputs;
    bool quiet = false;
  };
  auto state = std::make_shared<State>();
  command->add_option("REPORT", state->reports, "JSON reports (--report x.json) of one model")
      ->required();
  command
      ->add_option("-o,--output", state->outputs,
                   "write it, too; .html, .md, .csv or .json by extension (repeatable)")
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->type_name("FILE");
  command->add_flag("-q,--quiet", state->quiet, "print errors only");
  return [state] {
    for (const std::string& path : state->outputs) check_history_path(path);
    std::vector<HistoryRow> rows;
    for (const std::string& path : state->reports) {
      rows.push_back(read_history_row(read_file(path, kMaxReportBytes), path));
    }
    const History history = history_of(std::move(rows));
    for (const std::string& path : state->outputs) {
      AtomicFile file(path, true);
      file.write(render(history, path));
      file.commit();
    }
    if (!state->quiet) print(to_table(history));
    return int{kDone};
  };
}

}  // namespace compress
