// Times attend() of the cuda backend:  cuda_attention_bench [--only NAME[,NAME]]
// [--match TEXT] [--repeats N]  NAME: dense, dims, sparse, chunk, paged; --match takes the lines
// that contain TEXT. bf16, random normal data, medians of event times. FLOP are counted
// exact-causal for dense, and as whole 128 x 128 blocks for masks. One line per measurement:
//   section  D  q_len/kv_len  heads  share of blocks  ms (min .. max)  TFLOP/s  of the dense rate

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "bench/normal.cuh"
#include "cuda/backend.h"
#include "cuda/check.h"
#include "flexprefill/flexprefill.h"
#include "tests/support/device_memory.h"

namespace flexprefill::bench {
namespace {

using internal::cuda::check;
using test::DeviceMemory;

int repeats = 12;

__global__ void fill_normal(__nv_bfloat16* to, int64_t count, uint32_t first_seed) {
  for (int64_t n = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; n < count;
       n += int64_t{gridDim.x} * blockDim.x) {
    to[n] = __float2bfloat16(normal(first_seed + static_cast<uint32_t>(n)));
  }
}

struct Shape {
  int64_t q_len, kv_len;
  int32_t heads = 32, kv_heads = 8, head_dim = 128, v_head_dim = 0;
  int32_t page_size = 0;  // 0 = contiguous
};

// Tensors, workspace and mask of one problem.
class Inputs {
 public:
  explicit Inputs(const Shape& shape)
      : shape_(shape),
        v_dim_(shape.v_head_dim == 0 ? shape.head_dim : shape.v_head_dim),
        pages_(shape.page_size == 0 ? 0 : (shape.kv_len + shape.page_size - 1) / shape.page_size),
        kv_tokens_(pages_ == 0 ? shape.kv_len : pages_ * shape.page_size),
        q_(bytes(shape.q_len, shape.heads, shape.head_dim)),
        k_(bytes(kv_tokens_, shape.kv_heads, shape.head_dim)),
        v_(bytes(kv_tokens_, shape.kv_heads, v_dim_)),
        out_(bytes(shape.q_len, shape.heads, v_dim_)),
        table_(std::max<size_t>(4, static_cast<size_t>(pages_) * 4)) {
    fill(q_, 1);
    fill(k_, 2);
    fill(v_, 3);
    problem.q = view(q_, shape.q_len, shape.heads, shape.head_dim);
    problem.kv.k = view(k_, kv_tokens_, shape.kv_heads, shape.head_dim);
    problem.kv.v = view(v_, kv_tokens_, shape.kv_heads, v_dim_);
    problem.out = view(out_, shape.q_len, shape.heads, v_dim_);
    problem.q_start = shape.kv_len - shape.q_len;
    if (pages_ > 0) use_pages();
    grid = block_grid(problem);
    workspace_ = std::make_unique<DeviceMemory>(workspace_bytes(problem, Dense{}));
    context.workspace = workspace_->data();
    context.workspace_bytes = workspace_->bytes();
  }

  // Random blocks at this density, with the diagonal and the first block.
  void set_density(double density) {
    std::vector<uint64_t> bits(static_cast<size_t>(grid.num_words()));
    BlockMask host = grid;
    host.bits = bits.data();
    std::mt19937 random(7);
    const auto limit = static_cast<uint32_t>(density * 4294967295.0);
    blocks_ = 0;
    for (int32_t h = 0; h < grid.heads; ++h) {
      for (int32_t i = 0; i < grid.q_blocks; ++i) {
        const int32_t end = grid.causal_blocks(i);
        for (int32_t j = 0; j < end; ++j) {
          if (random() >= limit && j != 0 && j != end - 1) continue;
          host.set(h, i, j);
          ++blocks_;
        }
      }
    }
    bits_ = std::make_unique<DeviceMemory>(std::as_bytes(std::span(bits)));
    grid.bits = bits_->as<uint64_t>();
  }

  double share() const {
    return grid.bits == nullptr ? 1.0
                                : static_cast<double>(blocks_) /
                                      static_cast<double>(causal_blocks(grid) * grid.heads);
  }

