// The ordered list of backends, and the environment variable that forces one.

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "cpu/backend.h"
#ifdef FLEXPREFILL_WITH_CUDA
#include "cuda/backend.h"
#endif
#include "flexprefill/backend.h"
#include "flexprefill/error.h"
#include "ref/reference.h"

namespace flexprefill {
namespace {

std::vector<const Backend*> list_backends() {
  std::vector<const Backend*> all = {
#ifdef FLEXPREFILL_WITH_CUDA
      &internal::cuda_backend(),
#endif
      internal::cpu_backend(), &internal::reference_backend()};
  // Called once, before the list exists, so nobody writes the environment from our side.
  const char* forced = std::getenv("FLEXPREFILL_BACKEND");
  if (forced == nullptr || *forced == '\0') return all;
  std::string names;
  for (const Backend* backend : all) {
    if (backend->name() == forced) return {backend};
    names += names.empty() ? "" : ", ";
    names += backend->name();
  }
  throw Error("FLEXPREFILL_BACKEND = " + std::string(forced) + ", expected one of: " + names);
}

}  // namespace

void Backend::read(void* host, const void* from, size_t bytes, const Context&) const {
  if (bytes > 0) std::memcpy(host, from, bytes);
}

std::span<const Backend* const> backends() {
  static const std::vector<const Backend*> list = list_backends();
  return list;
}

const Backend* find_backend(std::string_view name) {
  for (const Backend* backend : backends()) {
    if (backend->name() == name) return backend;
  }
  return nullptr;
}

}  // namespace flexprefill
