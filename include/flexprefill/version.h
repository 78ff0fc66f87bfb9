#pragma once

/// Semantic versioning; CMakeLists.txt reads these three lines.
#define FLEXPREFILL_VERSION_MAJOR 0
#define FLEXPREFILL_VERSION_MINOR 1
#define FLEXPREFILL_VERSION_PATCH 0

namespace flexprefill {

/// "major.minor.patch" of the library that is linked, which may differ from the header's.
const char* version();

}  // namespace flexprefill
