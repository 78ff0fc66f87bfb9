#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

#include "flexprefill/error.h"
#include "runtime/json_file.h"
#include "runtime/safetensors.h"

namespace flexprefill::runtime {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr size_t kAlignment = 64;  // of the first tensor in the file: a cache line

// A file under a passing name that becomes `path` on commit() and disappears otherwise.
class NewFile {
 public:
  explicit NewFile(const fs::path& path) : path_(path) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    // Renaming over a device such as /dev/null would replace the device.
    if (fs::exists(status) && !fs::is_regular_file(status))
      throw Error(path.string() + ": cannot write, it is not a regular file");
    // Over a symbolic link, the file it points to is meant.
    if (fs::is_symlink(path, error)) path_ = fs::weakly_canonical(path, error);
    temporary_ = partial_path(path_);
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0) fail("create", errno);
  }
  ~NewFile() {
    if (fd_ >= 0) ::close(fd_);
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
  }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  void write(const void* data, size_t bytes) {
    const auto* next = static_cast<const char*>(data);
    while (bytes > 0) {
      const ssize_t written = ::write(fd_, next, bytes);
      if (written < 0) {
        if (errno == EINTR) continue;
        fail("write", errno);
      }
      next += written;
      bytes -= static_cast<size_t>(written);
    }
  }

  void commit() {
    const int closed = ::close(std::exchange(fd_, -1));  // some file systems report errors here
    if (closed != 0) fail("write", errno);
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("write", errno);
    temporary_.clear();
  }

 private:
  [[noreturn]] void fail(const char* step, int error) {
    throw Error(path_.string() + ": cannot " + step + ": " +
                std::generic_category().message(error));
  }

  fs::path path_;
  fs::path temporary_;
  int fd_ = -1;
};

size_t bytes_of(const TensorToWrite& tensor) {
  size_t bytes = type_bytes(tensor.type);
  for (const int64_t n : tensor.shape) bytes *= static_cast<size_t>(n);
  return bytes;
}

std::string header_of(std::span<const TensorToWrite* const> tensors,
                      const std::map<std::string, std::string>& metadata) {
  json header = json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  size_t offset = 0;
  for (const TensorToWrite* tensor : tensors) {
    const size_t bytes = bytes_of(*tensor);
    if (header.contains(tensor->name))
      throw Error("write_safetensors: two tensors named \"" + tensor->name + "\"");
    header[tensor->name] = {{"dtype", std::string(to_string(tensor->type))},
                            {"shape", tensor->shape},
                            {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string text = header.dump();
  text.append((kAlignment - (sizeof(uint64_t) + text.size()) % kAlignment) % kAlignment, ' ');
  return text;
}

}  // namespace

fs::path partial_path(const fs::path& path) {
  fs::path partial = path;
  partial += ".partial." + std::to_string(::getpid());
  return partial;
}

void write_safetensors(const fs::path& path, std::span<const TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata) {
  // Wide types first keeps every tensor aligned to its element, as there are no holes.
  std::vector<const TensorToWrite*> order;
  for (const TensorToWrite& tensor : tensors) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return type_bytes(a->type) > type_bytes(b->type);
  });
  const std::string header = header_of(order, metadata);
  std::array<unsigned char, sizeof(uint64_t)> length;
  for (size_t i = 0; i < length.size(); ++i)
    length[i] = static_cast<unsigned char>(uint64_t{header.size()} >> (8 * i));

  NewFile file(path);
  file.write(length.data(), length.size());
  file.write(header.data(), header.size());
  for (const TensorToWrite* tensor : order) file.write(tensor->data, bytes_of(*tensor));
  file.commit();
}

}  // namespace flexprefill::runtime
