// The sections of the suite about attend() alone.

#include <cstring>

#include "tools/bench/memory.h"
#include "tools/bench/products.h"
#include "tools/bench/suite.h"
#include "tools/options.h"

namespace flexprefill::tools {
namespace {

constexpr int64_t k1K = 1024;

void add(Section& section, std::vector<CaseResult>& cases, CaseResult result) {
  section.results.push_back(json_of(result));
  cases.push_back(std::move(result));
}

Section finish(Section section, const std::vector<CaseResult>& cases) {
  section.table = table_of(cases, /*titles=*/true);
  return section;
}

std::string gigas(const Samples& samples) {
  const int digits = samples.median < 1e11 ? 1 : 0;
  return fixed(samples.median / 1e9, digits) + " (" + fixed(samples.min / 1e9, digits) + " .. " +
         fixed(samples.max / 1e9, digits) + ")";
}

}  // namespace

Section peak_section(SuiteRun& run) {
  Section section{"The machine", "What `bench peak` finds: GFLOP/s and GB/s, with range.", {}};
  const Context& context = run.setup().context;
  const Backend& backend = backend_or_best(context);
  const PeakKernels* kernels = peak_kernels(backend);
  if (kernels == nullptr) return section;
  section.table.add_row({"limit", "1 thread", "all threads"});
  const int all = thread_count(context.threads);
  const auto add_limit = [&](const std::string& name, auto sample) {
    run.tell(name);
    const Samples one = sample(1), many = sample(all);
    section.table.add_row({name, gigas(one), gigas(many)});
    section.results.push_back({{"limit", name}, {"one", one.median}, {"all", many.median}});
  };
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    if (dtype == DType::kBF16 && kernels->bf16 == nullptr) continue;
    add_limit("multiply-add " + Peak::of(backend, dtype, 1)->name(), [&](int threads) {
      const Peak peak = *Peak::of(backend, dtype, threads);
      return take_samples(/*count=*/25, [&] { return peak.sample(); });
    });
  }
  const int64_t size = run.length(2048);
  const runtime::Linear square = square_product(size);
  const runtime::Linear* const product = &square;
  add_limit("oneDNN product " + std::string(to_string(runtime::matmul_dtype())) + ", " +
                std::to_string(size) + " ^ 3",
            [&](int threads) {
              return measure_products({&product, 1}, size, threads, /*repeats=*/9);
            });
  constexpr int64_t kMemory = int64_t{256} << 20;
  const int64_t bytes = run.length(kMemory);
  const int repeats = 5;
  add_limit("memory, read",
            [&](int threads) { return measure_bandwidth(*kernels, threads, bytes, repeats).read; });
  add_limit("memory, copy (read + written)",
            [&](int threads) { return measure_bandwidth(*kernels, threads, bytes, repeats).copy; });
  return section;
}

Section dense_section(SuiteRun& run) {
  Section section{"Dense, bf16",
                  "Targets (AVX512-BF16, share of the bf16 peak): head_dim 128: 82 % at 4K to 16K, "
                  "78 % at 32K and for chunks of 512\nand 2048 against 16K; head_dim 64: 78 %; "
                  "96, 192, 256 and another v.head_dim: 65 %.",
                  {}};
  std::vector<CaseResult> cases;
  const auto measure = [&](Shape shape) {
    add(section, cases, run.measure(shape, Data::kNormal, {}));
  };
  for (const int64_t tokens : {4 * k1K, 8 * k1K, 16 * k1K, 32 * k1K})
    measure(run.shape(tokens, tokens, 128, DType::kBF16));
  for (const int64_t chunk : {int64_t{512}, 2 * k1K})
    measure(run.shape(chunk, 16 * k1K, 128, DType::kBF16));
  for (const int64_t tokens : {4 * k1K, 8 * k1K, 16 * k1K})
    measure(run.shape(tokens, tokens, 64, DType::kBF16));
  for (const int32_t head_dim : {96, 192, 256})
    measure(run.shape(8 * k1K, 8 * k1K, head_dim, DType::kBF16));
  Shape unequal = run.shape(8 * k1K, 8 * k1K, 192, DType::kBF16);
  unequal.v_head_dim = 128;
  measure(unequal);
  return finish(std::move(section), cases);
}

