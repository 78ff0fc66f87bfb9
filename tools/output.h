#pragma once

// Output files that are complete or absent, and JSON that may go to stdout.

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace flexprefill::tools {

// A file that appears at its path only when all of it has been written: a temporary neighbour is
// renamed over it. What exists and is no regular file (/dev/null, a pipe) is written to directly.
class OutputFile {
 public:
  // Throws Error now, before the long work, if the file could not be written. `option` is named in
  // messages. Leaves no trace.
  OutputFile(std::string option, const std::string& path);

  bool is_device() const { return direct_; }  // exists and is no regular file
  const std::filesystem::path& path() const { return path_; }

  // Calls write_to(path of the temporary file), then renames. On any exception nothing is left.
  void write(const std::function<void(const std::string&)>& write_to) const;

  // The same with the whole content.
  void write_text(std::string_view content) const;

 private:
  [[noreturn]] void fail(const std::string& reason) const;
  void create_temporary() const;

  std::string option_;
  std::filesystem::path path_;  // symbolic links resolved
  std::filesystem::path temporary_;
  bool direct_ = false;
};

// Where --json goes: nowhere, a file, or stdout ("-"), which then carries nothing else.
class JsonOutput {
 public:
  explicit JsonOutput(const std::string& path);  // "" = not asked for
  bool to_stdout() const { return to_stdout_; }
  // Empty unless it goes to a file.
  std::filesystem::path path() const { return file_ ? file_->path() : std::filesystem::path(); }
  void write(const nlohmann::ordered_json& value) const;

 private:
  bool to_stdout_ = false;
  std::optional<OutputFile> file_;
};

// The whole of a file, or of stdin for "-". Throws Error that names the option.
std::string read_text(const std::string& option, const std::string& path);

}  // namespace flexprefill::tools
