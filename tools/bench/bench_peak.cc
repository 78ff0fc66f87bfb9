// `flexprefill bench peak`: multiply-adds in registers and bytes of memory, per second.

#include <memory>

#include "tools/bench/bench_commands.h"
#include "tools/bench/bench_options.h"
#include "tools/bench/memory.h"
#include "tools/bench/products.h"
#include "tools/options.h"

namespace flexprefill::tools {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kProductSize = 2048;

struct PeakArguments {
  PolicyOptions place;
  MeasureOptions measure;
};

void bench_peak(const PeakArguments& arguments) {
  const Context context = arguments.place.context();
  const JsonOutput json(arguments.measure.json());
  const Backend& backend = backend_or_best(context);
  const PeakKernels* kernels = peak_kernels(backend);
  if (kernels == nullptr)
    throw Error("backend " + std::string(backend.name()) + " (" + backend.description() +
                ") has no peak to measure; use --backend cpu");
  const int repeats = arguments.measure.repeats().count > 0 ? arguments.measure.repeats().count : 9;
  const int most = thread_count(context.threads);
  Table table;
  Json results = Json::array();
  table.add_row({"limit", "threads", "median", "min", "max", "unit"});
  const auto add = [&](const std::string& name, int threads, const Samples& samples,
                       const std::string& unit) {
    const int digits = samples.median < 1e11 ? 1 : 0;
    table.add_row({name, std::to_string(threads), fixed(samples.median / 1e9, digits),
                   fixed(samples.min / 1e9, digits), fixed(samples.max / 1e9, digits), unit});
    results.push_back({{"limit", name},
                       {"threads", threads},
                       {"median", samples.median / 1e9},
                       {"min", samples.min / 1e9},
                       {"max", samples.max / 1e9},
                       {"unit", unit}});
  };
  for (int threads = 1; threads <= most; threads = threads < most ? most : most + 1) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      if (dtype == DType::kBF16 && kernels->bf16 == nullptr) continue;
      const Peak peak = *Peak::of(backend, dtype, threads);
      add("multiply-add " + peak.name(), threads,
          take_samples(3 * repeats, [&] { return peak.sample(); }), "GFLOP/s");
    }
    const runtime::Linear square = square_product(kProductSize);
    const runtime::Linear* const product = &square;
    add("oneDNN product " + std::string(to_string(runtime::matmul_dtype())) + ", " +
            std::to_string(kProductSize) + " ^ 3",
        threads, measure_products({&product, 1}, kProductSize, threads, repeats), "GFLOP/s");
    for (const auto& [name, bytes] : {std::pair("memory, 256 MiB", int64_t{256} << 20),
                                      std::pair("cache, 4 MiB", int64_t{4} << 20)}) {
      const Bandwidth bandwidth = measure_bandwidth(*kernels, threads, bytes, repeats);
      add(std::string("read, ") + name + " a thread", threads, bandwidth.read, "GB/s");
      add(std::string("copy, ") + name + " a thread", threads, bandwidth.copy, "GB/s");
    }
  }
  report(table.text(), results, json);
}

}  // namespace

Action add_bench_peak(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand(
      "peak", "What the machine can do: multiply-adds in registers, bytes of memory");
  auto arguments = std::make_shared<PeakArguments>();
  arguments->place.add_place_to(*command);
  arguments->measure.add_to(*command);
  return [arguments] { bench_peak(*arguments); };
}

}  // namespace flexprefill::tools
