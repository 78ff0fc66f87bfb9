#include "tools/output.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <utility>

#include "flexprefill/error.h"
#include "tools/signals.h"

namespace flexprefill::tools {
namespace fs = std::filesystem;

OutputFile::OutputFile(std::string option, const std::string& path)
    : option_(std::move(option)), path_(path) {
  std::error_code error;
  const fs::file_status status = fs::status(path_, error);
  if (path.empty()) fail("the name is empty");
  if (fs::is_directory(status)) fail("it is a folder; name a file");
  direct_ = fs::exists(status) && !fs::is_regular_file(status);
  if (direct_) {
    if (access(path_.c_str(), W_OK) != 0) fail(std::strerror(errno));
    temporary_ = path_;
    return;
  }
  if (fs::exists(status)) path_ = fs::canonical(path_);
  temporary_ = path_;
  temporary_ += ".part" + std::to_string(getpid());
  create_temporary();
  unlink(temporary_.c_str());
}

void OutputFile::fail(const std::string& reason) const {
  throw Error(option_ + " " + path_.string() + " cannot be written: " + reason +
              ". Choose a writable folder that exists, with enough space.");
}

void OutputFile::create_temporary() const {
  const int file = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (file < 0) fail(std::strerror(errno));
  close(file);
}

void OutputFile::write(const std::function<void(const std::string&)>& write_to) const {
  if (direct_) return write_to(path_);
  const RemoveOnSignal guard(temporary_);
  create_temporary();
  try {
    write_to(temporary_);
    if (std::rename(temporary_.c_str(), path_.c_str()) != 0) fail(std::strerror(errno));
  } catch (...) {
    unlink(temporary_.c_str());
    throw;
  }
}

void OutputFile::write_text(std::string_view content) const {
  write([&](const std::string& path) {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(content.data(), static_cast<std::streamsize>(content.size()));
    file.close();
    if (!file) fail(std::strerror(errno));
  });
}

JsonOutput::JsonOutput(const std::string& path) : to_stdout_(path == "-") {
  if (!path.empty() && !to_stdout_) file_.emplace("--json", path);
}

void JsonOutput::write(const nlohmann::ordered_json& value) const {
  if (!to_stdout_ && !file_) return;
  // A model may write bytes that are no UTF-8; JSON may not.
  const std::string text = value.dump(/*indent=*/2, ' ', /*ensure_ascii=*/false,
                                      nlohmann::ordered_json::error_handler_t::replace) +
                           "\n";
  if (file_) return file_->write_text(text);
  std::cout << text << std::flush;
}

std::string read_text(const std::string& option, const std::string& path) {
  if (path == "-") {
    std::string text(std::istreambuf_iterator<char>(std::cin), {});
    if (std::cin.bad()) throw Error("standard input cannot be read");
    return text;
  }
  if (fs::is_directory(path)) throw Error(option + " " + path + " is a folder; name a text file");
  std::ifstream file(path, std::ios::binary);
  std::string text(std::istreambuf_iterator<char>(file), {});
  if (!file.is_open() || file.bad())
    throw Error(option + " " + path + " cannot be read: " + std::strerror(errno) +
                ". Check the name and the permissions.");
  return text;
}

}  // namespace flexprefill::tools
