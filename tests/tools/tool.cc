#include "tool.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace flexprefill::testing {
namespace fs = std::filesystem;
namespace {

// Files instead of pipes: nothing can block, however much is printed.
void redirect(int target, const std::string& path, int flags) {
  const int file = open(path.c_str(), flags, 0600);
  if (file < 0 || dup2(file, target) < 0) _exit(126);
}

ToolResult run_process(std::vector<std::string> arguments, const std::string& input,
                       const std::vector<std::string>& environment) {
  const TemporaryFolder folder;
  write_file(folder / "in", input);
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const pid_t child = fork();
  if (child < 0) throw std::runtime_error("fork failed");
  if (child == 0) {
    redirect(STDIN_FILENO, folder / "in", O_RDONLY);
    redirect(STDOUT_FILENO, folder / "out", O_WRONLY | O_CREAT | O_TRUNC);
    redirect(STDERR_FILENO, folder / "err", O_WRONLY | O_CREAT | O_TRUNC);
    unsetenv("FLEXPREFILL_BACKEND");  // tests name the backend they want
    setenv("TOOL", FLEXPREFILL_TOOL, 1);
    for (const std::string& assignment : environment) {
      const size_t equals = assignment.find('=');
      setenv(assignment.substr(0, equals).c_str(), assignment.substr(equals + 1).c_str(), 1);
    }
    execv(argv[0], argv.data());
    _exit(127);
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child) throw std::runtime_error("waitpid failed");
  ToolResult result;
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.out = read_file(folder / "out");
  result.err = read_file(folder / "err");
  return result;
}

}  // namespace

ToolResult run_tool(const std::vector<std::string>& arguments, const std::string& input,
                    const std::vector<std::string>& environment) {
  std::vector<std::string> all = {FLEXPREFILL_TOOL};
  all.insert(all.end(), arguments.begin(), arguments.end());
  return run_process(std::move(all), input, environment);
}

ToolResult run_shell(const std::string& command) {
  return run_process({"/bin/bash", "-c", command}, "", {});
}

TemporaryFolder::TemporaryFolder() {
  std::string name = (fs::temp_directory_path() / "flexprefill-tools-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

std::vector<std::string> TemporaryFolder::names() const {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(path_))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

void write_file(const std::string& path, const std::string& content) {
  std::ofstream file(path, std::ios::binary);
  file << content;
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

}  // namespace flexprefill::testing
