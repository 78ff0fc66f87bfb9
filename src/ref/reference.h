#pragma once

#include "flexprefill/backend.h"

namespace flexprefill::internal {

// The algorithm in scalar code: what every other backend is compared with.
const Backend& reference_backend();

}  // namespace flexprefill::internal
