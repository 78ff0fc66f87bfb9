#include "tests/cpu/simd_probe.h"

#include "cpu/kernels.h"
#include "cpu/tile.h"

namespace flexprefill::internal::FLEXPREFILL_ISA {
namespace {

template <typename Product>
void exp2_of(const float* x, int64_t count, float* y) {
  for (int64_t n = 0; n < count; n += kLanes) {
    store_f32(y + n, Product::exp2(load_f32(x + n)));
  }
}

void probe_exp2([[maybe_unused]] bool bf16, const float* x, int64_t count, float* y) {
#ifdef FLEXPREFILL_BF16_PRODUCT
  if (bf16) return exp2_of<Bf16Product>(x, count, y);
#endif
  exp2_of<F32Product>(x, count, y);
}

template <DType kType>
void load_of(const void* x, int count, float* y) {
  store_f32(y, count == kLanes ? load_as_f32<kType>(x) : load_as_f32<kType>(x, count));
}

template <DType kType>
void store_of(const float* x, int count, void* y) {
  if (count == kLanes) {
    store_from_f32<kType>(y, load_f32(x));
  } else {
    store_from_f32<kType>(y, load_f32(x), count);
  }
}

void probe_load(const void* x, DType dtype, int count, float* y) {
  if (dtype == DType::kF32) return load_of<DType::kF32>(x, count, y);
  if (dtype == DType::kF16) return load_of<DType::kF16>(x, count, y);
  load_of<DType::kBF16>(x, count, y);
}

void probe_store(const float* x, DType dtype, int count, void* y) {
  if (dtype == DType::kF32) return store_of<DType::kF32>(x, count, y);
  if (dtype == DType::kF16) return store_of<DType::kF16>(x, count, y);
  store_of<DType::kBF16>(x, count, y);
}

void probe_round(const float* x, float* y) { store_f32(y, round_to_bf16(load_f32(x))); }

void probe_less(const float* x, const float* y, float* one_or_zero, bool* any_less) {
  const Mask mask = less(load_f32(x), load_f32(y));
  store_f32(one_or_zero, select(mask, broadcast(1.0f), broadcast(0.0f)));
  *any_less = any(mask);
}

void probe_max(const float* x, const float* y, float* z) {
  store_f32(z, max(load_f32(x), load_f32(y)));
}

float probe_sum(const float* x) { return sum_of_lanes(load_f32(x)); }

#ifdef FLEXPREFILL_BF16_PRODUCT
constexpr bool kHasPairs = true;

void probe_pairs(const float* first, const float* second, uint32_t* units) {
  store_pairs(units, load_f32(first), load_f32(second));
}
#else
constexpr bool kHasPairs = false;
constexpr void (*probe_pairs)(const float*, const float*, uint32_t*) = nullptr;
#endif

template <typename Product>
void multiply_as(const void* left, const void* right, int rows, int steps, float* sums) {
  using Unit = typename Product::Unit;
  multiply<Product, 1, Sums::kAdd>({static_cast<const Unit*>(left), steps, 1},
                                   static_cast<const Unit*>(right), rows, steps, nullptr, sums);
}

void probe_multiply(bool bf16, const void* left, const void* right, int rows, int steps,
                    float* sums) {
#ifdef FLEXPREFILL_BF16_PRODUCT
  if (bf16) return multiply_as<Bf16Product>(left, right, rows, steps, sums);
#endif
  static_cast<void>(bf16);
  multiply_as<F32Product>(left, right, rows, steps, sums);
}

}  // namespace

test::SimdProbe simd_probe() {
  return {kLanes,     kHasPairs, probe_exp2, probe_load,  probe_store,   probe_round,
          probe_less, probe_max, probe_sum,  probe_pairs, probe_multiply};
}

}  // namespace flexprefill::internal::FLEXPREFILL_ISA
