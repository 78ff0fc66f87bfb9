#include "tests/fuzz/targets.h"

#include <sys/mman.h>
#include <unistd.h>

#include <stdexcept>

#include "runtime/config.h"
#include "runtime/json_file.h"
#include "runtime/safetensors.h"
#include "runtime/tokenizer.h"

namespace flexprefill::runtime {
namespace {

using nlohmann::json;

// A file in memory that has a path.
class MemoryFile {
 public:
  explicit MemoryFile(std::string_view bytes) : fd_(::memfd_create("fuzz", MFD_CLOEXEC)) {
    if (fd_ < 0 || ::write(fd_, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()))
      throw std::runtime_error("cannot make a file in memory");
  }
  ~MemoryFile() { ::close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

}  // namespace

void read_safetensors(std::string_view bytes) {
  const MemoryFile memory(bytes);
  const SafetensorsFile file(memory.path());
  unsigned sum = 0;
  for (const TensorInfo& tensor : file.tensors()) {
    for (size_t i = 0; i < tensor.bytes; ++i) sum += static_cast<unsigned>(tensor.data[i]);
    sum += static_cast<unsigned>(tensor.describe().size());
    if (file.find(tensor.name) != &tensor) throw std::logic_error("a tensor is not found by name");
  }
  // The sum keeps the reads from being optimised away.
  if (sum == 0xFFFFFFFF) throw std::logic_error("more bytes than a test file can hold");
}

void read_tokenizer(std::string_view bytes) {
  const json root = parse_json(bytes, "fuzz");
  const Tokenizer tokenizer = Tokenizer::from_json(root, json(), "fuzz");
  const std::string_view text =
      "abc  ab, 12 caf\u00E9 cafe\u0301\n\xFF<s> x<mask> y aaaaaaaaaaaaaaaa";
  const std::vector<int32_t> ids = tokenizer.encode(text, /*add_special_tokens=*/true);
  for (const int32_t id : ids)
    if (id < 0 || id >= tokenizer.vocab_size()) throw std::logic_error("an id out of range");
  const std::string decoded = tokenizer.decode(ids, /*skip_special=*/false);
  StreamDecoder stream(tokenizer, /*skip_special=*/false);
  std::string streamed;
  for (const int32_t id : ids) streamed += stream.push(id);
  if (streamed + stream.finish() != decoded) throw std::logic_error("streaming differs");
}

void read_config(std::string_view bytes) {
  const ModelConfig config = parse_config(parse_json(bytes, "fuzz"), json(), "fuzz");
  // The header promises that products of two sizes and a token count fit.
  int64_t product = 0;
  if (__builtin_mul_overflow(config.hidden_size, config.intermediate_size, &product) ||
      __builtin_mul_overflow(config.vocab_size, config.hidden_size, &product) ||
      config.heads <= 0 || config.kv_heads <= 0 || config.heads % config.kv_heads != 0)
    throw std::logic_error("accepted sizes that overflow");
}

}  // namespace flexprefill::runtime
