#pragma once

#include <vector>

#include "flexprefill/backend.h"

namespace flexprefill::test {

// The backends that take tensors in host memory, best first: all but cuda, with or without a GPU.
inline std::vector<const Backend*> host_backends() {
  std::vector<const Backend*> host;
  for (const Backend* backend : backends()) {
    if (backend->name() != "cuda") host.push_back(backend);
  }
  return host;
}

}  // namespace flexprefill::test
