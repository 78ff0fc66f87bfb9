#pragma once

#include <stdexcept>
#include <string>

#include "flexprefill/export.h"

namespace flexprefill {

/// The one exception the library throws. The message names the argument, its value and the rule it
/// broke, for example: `FlexPrefill.gamma = 1.5, expected (0, 1]`.
class FLEXPREFILL_EXPORT Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message) : std::runtime_error(message) {}
};

}  // namespace flexprefill
