// The mean of a block's queries or keys, which plan() compares. Compiled once per instruction set.

#include "cpu/kernels.h"
#include "cpu/tile.h"

namespace flexprefill::internal::FLEXPREFILL_ISA {

void mean_of_tokens(const TokenRows& tokens, int64_t count, int32_t columns, bool round,
                    float* mean) {
  constexpr int kAhead = 16;  // rows: those of q lie half a page apart, too far for the hardware
  constexpr int kVecs = 4;    // columns of one pass over the tokens, summed in registers
  alignas(64) float sums[256 + kVecs * 16] = {};
  const auto add = [&]<DType kType>() {
    int c = 0;
    for (; c + kVecs * kLanes <= columns; c += kVecs * kLanes) {
      Vec sum[kVecs];
      for (Vec& x : sum) x = broadcast(0.0f);
      for (int64_t t = 0; t < count; ++t) {
        const char* row = static_cast<const char*>(row_of(tokens, t, kBytes<kType>));
        const auto* ahead = static_cast<const char*>(
            row_of(tokens, min_int64(t + kAhead, count - 1), kBytes<kType>));
        for (int x = 0; x < kVecs * kLanes; x += 64 / kBytes<kType>) {
          prefetch(ahead + (c + x) * kBytes<kType>);
        }
        FLEXPREFILL_UNROLL
        for (int x = 0; x < kVecs; ++x) {
          const Vec value = load_as_f32<kType>(row + (c + x * kLanes) * kBytes<kType>);
          sum[x] = sum[x] + (round ? round_to_bf16(value) : value);
        }
      }
      FLEXPREFILL_UNROLL
      for (int x = 0; x < kVecs; ++x) store_f32(sums + c + x * kLanes, sum[x]);
    }
    for (int64_t t = 0; t < count && c < columns; ++t) {
      const char* row = static_cast<const char*>(row_of(tokens, t, kBytes<kType>));
      convert_row<kType>(row + c * kBytes<kType>, columns - c, [&](int at, Vec x) {
        float* const sum = sums + c + at;
        store_f32(sum, load_f32(sum) + (round ? round_to_bf16(x) : x));
      });
    }
  };
  if (tokens.dtype == DType::kF32) add.operator()<DType::kF32>();
  if (tokens.dtype == DType::kF16) add.operator()<DType::kF16>();
  if (tokens.dtype == DType::kBF16) add.operator()<DType::kBF16>();
  const float inverse = 1.0f / static_cast<float>(count > 0 ? count : 1);
  for (int c = 0; c < columns; ++c) mean[c] = sums[c] * inverse;
}

}  // namespace flexprefill::internal::FLEXPREFILL_ISA
