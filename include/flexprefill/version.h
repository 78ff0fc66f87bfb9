#pragma once

/// Semantic versioning; CMakeLists.txt reads these three lines.
#define FLEXPREFILL_VERSION_MAJOR 0
#define FLEXPREFILL_VERSION_MINOR 1
#define FLEXPREFILL_VERSION_PATCH 0

#ifdef __cplusplus
#include "flexprefill/export.h"

namespace flexprefill {

/// "major.minor.patch" of the library that is linked, which may differ from the header's.
FLEXPREFILL_EXPORT const char* version();

}  // namespace flexprefill
#endif
