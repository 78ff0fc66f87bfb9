#include "tools/bench/machine.h"

#include <omp.h>

#include <ctime>
#include <fstream>
#include <iterator>

#include "flexprefill/version.h"

namespace flexprefill::tools {
namespace {

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown processor";
}

std::string compiler_name() {
#ifdef __clang__
  return "clang " __clang_version__;
#else
  return "g++ " __VERSION__;
#endif
}

std::string command_line() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::string text(std::istreambuf_iterator<char>(file), {});
  for (char& c : text)
    if (c == '\0') c = ' ';
  while (text.ends_with(' ')) text.pop_back();
  return text;
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm utc = {};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%d", &utc);
  return text;
}

}  // namespace

Machine this_machine() {
  return {processor_name() + ", " + std::to_string(omp_get_num_procs()) + " cores", compiler_name(),
          std::string("flexprefill ") + version(), command_line(), today()};
}

std::string describe(const Machine& machine) {
  return machine.program + ", " + machine.cpu + ", " + machine.compiler + ", " + machine.date;
}

nlohmann::ordered_json json_of(const Machine& machine) {
  return {{"program", machine.program},
          {"cpu", machine.cpu},
          {"compiler", machine.compiler},
          {"command", machine.command},
          {"date", machine.date}};
}

}  // namespace flexprefill::tools
