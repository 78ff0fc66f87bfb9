#pragma once

// Where and with what something was measured.

#include <nlohmann/json.hpp>
#include <string>

namespace flexprefill::tools {

struct Machine {
  std::string cpu;       // "AMD EPYC, 2 cores"
  std::string compiler;  // "g++ 12.2.0"
  std::string program;   // "flexprefill 0.1.0"
  std::string command;   // as it was typed
  std::string date;      // UTC, "2026-11-24"
};
Machine this_machine();

// One line.
std::string describe(const Machine& machine);
nlohmann::ordered_json json_of(const Machine& machine);

}  // namespace flexprefill::tools
