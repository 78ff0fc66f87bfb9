// Conversions to 16-bit types against a definition that is too slow to use: the nearest of all
// values.

#include "numeric.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace flexprefill::internal {
namespace {

using Decode = float (*)(uint16_t);
using Encode = uint16_t (*)(float);

// Every 16-bit pattern that is a number comes back as itself.
void expect_round_trip(Decode decode, Encode encode, uint16_t inf) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = decode(static_cast<uint16_t>(bits));
    if ((bits & 0x7fff) > inf) {
      EXPECT_TRUE(std::isnan(value)) << bits;
      EXPECT_TRUE(std::isnan(decode(encode(value)))) << bits;
    } else {
      EXPECT_EQ(encode(value), bits);
    }
  }
}

// Between neighbours a < b: below the middle goes to a, above to b, the middle to the even one.
void expect_nearest_even(Decode decode, Encode encode, uint16_t inf) {
  for (uint16_t a = 0; a + 1 < inf; ++a) {
    const uint16_t b = static_cast<uint16_t>(a + 1);
    const float middle = static_cast<float>((double{decode(a)} + double{decode(b)}) / 2);
    if (middle == decode(a) || middle == decode(b)) continue;  // below the smallest float
    const uint16_t even = a % 2 == 0 ? a : b;
    EXPECT_EQ(encode(middle), even) << a;
    EXPECT_EQ(encode(-middle), even | 0x8000) << a;
    EXPECT_EQ(encode(std::nextafter(middle, 0.0f)), a);
    EXPECT_EQ(encode(std::nextafter(middle, std::numeric_limits<float>::infinity())), b);
  }
}

TEST(Bf16, RoundTrips) { expect_round_trip(bf16_to_float, float_to_bf16, 0x7f80); }
TEST(F16, RoundTrips) { expect_round_trip(f16_to_float, float_to_f16, 0x7c00); }
TEST(Bf16, RoundsToNearestEven) { expect_nearest_even(bf16_to_float, float_to_bf16, 0x7f80); }
TEST(F16, RoundsToNearestEven) { expect_nearest_even(f16_to_float, float_to_f16, 0x7c00); }

TEST(F16, DecodesKnownValues) {
  EXPECT_EQ(f16_to_float(0x3c00), 1.0f);
  EXPECT_EQ(f16_to_float(0xc000), -2.0f);
  EXPECT_EQ(f16_to_float(0x7bff), 65504.0f);
  EXPECT_EQ(f16_to_float(0x0001), 0x1p-24f);
  EXPECT_EQ(f16_to_float(0x03ff), 0x3ffp-24f);
  EXPECT_EQ(f16_to_float(0xfc00), -std::numeric_limits<float>::infinity());
}

TEST(F16, OverflowsToInfinityAndUnderflowsToZero) {
  EXPECT_EQ(float_to_f16(65519.9f), 0x7bff);
  EXPECT_EQ(float_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(float_to_f16(-1e30f), 0xfc00);
  EXPECT_EQ(float_to_f16(0x1p-25f), 0x0000);  // the tie goes to even
  EXPECT_EQ(float_to_f16(std::nextafter(0x1p-25f, 1.0f)), 0x0001);
  EXPECT_EQ(float_to_f16(-1e-30f), 0x8000);
}

TEST(Bf16, OverflowsToInfinityAndKeepsNan) {
  EXPECT_EQ(float_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_EQ(float_to_bf16(-std::numeric_limits<float>::max()), 0xff80);
  const float nan_of_low_bits = std::bit_cast<float>(0x7f800001u);
  EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(nan_of_low_bits))));
}

}  // namespace
}  // namespace flexprefill::internal
