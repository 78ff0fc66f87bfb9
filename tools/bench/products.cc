#include "tools/bench/products.h"

#include "runtime/buffer.h"
#include "runtime/convert.h"
#include "runtime/thread_scope.h"

namespace flexprefill::tools {
namespace {

// Values in [-0.5, 0.5], of the type that the products read.
runtime::Buffer some_values(int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t n = 0; n < values.size(); ++n) values[n] = 1e-3f * static_cast<float>(n % 997) - 0.5f;
  const auto bytes = static_cast<size_t>(count * dtype_bytes(runtime::matmul_dtype()));
  runtime::Buffer buffer(bytes, "the operands of a product");
  runtime::convert_row(values.data(), count, runtime::matmul_dtype(), buffer.data());
  return buffer;
}

}  // namespace

double flops_of(const runtime::Linear& linear, double rows) {
  return 2.0 * rows * static_cast<double>(linear.n()) * static_cast<double>(linear.k());
}

Samples measure_products(std::span<const runtime::Linear* const> products, int64_t rows,
                         int threads, int repeats) {
  const runtime::ThreadScope scope(threads);
  runtime::Matmul matmul;
  std::vector<Work> works;
  double flops = 0.0;
  for (const runtime::Linear* linear : products) {
    flops += flops_of(*linear, static_cast<double>(rows));
    const auto input = std::make_shared<runtime::Buffer>(some_values(rows * linear->k()));
    const auto output =
        std::make_shared<std::vector<float>>(static_cast<size_t>(rows * linear->n()));
    works.emplace_back([=, &matmul] {
      return std::vector<double>{seconds_of(
          [&] { matmul.run(*linear, input->data(), rows, output->data(), /*accumulate=*/false); })};
    });
  }
  const Work together = [&] {
    double sum = 0.0;
    for (const Work& work : works) sum += work().front();
    return std::vector<double>{sum};
  };
  Repeats count;
  count.count = repeats;
  const Samples seconds = measure({&together, 1}, count, /*peak=*/nullptr).front().total;
  return {flops / seconds.median, flops / seconds.max, flops / seconds.min, seconds.count};
}

runtime::Linear square_product(int64_t size) {
  return runtime::Linear(size, size, some_values(size * size), {});
}

}  // namespace flexprefill::tools