  double flops() const {
    const double per_pair = 2.0 * (shape_.head_dim + v_dim_);
    if (grid.bits != nullptr) return per_pair * kBlock * kBlock * static_cast<double>(blocks_);
    const auto q = static_cast<double>(shape_.q_len), kv = static_cast<double>(shape_.kv_len);
    return per_pair * shape_.heads * (q * (kv - q) + q * (q + 1) / 2);
  }

  AttentionProblem problem;
  BlockMask grid;
  Context context;

 private:
  static size_t bytes(int64_t tokens, int32_t heads, int32_t head_dim) {
    return static_cast<size_t>(tokens * heads * head_dim) * 2;
  }
  static void fill(const DeviceMemory& memory, uint32_t tensor) {
    const auto count = static_cast<int64_t>(memory.bytes() / 2);  // below 2^30
    fill_normal<<<1024, 256>>>(memory.as<__nv_bfloat16>(), count, tensor << 30);
    check(cudaDeviceSynchronize(), "fill_normal");
  }
  static HeadView view(const DeviceMemory& memory, int64_t tokens, int32_t heads,
                       int32_t head_dim) {
    HeadView view = head_view(memory.data(), DType::kBF16, tokens, heads, head_dim);
    view.device = {DeviceType::kCuda, 0};
    return view;
  }
  // The pages of the pool in random order.
  void use_pages() {
    std::vector<int32_t> table(static_cast<size_t>(pages_));
    for (size_t n = 0; n < table.size(); ++n) table[n] = static_cast<int32_t>(n);
    std::shuffle(table.begin(), table.end(), std::mt19937(5));
    check(cudaMemcpy(table_.data(), table.data(), table.size() * 4, cudaMemcpyDefault),
          "cudaMemcpy");
    KvView& kv = problem.kv;
    kv.block_table = table_.as<int32_t>();
    kv.page_size = shape_.page_size;
    kv.page_stride = shape_.page_size * kv.k.token_stride;
    kv.paged_kv_len = shape_.kv_len;
    kv.k.tokens = kv.v.tokens = shape_.page_size;
  }

