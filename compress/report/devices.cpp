// The candidate on other devices than the CPU.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>

#include "compress/report/report.h"

namespace compress {

Json devices_json(const Report& report) {
  Json out = Json::array();
  for (const DeviceReport& row : report.devices) {
    Json json = {{"device", row.device},
                 {"name", row.name},
                 {"capability", row.capability},
                 {"driver", row.driver},
                 {"memory_bytes", row.memory_bytes},
                 {"nodes_on_device", row.nodes_on_device},
                 {"nodes_on_cpu", row.nodes_on_cpu},
                 {"ops_on_cpu", row.ops_on_cpu}};
    if (row.against_cpu) {
      for (const auto& [name, value] : row.against_cpu->similarity) {
        json["against_cpu"][name] = value.candidate;  // infinite: written as null
      }
      for (const auto& [name, value] : row.against_cpu->accuracy) {
        json["accuracy"][name] = {{"cpu", value.reference}, {"device", value.candidate}};
      }
    }
    out.push_back(std::move(json));
  }
  return out;
}

std::string device_line(const DeviceReport& row) {
  std::string line = fmt::format("{} ({}): {} of {} nodes", row.device, row.name,
                                 row.nodes_on_device, row.nodes_on_device + row.nodes_on_cpu);
  if (!row.ops_on_cpu.empty()) {
    line += fmt::format(", on the CPU {}", fmt::join(row.ops_on_cpu, ", "));
  }
  if (!row.against_cpu) return line;
  const Measurements& same = row.against_cpu->similarity;
  const double sqnr = same.at("sqnr").candidate;
  line += std::isfinite(sqnr) ? fmt::format("; against the CPU: SQNR {:.1f} dB, agreement {:.4f}",
                                            sqnr, same.at("agreement").candidate)
                              : "; the CPU's outputs, bit by bit";
  for (const auto& [name, value] : row.against_cpu->accuracy) {
    line += fmt::format("; {} {:.4f}, on the CPU {:.4f}", name, value.candidate, value.reference);
  }
  return line;
}

}  // namespace compress
