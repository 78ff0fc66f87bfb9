#pragma once

// Runs the executable as a user would and collects what it prints.

#include <filesystem>
#include <string>
#include <vector>

namespace flexprefill::testing {

struct ToolResult {
  int exit_code = -1;  // 128 + number of the signal that ended it
  std::string out;
  std::string err;
};

// Runs `flexprefill arguments...` with `input` on stdin. `environment`: more NAME=VALUE.
ToolResult run_tool(const std::vector<std::string>& arguments, const std::string& input = "",
                    const std::vector<std::string>& environment = {});

// The same through bash: "$TOOL" is the executable.
ToolResult run_shell(const std::string& command);

// An empty folder of its own, removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::vector<std::string> names() const;  // sorted

 private:
  std::filesystem::path path_;
};

void write_file(const std::string& path, const std::string& content);
std::string read_file(const std::string& path);

}  // namespace flexprefill::testing
