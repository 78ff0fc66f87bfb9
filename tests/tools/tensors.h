#pragma once

// Random tensors for the commands that read q, k and v from a file.

#include <bit>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "runtime/safetensors.h"

namespace flexprefill::testing {

struct Tensor {
  std::vector<int64_t> shape;
  std::vector<char> bytes;
};

// Gaussian values in f32 or bf16.
inline Tensor random_tensor(std::vector<int64_t> shape, runtime::TensorType type, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Tensor tensor{std::move(shape), {}};
  int64_t elements = 1;
  for (const int64_t n : tensor.shape) elements *= n;
  for (int64_t n = 0; n < elements; ++n) {
    const uint32_t bits = std::bit_cast<uint32_t>(1.5f * normal(random));
    const char* data = reinterpret_cast<const char*>(&bits);
    if (type == runtime::TensorType::kBF16) {  // little endian: the upper half
      tensor.bytes.insert(tensor.bytes.end(), data + 2, data + 4);
    } else {
      tensor.bytes.insert(tensor.bytes.end(), data, data + 4);
    }
  }
  return tensor;
}

inline void write_qkv(const std::string& path, runtime::TensorType type, const Tensor& q,
                      const Tensor& k, const Tensor& v) {
  runtime::write_safetensors(
      path, std::vector<runtime::TensorToWrite>{{"q", type, q.shape, q.bytes.data()},
                                                {"k", type, k.shape, k.bytes.data()},
                                                {"v", type, v.shape, v.bytes.data()}});
}

}  // namespace flexprefill::testing
