#pragma once

// The instruction sets the kernels are compiled for, which of them this machine can run, and which
// one is used.

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "cpu/kernels.h"

namespace flexprefill::internal {

enum class Isa : uint8_t { kPortable, kAvx2, kAvx512, kAvx512Bf16 };

std::span<const Isa> compiled_isas();  // best last; always holds kPortable
std::string_view isa_name(Isa isa);    // portable, avx2, avx512, avx512bf16
bool isa_supported(Isa isa);           // by processor and operating system, and compiled in
const Kernels& kernels_of(Isa isa);    // isa_supported(isa)

// The set called `forced`, or the best supported one when it is empty. Throws Error for a name that
// is unknown or that this machine cannot run, with the names it can.
Isa choose_isa(std::string_view forced);

}  // namespace flexprefill::internal
