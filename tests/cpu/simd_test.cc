// The primitives of simd.h on every instruction set that this machine has.

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "numeric.h"
#include "tests/cpu/simd_probe.h"
#include "tests/cpu/tested_isas.h"

namespace flexprefill::internal {

namespace portable {
test::SimdProbe simd_probe();
}
#if defined(__x86_64__)
namespace avx2 {
test::SimdProbe simd_probe();
}
namespace avx512 {
test::SimdProbe simd_probe();
}
namespace avx512bf16 {
test::SimdProbe simd_probe();
}
#endif

}  // namespace flexprefill::internal

namespace flexprefill::test {
namespace {

using internal::Isa;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

SimdProbe probe_of(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kPortable: break;
    case Isa::kAvx2: return internal::avx2::simd_probe();
    case Isa::kAvx512: return internal::avx512::simd_probe();
    case Isa::kAvx512Bf16: return internal::avx512bf16::simd_probe();
  }
#endif
  return internal::portable::simd_probe();
}

template <typename Body>
void for_each_probe(Body body) {
  for (const Isa isa : tested_isas()) {
    SCOPED_TRACE(std::string(internal::isa_name(isa)));
    body(probe_of(isa));
  }
}

std::vector<float> exp2_of(const SimdProbe& probe, std::vector<float> x, bool bf16) {
  const auto lanes = static_cast<size_t>(probe.lanes);
  x.resize((x.size() + lanes - 1) / lanes * lanes);
  std::vector<float> y(x.size());
  probe.exp2(bf16, x.data(), static_cast<int64_t>(x.size()), y.data());
  return y;
}

TEST(CpuSimd, Exp2StaysWithinItsRelativeError) {
  std::vector<float> x;
  for (float value = 0.0f; value >= -126.0f; value -= 1.0f / 1024) x.push_back(value);
  std::mt19937 random(3);
  std::uniform_real_distribution<float> uniform(-126.0f, 0.0f);
  for (int n = 0; n < 100'000; ++n) x.push_back(uniform(random));
  for (int n = 0; n < 100'000; ++n) x.push_back(uniform(random) / 126);
  for_each_probe([&](const SimdProbe& probe) {
    for (const bool bf16 : {false, probe.has_pairs}) {
      const double bound = bf16 ? 1.3e-6 : 1.8e-7;
      const std::vector<float> y = exp2_of(probe, x, bf16);
      double worst = 0.0;
      for (size_t n = 0; n < x.size(); ++n) {
        const double exact = std::exp2(static_cast<double>(x[n]));
        worst = std::max(worst, std::abs(static_cast<double>(y[n]) - exact) / exact);
      }
      EXPECT_LE(worst, bound) << "bf16 " << bf16;
      EXPECT_GT(worst, bound / 100) << "a bound that says nothing";
    }
  });
}

TEST(CpuSimd, Exp2OfTheEnds) {
  for_each_probe([&](const SimdProbe& probe) {
    for (const bool bf16 : {false, probe.has_pairs}) {
      const std::vector<float> y = exp2_of(
          probe, {0.0f, -0.0f, -1.0f, -126.0f, -151.0f, -500.0f, -3e38f, -kInf, kNan, -126.7f},
          bf16);
      EXPECT_EQ(y[0], 1.0f);
      EXPECT_EQ(y[1], 1.0f);
      EXPECT_EQ(y[2], 0.5f);
      EXPECT_EQ(y[3], 0x1p-126f);
      for (size_t n = 4; n < 8; ++n) {
        EXPECT_EQ(y[n], 0.0f) << n;
        EXPECT_FALSE(std::signbit(y[n])) << n;
      }
      EXPECT_TRUE(std::isnan(y[8]));
      EXPECT_GE(y[9], 0.0f);
      EXPECT_LE(y[9], 0x1p-126f);
    }
  });
}

TEST(CpuSimd, Exp2OfAnyNanIsNan) {
  std::vector<float> x;
  for (const uint32_t bits : {0x7fc00000u, 0x7fc00001u, 0x7fc0007fu, 0x7fffffffu, 0xffc00001u,
                              0xffc00100u, 0xfffffe80u, 0xffffffffu, 0x7f800001u}) {
    x.push_back(std::bit_cast<float>(bits));
  }
  for_each_probe([&](const SimdProbe& probe) {
    for (const bool bf16 : {false, probe.has_pairs}) {
      const std::vector<float> y = exp2_of(probe, x, bf16);
      for (size_t n = 0; n < x.size(); ++n) {
        EXPECT_TRUE(std::isnan(y[n])) << n << " bf16 " << bf16 << ": " << y[n];
      }
    }
  });
}

TEST(CpuSimd, LoadsEvery16BitPattern) {
  for_each_probe([](const SimdProbe& probe) {
    const auto lanes = static_cast<size_t>(probe.lanes);
    std::vector<uint16_t> x(lanes);
    std::vector<float> y(lanes);
    for (const DType dtype : {DType::kF16, DType::kBF16}) {
      for (uint32_t pattern = 0; pattern < 65536; pattern += static_cast<uint32_t>(lanes)) {
        for (size_t n = 0; n < lanes; ++n) x[n] = static_cast<uint16_t>(pattern + n);
        probe.load(x.data(), dtype, probe.lanes, y.data());
        for (size_t n = 0; n < lanes; ++n) {
          const float expected = internal::load_element(x.data(), dtype, static_cast<int64_t>(n));
          if (std::isnan(expected)) {
            ASSERT_TRUE(std::isnan(y[n])) << x[n];
          } else {
            ASSERT_EQ(std::bit_cast<uint32_t>(y[n]), std::bit_cast<uint32_t>(expected)) << x[n];
          }
        }
      }
    }
  });
}

// Values around every rounding decision of the 16-bit types, and at random.
std::vector<float> values_to_round() {
  std::vector<float> values = {0.0f,
                               -0.0f,
                               kInf,
                               -kInf,
                               kNan,
                               -kNan,
                               65504.0f,
                               65519.0f,
                               65520.0f,
                               65536.0f,
                               3.4e38f,
                               -3.4e38f,
                               1e-45f,
                               6e-8f,
                               2.98e-8f,
                               2.99e-8f,
                               6.1e-5f,
                               -6.1e-5f,
                               std::bit_cast<float>(0x7f800001u),
                               std::bit_cast<float>(0x7fffffffu)};
  for (uint32_t half = 0; half < 0x7c00; half += 7) {
    const float low = internal::f16_to_float(static_cast<uint16_t>(half));
    const float high = internal::f16_to_float(static_cast<uint16_t>(half + 1));
    const float middle = (low + high) / 2;
    for (const float value :
         {low, middle, std::nextafter(middle, 0.0f), std::nextafter(middle, kInf)}) {
      values.push_back(value);
      values.push_back(-value);
    }
  }
  for (uint32_t bits = 0; bits < 0x7f800000u; bits += 0x12345u) {
    values.push_back(std::bit_cast<float>((bits & 0xffff0000u) | 0x8000u));
    values.push_back(std::bit_cast<float>(bits | 0x80000000u));
  }
  while (values.size() % 16 != 0) values.push_back(1.0f);
  return values;
}

TEST(CpuSimd, StoresRoundToNearestEven) {
  const std::vector<float> values = values_to_round();
  for_each_probe([&](const SimdProbe& probe) {
    const auto lanes = static_cast<size_t>(probe.lanes);
    std::vector<uint16_t> y(lanes);
    std::vector<float> rounded(lanes);
    for (size_t n = 0; n < values.size(); n += lanes) {
      for (const DType dtype : {DType::kF16, DType::kBF16}) {
        probe.store(values.data() + n, dtype, probe.lanes, y.data());
        for (size_t lane = 0; lane < lanes; ++lane) {
          const float x = values[n + lane];
          const uint16_t expected =
              dtype == DType::kF16 ? internal::float_to_f16(x) : internal::float_to_bf16(x);
          if (std::isnan(x)) {
            ASSERT_TRUE(std::isnan(internal::load_element(&y[lane], dtype, 0)));
          } else {
            ASSERT_EQ(y[lane], expected) << std::hexfloat << x;
          }
        }
      }
      probe.round_to_bf16(values.data() + n, rounded.data());
      for (size_t lane = 0; lane < lanes; ++lane) {
        const float x = values[n + lane];
        if (std::isnan(x)) {
          ASSERT_TRUE(std::isnan(rounded[lane]));
        } else {
          ASSERT_EQ(rounded[lane], internal::round_to_bf16(x)) << std::hexfloat << x;
        }
      }
    }
  });
}

TEST(CpuSimd, PartialLoadsAndStoresStayInside) {
  for_each_probe([](const SimdProbe& probe) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      const auto width = static_cast<size_t>(dtype_bytes(dtype));
      for (int count = 1; count < probe.lanes; ++count) {
        const auto used = static_cast<size_t>(count);
        // Exactly as long as what may be read: the address sanitizer watches the end.
        std::vector<uint8_t> x(used * width);
        std::vector<float> expected(static_cast<size_t>(probe.lanes)), y(expected.size(), -1.0f);
        for (size_t n = 0; n < used; ++n) {
          expected[n] = static_cast<float>(n) + 0.5f;
          internal::store_element(x.data(), dtype, static_cast<int64_t>(n), expected[n]);
        }
        probe.load(x.data(), dtype, count, y.data());
        EXPECT_EQ(y, expected);
        std::vector<uint8_t> z((used + 1) * width, 0xa5);
        probe.store(expected.data(), dtype, count, z.data());
        EXPECT_TRUE(std::equal(x.begin(), x.end(), z.begin()));
        for (size_t byte = used * width; byte < z.size(); ++byte) EXPECT_EQ(z[byte], 0xa5);
      }
    }
  });
}

TEST(CpuSimd, ComparisonsAndSums) {
  for_each_probe([](const SimdProbe& probe) {
    const auto lanes = static_cast<size_t>(probe.lanes);
    std::vector<float> x(lanes), y(lanes, 3.0f), z(lanes);
    for (size_t n = 0; n < lanes; ++n) x[n] = static_cast<float>(n);
    bool any = false;
    probe.less(x.data(), y.data(), z.data(), &any);
    EXPECT_TRUE(any);
    for (size_t n = 0; n < lanes; ++n) EXPECT_EQ(z[n], n < 3 ? 1.0f : 0.0f);
    probe.less(y.data(), y.data(), z.data(), &any);
    EXPECT_FALSE(any);
    probe.max(x.data(), y.data(), z.data());
    for (size_t n = 0; n < lanes; ++n) EXPECT_EQ(z[n], std::max(x[n], 3.0f));
    EXPECT_EQ(probe.sum_of_lanes(x.data()), static_cast<float>(lanes * (lanes - 1) / 2));
    x[1] = kNan;
    y.assign(lanes, kNan);
    probe.max(y.data(), x.data(), z.data());
    EXPECT_EQ(z[0], 0.0f) << "the second operand where either is NaN";
    EXPECT_TRUE(std::isnan(z[1]));
  });
}

TEST(CpuSimd, PairsHoldTheEarlierNeighbourBelow) {
  for_each_probe([](const SimdProbe& probe) {
    if (!probe.has_pairs) return;
    std::vector<float> first(16), second(16);
    for (size_t n = 0; n < 16; ++n) {
      first[n] = 1.0f + static_cast<float>(n) * 0.3f;
      second[n] = -2.0f - static_cast<float>(n) * 0.7f;
    }
    uint32_t units[16];
    probe.store_pairs(first.data(), second.data(), units);
    for (size_t n = 0; n < 16; ++n) {
      EXPECT_EQ(units[n] & 0xffff, internal::float_to_bf16(first[n])) << n;
      EXPECT_EQ(units[n] >> 16, internal::float_to_bf16(second[n])) << n;
    }
  });
}

// Every split of the rows into register tiles; small whole numbers, so that every sum is exact.
TEST(CpuSimd, ProductsOfEveryHeight) {
  for_each_probe([](const SimdProbe& probe) {
    std::mt19937 random(5);
    const auto lanes = static_cast<size_t>(probe.lanes);
    for (const bool bf16 : {false, true}) {
      if (bf16 && !probe.has_pairs) continue;
      const size_t depth = bf16 ? 2 : 1;
      for (size_t rows = 2; rows <= 34; rows += 2) {
        for (const size_t steps : {size_t{1}, size_t{5}, size_t{16}}) {
          std::vector<float> left(rows * steps * depth), right(steps * depth * lanes);
          for (float& value : left) value = static_cast<float>(static_cast<int>(random() % 17) - 8);
          for (float& value : right)
            value = static_cast<float>(static_cast<int>(random() % 17) - 8);
          std::vector<uint32_t> left_units(rows * steps), right_units(steps * lanes);
          for (size_t n = 0; n < left_units.size(); ++n) {
            left_units[n] =
                bf16 ? internal::float_to_bf16(left[2 * n]) |
                           static_cast<uint32_t>(internal::float_to_bf16(left[2 * n + 1])) << 16
                     : std::bit_cast<uint32_t>(left[n]);
          }
          for (size_t step = 0; step < steps; ++step) {  // right is [steps * depth, lanes]
            for (size_t lane = 0; lane < lanes; ++lane) {
              const float low = right[step * depth * lanes + lane];
              const float high = right[(step * depth + depth - 1) * lanes + lane];
              right_units[step * lanes + lane] =
                  bf16 ? internal::float_to_bf16(low) |
                             static_cast<uint32_t>(internal::float_to_bf16(high)) << 16
                       : std::bit_cast<uint32_t>(low);
            }
          }
          std::vector<float> sums(rows * lanes, 1.0f);
          probe.multiply(bf16, left_units.data(), right_units.data(), static_cast<int>(rows),
                         static_cast<int>(steps), sums.data());
          for (size_t r = 0; r < rows; ++r) {
            for (size_t lane = 0; lane < lanes; ++lane) {
              float expected = 1.0f;
              for (size_t d = 0; d < steps * depth; ++d) {
                expected += left[r * steps * depth + d] * right[d * lanes + lane];
              }
              ASSERT_EQ(sums[r * lanes + lane], expected) << rows << " rows, " << steps << " steps";
            }
          }
        }
      }
    }
  });
}

}  // namespace
}  // namespace flexprefill::test
