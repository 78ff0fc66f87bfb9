#pragma once

#include <cstddef>

namespace flexprefill::runtime {

/// Bytes that operator new hands out, in the whole process, from construction on.
class AllocationMeter {
 public:
  AllocationMeter();
  /// The most that was held at once, beyond what was held at construction.
  size_t peak_bytes() const;

 private:
  size_t held_before_;
};

}  // namespace flexprefill::runtime
