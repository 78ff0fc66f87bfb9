#include "flexprefill/error.h"
#include "tools/gpu.h"

namespace flexprefill::tools {
namespace {

[[noreturn]] void refuse() { throw Error("this program was built without CUDA"); }

}  // namespace

bool built_with_cuda() { return false; }
void* gpu_allocate(size_t) { refuse(); }
void gpu_copy(void*, const void*, size_t) { refuse(); }
void gpu_free(void*) noexcept {}
std::vector<double> gpu_seconds(std::span<const std::function<void()>>) { refuse(); }

}  // namespace flexprefill::tools
