#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "flexprefill/block_mask.h"
#include "flexprefill/export.h"
#include "flexprefill/policy.h"
#include "flexprefill/tensor.h"

namespace flexprefill {

class Backend;

/// Where and with what a call runs.
struct Context {
  /// Scratch of at least workspace_bytes(...), on the problems' device; any alignment. One
  /// workspace per concurrent call. A Plan's masks and reports lie in it: keep it until attend() is
  /// done. attend() of some of a plan's problems alone needs another workspace.
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
  void* stream = nullptr;            // cudaStream_t; unused on the CPU
  int threads = 0;                   // CPU threads; 0 = as many as OpenMP gives
  const Backend* backend = nullptr;  // null = the first of backends() that accepts
};

/// What plan() chose for a head.
enum class Pattern : uint8_t { kDense, kAShape, kVerticalSlash, kQueryAware };

/// Name of a pattern as reports write it: dense, a-shape, vertical-slash, query-aware.
constexpr std::string_view to_string(Pattern pattern) {
  switch (pattern) {
    case Pattern::kDense: return "dense";
    case Pattern::kAShape: return "a-shape";
    case Pattern::kVerticalSlash: return "vertical-slash";
    case Pattern::kQueryAware: return "query-aware";
  }
  return "unknown";
}

/// What plan() decided for one head.
struct HeadReport {
  Pattern pattern = Pattern::kDense;
  bool budget_limited = false;  // kCoverage only: max_budget ended the selection below gamma
  int64_t kept_blocks = 0;      // blocks that attend() will compute
  int64_t causal_blocks = 0;    // blocks that Dense would compute
  float coverage = 1.0f;  // mean kept attention mass of the probe rows, [0, 1]; NaN = not measured
  float coverage_min_row = 1.0f;  // the lowest probe row's; NaN = not measured
  float divergence = 0.0f;        // Jensen-Shannon distance, natural log; NaN = not measured
};

/// How attend() computes; independent of what is computed.
struct AttendOptions {
  bool accumulate_f64 = false;   // fp64 arithmetic from the inputs on; `ref` only
  bool mean_correction = false;  // reserved: no backend has it yet and every one says why_not
};

/// One implementation. Callers use the functions of flexprefill.h, which validate; a Backend's
/// own functions trust their arguments.
class FLEXPREFILL_EXPORT Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string_view name() const = 0;    // "ref", "cpu", "cuda"
  virtual std::string description() const = 0;  // one line: instruction set or device in use

  /// Why this backend cannot run the problem: names the field and its value. Empty = it can.
  /// `policies` is one for all heads or one per head.
  virtual std::string why_not(const AttentionProblem& problem, std::span<const Policy> policies,
                              const AttendOptions& options) const = 0;

  /// Scratch for plan() or attend(), whichever is larger, beside the masks and reports. Depends on
  /// the shapes, dtypes and policies alone.
  virtual size_t scratch_bytes(std::span<const AttentionProblem> problems,
                               std::span<const Policy> policies, int threads) const = 0;

  /// Fills the bits of masks[p] (cleared by the callee) and reports[p][0 .. heads). Every mask has
  /// bits, for every policy.
  virtual void plan(std::span<const AttentionProblem> problems, std::span<const Policy> policies,
                    std::span<const BlockMask> masks, std::span<HeadReport* const> reports,
                    std::span<std::byte> scratch, const Context& context) const = 0;

  virtual void attend(std::span<const AttentionProblem> problems, std::span<const BlockMask> masks,
                      const AttendOptions& options, std::span<std::byte> scratch,
                      const Context& context) const = 0;

  /// Copies bytes of a mask or report that this backend wrote to the host. On a GPU it waits for
  /// all work on context.stream so far; nothing else of a Backend waits.
  virtual void read(void* host, const void* from, size_t bytes, const Context& context) const;
};

/// Every backend built in, best first; `ref` is the last. The environment variable
/// FLEXPREFILL_BACKEND, read once, leaves only the one it names.
FLEXPREFILL_EXPORT std::span<const Backend* const> backends();

/// The backend of this name, or null. Names of backends() only.
FLEXPREFILL_EXPORT const Backend* find_backend(std::string_view name);

}  // namespace flexprefill
