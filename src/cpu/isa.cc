#include "cpu/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "flexprefill/error.h"

namespace flexprefill::internal {

// Each compiled set defines these in its own namespace (the kernels of sources.cmake).
#define FLEXPREFILL_DECLARE_KERNELS(isa)                                                    \
  namespace isa {                                                                           \
  size_t attend_scratch_bytes(int32_t head_dim, int32_t v_head_dim);                        \
  void attend_f32(const AttendItem& item, void* scratch);                                   \
  void attend_bf16(const AttendItem& item, void* scratch);                                  \
  size_t score_scratch_bytes(int32_t head_dim);                                             \
  void coverage_mass_f32(const ScoreItem& item, const CoverageMass& mass, void* scratch);   \
  void coverage_mass_bf16(const ScoreItem& item, const CoverageMass& mass, void* scratch);  \
  void official_mass(const ScoreItem& item, float* vertical, float* slash, float* row_mass, \
                     float* probe_mean, void* scratch);                                     \
  void mean_of_tokens(const TokenRows& tokens, int64_t count, int32_t columns, bool round,  \
                      float* mean);                                                         \
  }
#define FLEXPREFILL_KERNELS(isa, attend_bf16, coverage_mass_bf16)                           \
  {                                                                                         \
    isa::attend_scratch_bytes, isa::attend_f32, attend_bf16, isa::score_scratch_bytes,      \
        isa::coverage_mass_f32, coverage_mass_bf16, isa::official_mass, isa::mean_of_tokens \
  }

FLEXPREFILL_DECLARE_KERNELS(portable)
#if defined(__x86_64__)
FLEXPREFILL_DECLARE_KERNELS(avx2)
FLEXPREFILL_DECLARE_KERNELS(avx512)
FLEXPREFILL_DECLARE_KERNELS(avx512bf16)
#endif

namespace {

constexpr Kernels kPortableKernels = FLEXPREFILL_KERNELS(portable, nullptr, nullptr);

#if defined(__x86_64__)
constexpr Kernels kAvx2Kernels = FLEXPREFILL_KERNELS(avx2, nullptr, nullptr);
constexpr Kernels kAvx512Kernels = FLEXPREFILL_KERNELS(avx512, nullptr, nullptr);
constexpr Kernels kAvx512Bf16Kernels =
    FLEXPREFILL_KERNELS(avx512bf16, avx512bf16::attend_bf16, avx512bf16::coverage_mass_bf16);

constexpr Isa kCompiled[] = {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16};

// Registers of a CPUID leaf; zero where the processor does not have it.
struct CpuidLeaf {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;

  CpuidLeaf(uint32_t leaf, uint32_t subleaf) {
    if (__get_cpuid_count(leaf, subleaf, &eax, &ebx, &ecx, &edx) == 0) eax = ebx = ecx = edx = 0;
  }
};

constexpr bool bit(uint32_t value, int index) { return ((value >> index) & 1) != 0; }

// Register states that the operating system saves (XCR0); 0 if it does not use XSAVE.
uint64_t saved_states() {
  if (!bit(CpuidLeaf(1, 0).ecx, 27)) return 0;  // OSXSAVE
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

Isa best_isa() {
  const CpuidLeaf basic(1, 0), extended(7, 0), more(7, 1);
  const uint64_t saved = saved_states();
  constexpr uint64_t kYmm = 0x6, kZmm = 0xe6;  // XMM and YMM; with opmask and both halves of ZMM
  const bool fma = bit(basic.ecx, 12), f16c = bit(basic.ecx, 29);
  if ((saved & kYmm) != kYmm || !bit(extended.ebx, 5) || !fma || !f16c) return Isa::kPortable;
  const bool f = bit(extended.ebx, 16), dq = bit(extended.ebx, 17), bw = bit(extended.ebx, 30),
             vl = bit(extended.ebx, 31);
  if ((saved & kZmm) != kZmm || !f || !dq || !bw || !vl) return Isa::kAvx2;
  return bit(more.eax, 5) ? Isa::kAvx512Bf16 : Isa::kAvx512;
}
#else
constexpr Isa kCompiled[] = {Isa::kPortable};

Isa best_isa() { return Isa::kPortable; }
#endif

}  // namespace

std::span<const Isa> compiled_isas() { return kCompiled; }

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::kPortable: return "portable";
    case Isa::kAvx2: return "avx2";
    case Isa::kAvx512: return "avx512";
    case Isa::kAvx512Bf16: return "avx512bf16";
  }
  return "unknown";
}

// Each set contains the ones before it.
bool isa_supported(Isa isa) {
  static const Isa best = best_isa();
  return isa <= best;
}

const Kernels& kernels_of(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kPortable: break;
    case Isa::kAvx2: return kAvx2Kernels;
    case Isa::kAvx512: return kAvx512Kernels;
    case Isa::kAvx512Bf16: return kAvx512Bf16Kernels;
  }
#else
  static_cast<void>(isa);
#endif
  return kPortableKernels;
}

Isa choose_isa(std::string_view forced) {
  Isa best = Isa::kPortable;
  std::string names;
  for (const Isa isa : compiled_isas()) {
    if (!isa_supported(isa)) continue;
    if (isa_name(isa) == forced) return isa;
    best = isa;
    names += names.empty() ? "" : ", ";
    names += isa_name(isa);
  }
  if (forced.empty()) return best;
  throw Error("FLEXPREFILL_CPU_ISA = " + std::string(forced) +
              ", expected one that this machine has: " + names);
}

}  // namespace flexprefill::internal
