#include "tests/support/device.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "tests/support/device_memory.h"

namespace flexprefill::test {
namespace {

constexpr size_t kGuard = 1 << 16;
constexpr int kPoison = 0xff;  // NaN in every floating-point type

std::vector<std::byte> read(const std::byte* data, size_t bytes) {
  std::vector<std::byte> host(bytes);
  CHECK_CUDA(cudaMemcpy(host.data(), data, bytes, cudaMemcpyDefault));
  return host;
}

// Elements from the first of a view to its last.
int64_t extent(const HeadView& view) {
  if (view.tokens == 0) return 0;
  return (view.tokens - 1) * view.token_stride + (view.heads - 1) * view.head_stride +
         view.head_dim;
}

}  // namespace

bool runs_on_gpu(const Backend& backend) { return backend.name() == "cuda"; }

std::string machine_why_not(const Backend& backend) {
  if (!runs_on_gpu(backend)) return "";
  alignas(16) static std::byte memory[256] = {};
  AttentionProblem problem;
  problem.q = problem.kv.k = problem.kv.v = head_view(memory, DType::kBF16, 1, 1, 64);
  const Policy policy = Dense{};
  return backend.why_not(placed(backend, problem), std::span(&policy, 1), {});
}

AttentionProblem placed(const Backend& backend, AttentionProblem problem) {
  const Device device = {runs_on_gpu(backend) ? DeviceType::kCuda : DeviceType::kCpu, 0};
  problem.q.device = problem.kv.k.device = problem.kv.v.device = problem.out.device = device;
  return problem;
}

DeviceBuffer::DeviceBuffer(size_t bytes, size_t misalignment)
    : bytes_(bytes),
      memory_(std::make_shared<DeviceMemory>(bytes + 2 * kGuard + 256, kPoison)),
      data_(memory_->as<std::byte>() + kGuard + misalignment) {}

DeviceBuffer::DeviceBuffer(size_t bytes) : DeviceBuffer(bytes, /*misalignment=*/0) {}

DeviceBuffer::DeviceBuffer(const void* host, size_t bytes)
    : DeviceBuffer(bytes, reinterpret_cast<uintptr_t>(host) % 256) {
  CHECK_CUDA(cudaMemcpy(data_, host, bytes_, cudaMemcpyDefault));
}

void DeviceBuffer::download(void* host) const {
  CHECK_CUDA(cudaMemcpy(host, data_, bytes_, cudaMemcpyDefault));
}

bool DeviceBuffer::guards_untouched() const {
  const auto poison = [](std::byte b) { return b == std::byte{kPoison}; };
  const std::byte* const begin = memory_->as<std::byte>();
  const std::byte* const end = begin + memory_->bytes();
  return std::ranges::all_of(read(begin, static_cast<size_t>(data_ - begin)), poison) &&
         std::ranges::all_of(read(data_ + bytes_, static_cast<size_t>(end - data_) - bytes_),
                             poison);
}

OnDevice::OnDevice(std::span<const AttentionProblem> problems, std::span<const BlockMask> masks) {
  for (AttentionProblem problem : problems) {
    const size_t lse_bytes =
        static_cast<size_t>(problem.q.tokens * problem.q.heads) * sizeof(float);
    problem.q = add(problem.q, /*output=*/false);
    problem.kv = add(problem.kv);
    problem.out = add(problem.out, /*output=*/true);
    problem.lse = static_cast<float*>(add(problem.lse, lse_bytes, /*output=*/true));
    problem.q_len_device = static_cast<const int32_t*>(add(problem.q_len_device, 4, false));
    problem.kv_len_device = static_cast<const int32_t*>(add(problem.kv_len_device, 4, false));
    problems_.push_back(problem);
  }
  for (BlockMask mask : masks) {
    const size_t bytes = static_cast<size_t>(mask.num_words()) * sizeof(uint64_t);
    mask.bits = static_cast<uint64_t*>(add(mask.bits, bytes, /*output=*/false));
    masks_.push_back(mask);
  }
}

void* OnDevice::add(const void* host, size_t bytes, bool output) {
  if (host == nullptr) return nullptr;
  copies_.push_back({std::make_unique<DeviceBuffer>(host, bytes), const_cast<void*>(host), output});
  return copies_.back().buffer->data();
}

HeadView OnDevice::add(const HeadView& view, bool output) {
  HeadView copy = view;
  copy.data = add(view.data, static_cast<size_t>(extent(view) * dtype_bytes(view.dtype)), output);
  copy.device = {DeviceType::kCuda, 0};
  return copy;
}

KvView OnDevice::add(const KvView& kv) {
  KvView copy = kv;
  if (kv.page_size == 0) {
    copy.k = add(kv.k, /*output=*/false);
    copy.v = add(kv.v, /*output=*/false);
    return copy;
  }
  // The pool ends with the last page of the table.
  const auto pages = static_cast<size_t>((kv.paged_kv_len + kv.page_size - 1) / kv.page_size);
  int32_t last = 0;
  for (size_t n = 0; n < pages; ++n) last = std::max(last, kv.block_table[n]);
  for (HeadView* view : {&copy.k, &copy.v}) {
    const int64_t elements = last * kv.page_stride + extent(*view);
    view->data =
        add(view->data, static_cast<size_t>(elements * dtype_bytes(view->dtype)), /*output=*/false);
    view->device = {DeviceType::kCuda, 0};
  }
  copy.block_table =
      static_cast<const int32_t*>(add(kv.block_table, pages * sizeof(int32_t), /*output=*/false));
  return copy;
}

void OnDevice::download() const {
  for (const Copy& copy : copies_) {
    EXPECT_TRUE(copy.buffer->guards_untouched()) << "written outside of a tensor";
    if (copy.output) {
      copy.buffer->download(copy.host);
    } else {
      const std::vector<std::byte> now =
          read(static_cast<std::byte*>(copy.buffer->data()), copy.buffer->bytes());
      EXPECT_EQ(0, std::memcmp(now.data(), copy.host, now.size())) << "an input changed";
    }
  }
}

Stream::Stream() {
  CHECK_CUDA(
      cudaStreamCreateWithFlags(reinterpret_cast<cudaStream_t*>(&stream_), cudaStreamNonBlocking));
}

Stream::~Stream() { cudaStreamDestroy(static_cast<cudaStream_t>(stream_)); }

void Stream::wait() const { CHECK_CUDA(cudaStreamSynchronize(static_cast<cudaStream_t>(stream_))); }

}  // namespace flexprefill::test
