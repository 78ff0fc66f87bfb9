// Measures attend() and plan() of the cpu backend against the machine's multiply-add peak, measured
// in the same process.
//
//   cpu_attention_bench [--heads 8] [--kv-heads 2] [--head-dim 128] [--q-len N] [--kv-len N]
//                       [--dtype bf16|f16|f32] [--density 1] [--threads T] [--isa X] [--repeats 5]
//                       [--clock wall|cpu]
//
// Density 1 counts exact-causal operations; below 1 the mask is random (diagonal kept) and whole
// blocks count. Times are the median with minimum and maximum; `--clock cpu` takes the process's
// CPU time over its threads, which is steadier on a machine that others use, the peak included.

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "bench/inputs.h"
#include "cpu/backend.h"
#include "cpu/threads.h"
#include "flexprefill/flexprefill.h"

namespace flexprefill::internal {

#define FLEXPREFILL_DECLARE_PEAK(isa)                  \
  namespace isa {                                      \
  double peak_f32(int64_t iterations, float* result);  \
  double peak_bf16(int64_t iterations, float* result); \
  }
FLEXPREFILL_DECLARE_PEAK(portable)
#if defined(__x86_64__)
FLEXPREFILL_DECLARE_PEAK(avx2)
FLEXPREFILL_DECLARE_PEAK(avx512)
FLEXPREFILL_DECLARE_PEAK(avx512bf16)
#endif

}  // namespace flexprefill::internal

