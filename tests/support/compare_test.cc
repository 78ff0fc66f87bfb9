#include "tests/support/compare.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

namespace flexprefill::test {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr Tolerance kTolerance = {.absolute = 1e-3, .relative = 1e-2};

bool close(float actual, float expected) {
  const std::vector<float> a = {0.5f, actual, -0.5f}, e = {0.5f, expected, -0.5f};
  return all_close(a, e, kTolerance);
}

TEST(Compare, AcceptsValuesWithinTolerance) {
  EXPECT_TRUE(close(1.0f, 1.0f));
  EXPECT_TRUE(close(1.0109f, 1.0f));
  EXPECT_TRUE(close(-1.0109f, -1.0f));
  EXPECT_TRUE(close(0.0009f, 0.0f));
  EXPECT_TRUE(close(-0.0009f, 0.0f));
  EXPECT_TRUE(close(0.0f, -0.0f));
}

TEST(Compare, CatchesValuesOutsideTolerance) {
  EXPECT_FALSE(close(1.02f, 1.0f));
  EXPECT_FALSE(close(0.98f, 1.0f));
  EXPECT_FALSE(close(0.0011f, 0.0f));
}

TEST(Compare, CatchesWrongNegativeValues) {
  EXPECT_FALSE(close(-1.0f, -3.0f));
  EXPECT_FALSE(close(-3.0f, -1.0f));
  EXPECT_FALSE(close(-1.0f, 1.0f));
  EXPECT_FALSE(close(1.0f, -1.0f));
  EXPECT_FALSE(close(-0.0011f, 0.0f));
}

TEST(Compare, NanMustBeWhereItIsExpected) {
  EXPECT_TRUE(close(kNan, kNan));
  EXPECT_TRUE(close(-kNan, kNan));
  EXPECT_FALSE(close(kNan, 1.0f));
  EXPECT_FALSE(close(1.0f, kNan));
  EXPECT_FALSE(close(kInf, kNan));
  EXPECT_FALSE(close(kNan, kInf));
  EXPECT_FALSE(close(kNan, 0.0f));
}

TEST(Compare, InfinitiesNeedTheirSign) {
  EXPECT_TRUE(close(kInf, kInf));
  EXPECT_TRUE(close(-kInf, -kInf));
  EXPECT_FALSE(close(-kInf, kInf));
  EXPECT_FALSE(close(kInf, -kInf));
  EXPECT_FALSE(close(std::numeric_limits<float>::max(), kInf));
  EXPECT_FALSE(close(kInf, std::numeric_limits<float>::max()));
  EXPECT_FALSE(close(kInf, 1.0f));
}

TEST(Compare, CatchesOneWrongElementAnywhere) {
  for (size_t n = 0; n < 9; ++n) {
    std::vector<float> actual(9, -0.25f);
    const std::vector<float> expected = actual;
    actual[n] = -0.75f;
    EXPECT_FALSE(all_close(actual, expected, kTolerance)) << n;
  }
}

TEST(Compare, CatchesDifferentSizes) {
  const std::vector<float> two = {1, 2}, three = {1, 2, 3};
  EXPECT_FALSE(all_close(two, three, kTolerance));
  EXPECT_FALSE(all_close(three, two, kTolerance));
  EXPECT_FALSE(all_close({}, two, kTolerance));
}

TEST(Compare, ZeroToleranceMeansEqual) {
  const std::vector<float> a = {1.0f, -2.0f}, b = {1.0f, -2.0000002f};
  EXPECT_TRUE(all_close(a, a, {}));
  EXPECT_FALSE(all_close(b, a, {}));
}

TEST(Compare, MessageNamesTheWorstElement) {
  const std::vector<float> actual = {1, -1, 3}, expected = {1, -3, 3.5};
  const std::string message = all_close(actual, expected, kTolerance).message();
  EXPECT_NE(message.find("2 of 3"), std::string::npos) << message;
  EXPECT_NE(message.find("worst at 1: actual -1, expected -3"), std::string::npos) << message;
}

TEST(Tolerance, CoarserTypesAndLongerSumsGetMore) {
  for (const int64_t kv_len : {1, 128, 100000}) {
    EXPECT_LT(tolerance(DType::kF32, kv_len).absolute, tolerance(DType::kF16, kv_len).absolute);
    EXPECT_LT(tolerance(DType::kF16, kv_len).absolute, tolerance(DType::kBF16, kv_len).absolute);
  }
  EXPECT_LT(tolerance(DType::kF32, 128).absolute, tolerance(DType::kF32, 4096).absolute);
  EXPECT_LT(tolerance(DType::kF32, 128).absolute, tolerance(DType::kF32, 128, 1e4).absolute);
  EXPECT_LT(tolerance(DType::kF32, 100000).absolute, 1e-4);  // stays far below a lost block
  EXPECT_LT(tolerance(DType::kBF16, 100000).absolute, 1e-2);
}

}  // namespace
}  // namespace flexprefill::test