Section sparse_section(SuiteRun& run) {
  Section section{"Random block masks, bf16",
                  "Blocks of 128 x 128, the diagonal always kept. Targets: 78 % of the peak over "
                  "the blocks computed at 10 to 50 %,\n72 % at 5 %.",
                  {}};
  std::vector<CaseResult> cases;
  AttentionWork work;
  work.densities = {0.05, 0.1, 0.25, 0.5};
  for (const int32_t head_dim : {128, 64})
    add(section, cases,
        run.measure(run.shape(16 * k1K, 16 * k1K, head_dim, DType::kBF16), Data::kNormal, work));
  return finish(std::move(section), cases);
}

Section isa_section(SuiteRun& run) {
  Section section{"fp32 with every instruction set",
                  "Each in a process of its own, forced by FLEXPREFILL_CPU_ISA. Target: 75 % of "
                  "the fp32 peak with AVX2 and AVX-512.",
                  {}};
  std::vector<CaseResult> cases;
  for (const char* isa : {"avx512bf16", "avx512", "avx2", "portable"}) {
    for (const int64_t head_dim : {128, 64}) {
      run.tell(std::string("fp32, ") + isa + ", head_dim " + std::to_string(head_dim));
      const bool slow = std::strcmp(isa, "portable") == 0;
      std::vector<std::string> arguments = {
          "--dtype",    "f32",
          "--head-dim", std::to_string(head_dim),
          "--q-len",    std::to_string(run.length(slow ? 2 * k1K : 4 * k1K))};
      arguments.insert(arguments.end(),
                       {"--threads", std::to_string(thread_count(run.setup().context.threads))});
      if (run.setup().repeats.count > 0)
        arguments.insert(arguments.end(), {"--repeats", std::to_string(run.setup().repeats.count)});
      std::optional<CaseResult> result = measure_with_isa(isa, arguments);
      if (!result) {
        section.notes = std::string(isa) + ": this machine or program does not have it.\n";
        continue;
      }
      result->title = std::string(isa) + ": " + result->title;
      add(section, cases, std::move(*result));
    }
  }
  return finish(std::move(section), cases);
}

Section dtype_section(SuiteRun& run) {
  Section section{"f16 and f32 beside bf16",
                  "Target: f16 within 10 % of the time of bf16. 16-bit inputs are compared with "
                  "the bf16 peak, f32 with the fp32 peak.",
                  {}};
  std::vector<CaseResult> cases;
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32})
    add(section, cases, run.measure(run.shape(8 * k1K, 8 * k1K, 128, dtype), Data::kNormal, {}));
  return finish(std::move(section), cases);
}

Section thread_section(SuiteRun& run) {
  Section section{"Threads", "Target: two threads take 1 / 1.9 of the time of one, or less.", {}};
  section.table.add_row({"case", "1 thread, ms", "all threads, ms", "times faster", "same bits"});
  for (const int64_t tokens : {8 * k1K, 16 * k1K}) {
    const Inputs inputs(run.shape(tokens, tokens, 128, DType::kBF16), Data::kNormal);
    run.tell("threads, " + inputs.shape.text());
    const ThreadComparison both = compare_threads(inputs, run.setup());
    const double faster = both.one.median / both.all.median;
    section.table.add_row({inputs.shape.text(), milliseconds(both.one), milliseconds(both.all),
                           fixed(faster, 2), both.same_bits ? "yes" : "NO"});
    section.results.push_back({{"case", inputs.shape.text()},
                               {"seconds_one", both.one.median},
                               {"seconds_all", both.all.median},
                               {"threads", both.threads},
                               {"same_bits", both.same_bits}});
  }
  return section;
}

}  // namespace flexprefill::tools
