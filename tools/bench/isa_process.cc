// The instruction set of the cpu backend is chosen once per process, so each needs its own.

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "flexprefill/error.h"
#include "tools/bench/suite.h"

namespace flexprefill::tools {
namespace {

constexpr const char* kVariable = "FLEXPREFILL_CPU_ISA=";

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> result;
  result.reserve(words.size() + 1);
  for (std::string& word : words) result.push_back(word.data());
  result.push_back(nullptr);
  return result;
}

std::vector<std::string> environment_with(const std::string& isa) {
  std::vector<std::string> result = {kVariable + isa};
  for (char** entry = environ; *entry != nullptr; ++entry)
    if (std::strncmp(*entry, kVariable, std::strlen(kVariable)) != 0) result.emplace_back(*entry);
  return result;
}

std::string read_all(int file) {
  std::string text;
  std::array<char, 4096> part;
  for (ssize_t count; (count = read(file, part.data(), part.size())) > 0;)
    text.append(part.data(), static_cast<size_t>(count));
  return text;
}

// What this program prints on stdout with these arguments; nothing if it fails.
std::optional<std::string> output_of(std::vector<std::string> arguments, const std::string& isa) {
  int ends[2];
  if (pipe(ends) != 0) throw Error(std::string("pipe: ") + std::strerror(errno));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addclose(&actions, ends[0]);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  std::vector<std::string> environment = environment_with(isa);
  pid_t child = 0;
  const int failure = posix_spawn(&child, "/proc/self/exe", &actions, nullptr,
                                  pointers(arguments).data(), pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  const std::string text = failure == 0 ? read_all(ends[0]) : "";
  close(ends[0]);
  if (failure != 0)
    throw Error(std::string("this program cannot be run again: ") + std::strerror(failure));
  int status = 0;
  if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
    return std::nullopt;
  return text;
}

}  // namespace

std::optional<CaseResult> measure_with_isa(const std::string& isa,
                                           const std::vector<std::string>& arguments) {
  std::vector<std::string> all = {"flexprefill", "bench",  "attention", "--backend",
                                  "cpu",         "--json", "-"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  const std::optional<std::string> output = output_of(std::move(all), isa);
  if (!output) return std::nullopt;
  return case_of(nlohmann::ordered_json::parse(*output).at("results").at(0));
}

}  // namespace flexprefill::tools