  Shape shape_;
  int32_t v_dim_;
  int64_t pages_, kv_tokens_;
  DeviceMemory q_, k_, v_, out_, table_;
  std::unique_ptr<DeviceMemory> workspace_, bits_;
  int64_t blocks_ = 0;
};

struct Times {
  double min, median, max;  // ms
};

// All repetitions are queued before the first result is asked for, so that short kernels do not
// wait for the host.
Times measure(int count, const std::function<void()>& work) {
  // After seconds at the limit of its power the card lowers its clocks for a while.
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  for (int n = 0; n < 3; ++n) work();
  std::vector<cudaEvent_t> events(static_cast<size_t>(count) + 1);
  for (cudaEvent_t& event : events) check(cudaEventCreate(&event), "cudaEventCreate");
  check(cudaEventRecord(events[0]), "cudaEventRecord");
  for (int n = 0; n < count; ++n) {
    work();
    check(cudaEventRecord(events[static_cast<size_t>(n) + 1]), "cudaEventRecord");
  }
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  std::vector<double> ms;
  for (size_t n = 0; n + 1 < events.size(); ++n) {
    float elapsed = 0.0f;
    check(cudaEventElapsedTime(&elapsed, events[n], events[n + 1]), "cudaEventElapsedTime");
    ms.push_back(elapsed);
  }
  for (cudaEvent_t event : events) cudaEventDestroy(event);
  std::sort(ms.begin(), ms.end());
  return {ms.front(), ms[ms.size() / 2], ms.back()};
}

std::map<std::string, double> rates;  // TFLOP/s of what was measured, for comparisons

std::string only_lines;  // --match

double report(const char* section, const Shape& shape, Inputs& inputs, double reference = 0.0) {
  char label[128];
  std::snprintf(label, sizeof label, "%-8s D %3d  %6lld/%-7lld %2d/%d  page %-5d share %5.3f",
                section, shape.head_dim, static_cast<long long>(shape.q_len),
                static_cast<long long>(shape.kv_len), shape.heads, shape.kv_heads, shape.page_size,
                inputs.share());
  if (std::string(label).find(only_lines) == std::string::npos) return 0.0;
  const double expected_ms = inputs.flops() / 4e11;  // at 400 TFLOP/s
  const int count = expected_ms > 100 ? 5 : expected_ms > 5 ? repeats : 2 * repeats;
  const Times times =
      measure(count, [&] { attend(inputs.problem, inputs.grid, {}, inputs.context); });
  const double rate = inputs.flops() / times.median * 1e-9;
  std::printf("%s  %9.3f ms (%.3f .. %.3f)  %6.1f", label, times.median, times.min, times.max,
              rate);
  if (reference > 0) std::printf("  %.3f", rate / reference);
  std::printf("\n");
  std::fflush(stdout);
  return rate;
}

void bench_dense() {
  for (const int64_t n : {4096, 8192, 16384, 32768, 131072}) {
    const Shape shape = {n, n};
    Inputs inputs(shape);
    rates["dense" + std::to_string(n)] = report("dense", shape, inputs);
  }
}

void bench_dims() {
  for (const auto& [dim, v_dim] :
       {std::pair(64, 64), {96, 96}, {192, 128}, {192, 192}, {256, 256}}) {
    for (const int64_t n : {16384, 32768}) {
      Shape shape = {n, n};
      shape.head_dim = dim;
      shape.v_head_dim = v_dim;
      Inputs inputs(shape);
      const double dense = report("dims", shape, inputs);
      if (n != 32768 || dim != 64) continue;
      inputs.set_density(0.1);
      report("dims", shape, inputs, dense);
    }
  }
}

void bench_sparse() {
  for (const int64_t n : {8192, 32768, 131072}) {
    const Shape shape = {n, n};
    Inputs inputs(shape);
    for (const double density : {0.5, 0.25, 0.1, 0.05}) {
      inputs.set_density(density);
      report("sparse", shape, inputs, rates["dense" + std::to_string(n)]);
    }
  }
}

void bench_chunk() {
  double whole = 0.0;
  for (const auto& [heads, kv_heads] : {std::pair(32, 8), {16, 4}, {8, 2}, {4, 1}}) {
    Shape shape = {8192, 131072};
    shape.heads = heads;
    shape.kv_heads = kv_heads;
    Inputs inputs(shape);
    inputs.set_density(0.1);
    const double rate = report("chunk", shape, inputs, whole);
    if (whole == 0.0) whole = rate;
  }
}

void bench_paged() {
  for (const double density : {1.0, 0.1}) {
    double contiguous = 0.0;
    for (const int32_t page : {0, 128, 64, 16, 1, 528, 784, 1056}) {
      Shape shape = {32768, 32768};
      shape.page_size = page;
      Inputs inputs(shape);
      if (density < 1.0) inputs.set_density(density);
      const double rate = report("paged", shape, inputs, contiguous);
      if (contiguous == 0.0) contiguous = rate;
    }
  }
}

void run(const std::string& only) {
  std::printf("%s\n", internal::cuda_backend().description().c_str());
  const std::pair<const char*, void (*)()> sections[] = {{"dense", bench_dense},
                                                         {"dims", bench_dims},
                                                         {"sparse", bench_sparse},
                                                         {"chunk", bench_chunk},
                                                         {"paged", bench_paged}};
  for (const auto& [name, section] : sections) {
    if (only.empty() || ("," + only + ",").find("," + std::string(name) + ",") != std::string::npos)
      section();
  }
}

}  // namespace
}  // namespace flexprefill::bench

int main(int argc, char** argv) {
  std::string only;
  for (int n = 1; n + 1 < argc; n += 2) {
    if (std::strcmp(argv[n], "--only") == 0) only = argv[n + 1];
    if (std::strcmp(argv[n], "--match") == 0) flexprefill::bench::only_lines = argv[n + 1];
    if (std::strcmp(argv[n], "--repeats") == 0)
      flexprefill::bench::repeats = std::max(1, std::atoi(argv[n + 1]));
  }
  try {
    flexprefill::bench::run(only);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cuda_attention_bench: %s\n", error.what());
    return 1;
  }
}
