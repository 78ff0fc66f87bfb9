#include "runtime/buffer.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "flexprefill/error.h"

namespace flexprefill::runtime {

Buffer::Buffer(size_t bytes, const std::string& purpose) : bytes_(bytes) {
  if (bytes == 0) return;
  // NORESERVE: a cache for all positions of a model may be larger than this machine's memory.
  data_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
               -1, 0);
  if (data_ == MAP_FAILED) {
    data_ = nullptr;
    throw Error("cannot reserve " + std::to_string(bytes) + " bytes for " + purpose + ": " +
                std::strerror(errno));
  }
  madvise(data_, bytes, MADV_HUGEPAGE);  // a hint: 512 times fewer page faults and TLB entries
}

Buffer::~Buffer() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

}  // namespace flexprefill::runtime