namespace flexprefill::bench {
namespace {

using internal::Isa;
using Peak = double (*)(int64_t iterations, float* result);

struct Options {
  Shape shape;
  double density = 1.0;
  int threads = 0;
  int repeats = 5;
  Isa isa = Isa::kPortable;
};

struct Times {
  double median, min, max;  // seconds
};

bool cpu_clock = false;
int clock_threads = 1;

double now() {
  if (cpu_clock) {
    return static_cast<double>(std::clock()) / CLOCKS_PER_SEC / clock_threads;
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Times measure(int repeats, const std::function<void()>& body) {
  body();  // warm-up
  std::vector<double> seconds;
  for (int n = 0; n < repeats; ++n) {
    const double begin = now();
    body();
    seconds.push_back(now() - begin);
  }
  std::sort(seconds.begin(), seconds.end());
  return {seconds[seconds.size() / 2], seconds.front(), seconds.back()};
}

Peak peak_function(Isa isa, bool bf16) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kPortable: break;
    case Isa::kAvx2: return internal::avx2::peak_f32;
    case Isa::kAvx512: return internal::avx512::peak_f32;
    case Isa::kAvx512Bf16:
      return bf16 ? internal::avx512bf16::peak_bf16 : internal::avx512bf16::peak_f32;
  }
#else
  static_cast<void>(isa), static_cast<void>(bf16);
#endif
  return internal::portable::peak_f32;
}

// GFLOP/s of all threads together.
double measure_peak(const Options& options, bool bf16) {
  const Peak peak = peak_function(options.isa, bf16);
  const int threads = internal::thread_count(options.threads);
  double flops = 0.0;
  const Times times = measure(5, [&] {
    flops = 0.0;
#pragma omp parallel num_threads(threads) reduction(+ : flops)
    {
      float result = 1e-3f;
      flops += peak(8'000'000, &result);
      if (result == 0.5f) std::puts("");
    }
  });
  return flops / times.min / 1e9;
}

// A random mask of this density with the diagonal kept; every bit for density 1.
std::vector<uint64_t> make_bits(const BlockMask& grid, double density) {
  std::vector<uint64_t> bits(static_cast<size_t>(grid.num_words()));
  BlockMask mask = grid;
  mask.bits = bits.data();
  std::mt19937 random(7);
  for (int32_t h = 0; h < grid.heads; ++h) {
    for (int32_t i = 0; i < grid.q_blocks; ++i) {
      const int32_t end = grid.causal_blocks(i);
      for (int32_t j = 0; j < end; ++j) {
        const bool keep = static_cast<double>(random()) < density * 4294967296.0;
        if (keep || j == end - 1) mask.set(h, i, j);
      }
    }
  }
  return bits;
}

double attend_flops(const Shape& shape, const BlockMask& mask, bool dense) {
  const double per_pair = 4.0 * shape.head_dim;  // q . k and p v, two operations each
  if (dense) {
    const double q = static_cast<double>(shape.q_len), kv = static_cast<double>(shape.kv_len);
    return per_pair * shape.heads * (q * (kv - q) + q * (q + 1) / 2);
  }
  double blocks = 0.0;
  for (int32_t h = 0; h < mask.heads; ++h) blocks += static_cast<double>(kept_blocks(mask, h));
  return per_pair * blocks * kBlock * kBlock;
}

Context context_for(const Options& options, std::vector<std::byte>& workspace) {
  Context context;
  context.workspace = workspace.data();
  context.workspace_bytes = workspace.size();
  context.threads = options.threads;
  return context;
}

void print_attend(const char* counted, double flops, const Times& times, double peak) {
  std::printf("attend   %-22s %9.2f ms (%.2f .. %.2f)  %7.1f GFLOP/s  %5.1f %% of peak\n", counted,
              1e3 * times.median, 1e3 * times.min, 1e3 * times.max, flops / times.median / 1e9,
              100.0 * flops / times.median / 1e9 / peak);
}

void bench_plan(const Options& options, const Backend& backend, bool structured, double dense) {
  Inputs inputs(options.shape, structured);
  const AttentionProblem& problem = inputs.problem;
  for (const Rule rule : {Rule::kCoverage, Rule::kOfficial}) {
    FlexPrefill flex;
    flex.rule = rule;
    const Policy policy = flex;
    if (!backend.why_not(problem, {&policy, 1}, {}).empty()) continue;
    std::vector<std::byte> scratch(
        backend.scratch_bytes({&problem, 1}, {&policy, 1}, options.threads));
    const Context context = context_for(options, scratch);
    BlockMask mask = block_grid(problem);
    std::vector<uint64_t> bits(static_cast<size_t>(mask.num_words()));
    std::vector<HeadReport> reports(static_cast<size_t>(mask.heads));
    HeadReport* const report = reports.data();
    mask.bits = bits.data();
    const Times times = measure(options.repeats, [&] {
      backend.plan({&problem, 1}, {&policy, 1}, {&mask, 1}, {&report, 1}, scratch, context);
    });
    const Times attend = measure(options.repeats, [&] {
      backend.attend({&problem, 1}, {&mask, 1}, {}, scratch, context);
    });
    std::printf(
        "plan     %-10s %-11s %9.2f ms (%.2f .. %.2f)  %5.2f %% of dense attend; computed "
        "share %.3f, attend %.2f ms, total %.2fx dense\n",
        structured ? "structured" : "random", rule == Rule::kCoverage ? "kCoverage" : "kOfficial",
        1e3 * times.median, 1e3 * times.min, 1e3 * times.max, 100.0 * times.median / dense,
        computed_share(mask), 1e3 * attend.median, (times.median + attend.median) / dense);
  }
}

void run(const Options& options) {
  const Backend& backend = *internal::cpu_backend_for(options.isa);
  const bool bf16 = options.isa == Isa::kAvx512Bf16 && options.shape.dtype == DType::kBF16;
  const double peak = measure_peak(options, bf16);
  const Shape& shape = options.shape;
  std::printf("%s, %d threads, %s peak %.1f GFLOP/s\n", backend.description().c_str(),
              internal::thread_count(options.threads), bf16 ? "bf16" : "fp32", peak);
  std::printf("heads %d, kv_heads %d, head_dim %d, q_len %lld, kv_len %lld, %s\n", shape.heads,
              shape.kv_heads, shape.head_dim, static_cast<long long>(shape.q_len),
              static_cast<long long>(shape.kv_len), std::string(to_string(shape.dtype)).c_str());

  Inputs inputs(shape, /*structured=*/false);
  const AttentionProblem& problem = inputs.problem;
  const Policy policy = Dense{};
  std::vector<std::byte> scratch(
      backend.scratch_bytes({&problem, 1}, {&policy, 1}, options.threads));
  const Context context = context_for(options, scratch);
  BlockMask mask = block_grid(problem);
  const auto attend = [&] { backend.attend({&problem, 1}, {&mask, 1}, {}, scratch, context); };
  if (options.density < 1.0) {
    std::vector<uint64_t> bits = make_bits(mask, options.density);
    mask.bits = bits.data();
    char label[64];
    std::snprintf(label, sizeof label, "whole blocks, %.3f", computed_share(mask));
    print_attend(label, attend_flops(shape, mask, false), measure(options.repeats, attend), peak);
    return;
  }
  const Times dense = measure(options.repeats, attend);
  print_attend("dense, exact-causal", attend_flops(shape, mask, true), dense, peak);
  bench_plan(options, backend, /*structured=*/false, dense.median);
  bench_plan(options, backend, /*structured=*/true, dense.median);
}

Options parse(int argc, char** argv) {
  Options options;
  std::string isa;
  bool kv_given = false;
  for (int n = 1; n + 1 < argc; n += 2) {
    const std::string name = argv[n], value = argv[n + 1];
    Shape& shape = options.shape;
    if (name == "--heads")
      shape.heads = std::stoi(value);
    else if (name == "--kv-heads")
      shape.kv_heads = std::stoi(value);
    else if (name == "--head-dim")
      shape.head_dim = std::stoi(value);
    else if (name == "--q-len")
      shape.q_len = std::stoll(value);
    else if (name == "--kv-len")
      shape.kv_len = std::stoll(value), kv_given = true;
    else if (name == "--dtype")
      shape.dtype = value == "f32" ? DType::kF32 : value == "f16" ? DType::kF16 : DType::kBF16;
    else if (name == "--density")
      options.density = std::stod(value);
    else if (name == "--threads")
      options.threads = std::stoi(value);
    else if (name == "--repeats")
      options.repeats = std::max(1, std::stoi(value));
    else if (name == "--clock")
      cpu_clock = value == "cpu";
    else if (name == "--isa")
      isa = value;
    else
      throw Error(name + ": unknown option, see the head of bench/cpu_attention.cc");
  }
  if (argc % 2 == 0) throw Error(std::string(argv[argc - 1]) + ": expected a value after it");
  clock_threads = internal::thread_count(options.threads);
  if (!kv_given) options.shape.kv_len = options.shape.q_len;
  options.isa = internal::choose_isa(isa);
  return options;
}

}  // namespace
}  // namespace flexprefill::bench

int main(int argc, char** argv) {
  try {
    flexprefill::bench::run(flexprefill::bench::parse(argc, argv));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cpu_attention_bench: %s\n", error.what());
    return 1;
  }
}
