// Row operations and products against formulas in double.

#include "runtime/ops.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <random>

#include "runtime/convert.h"
#include "runtime/matmul.h"

namespace flexprefill::runtime {
namespace {

std::vector<float> random_values(size_t count, float spread, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> values(count);
  for (float& value : values) {
    value = spread * (static_cast<float>(random()) / 2147483648.0f - 1.0f);
  }
  return values;
}

TEST(Ops, RmsNormMatchesTheFormula) {
  for (const int64_t columns : {1, 7, 16, 33, 384}) {
    const auto in = random_values(static_cast<size_t>(3 * columns), 5.0f, 1);
    const auto weight = random_values(static_cast<size_t>(columns), 2.0f, 2);
    std::vector<float> out(in.size());
    rms_norm(in.data(), 3, weight, 1e-5f, DType::kF32, out.data());
    for (int64_t r = 0; r < 3; ++r) {
      double squares = 0.0;
      for (int64_t c = 0; c < columns; ++c) {
        const double x = in[static_cast<size_t>(r * columns + c)];
        squares += x * x;
      }
      const double scale = 1.0 / std::sqrt(squares / static_cast<double>(columns) + 1e-5);
      for (int64_t c = 0; c < columns; ++c) {
        const auto n = static_cast<size_t>(r * columns + c);
        EXPECT_NEAR(out[n], in[n] * scale * weight[static_cast<size_t>(c)], 1e-5) << columns;
      }
    }
  }
}

TEST(Ops, SiluMulMatchesTheFormulaFromTinyToHuge) {
  std::vector<float> row = {0.0f,   1e-8f,   -1e-8f, 1.0f,  -1.0f, 20.0f, -20.0f,
                            100.0f, -100.0f, 5e4f,   -5e4f, 0.37f, -3.3f, 87.5f};
  const auto inner = static_cast<int64_t>(row.size());
  const std::vector<float> gate = row;
  row.resize(row.size() * 2, 1.5f);
  std::vector<float> out(gate.size());
  silu_mul(row.data(), 1, inner, DType::kF32, out.data());
  for (size_t c = 0; c < gate.size(); ++c) {
    const double x = gate[c];
    const double expected = x / (1.0 + std::exp(-x)) * 1.5;
    EXPECT_NEAR(out[c], expected, 1e-6 * std::abs(expected) + 1e-30) << "silu(" << x << ")";
  }
}

TEST(Ops, Bf16OutputsAreTheRoundedF32Outputs) {
  const auto in = random_values(2 * 70, 3.0f, 8);
  const auto weight = random_values(70, 2.0f, 9);
  std::vector<float> expected(2 * 70);
  std::vector<uint16_t> bits(2 * 70);
  const auto compare = [&](size_t count) {
    for (size_t n = 0; n < count; ++n) {
      const float value = internal::bf16_to_float(bits[n]);
      EXPECT_NEAR(value, expected[n], std::abs(expected[n]) * 0x1p-8f) << n;
    }
  };
  rms_norm(in.data(), 2, weight, 1e-5f, DType::kF32, expected.data());
  rms_norm(in.data(), 2, weight, 1e-5f, DType::kBF16, bits.data());
  compare(2 * 70);
  silu_mul(in.data(), 2, 35, DType::kF32, expected.data());
  silu_mul(in.data(), 2, 35, DType::kBF16, bits.data());
  compare(2 * 35);
}

TEST(Ops, CrossEntropyIsTheNegativeLogProbability) {
  const std::vector<float> logits = {1000.0f, 1001.0f, 999.0f, -1.0f, -1.0f, -1.0f};
  const std::vector<int32_t> targets = {1, 2};
  std::vector<float> losses(2);
  cross_entropy(logits.data(), 2, 3, targets.data(), losses.data());
  EXPECT_NEAR(losses[0], std::log(1.0 + std::exp(-1.0) + std::exp(-2.0)), 1e-5);
  EXPECT_NEAR(losses[1], std::log(3.0), 1e-6);
}

TEST(Rope, SpeedsFollowTheta) {
  const std::vector<double> speeds = rope_speeds({.theta = 100.0}, 4);
  ASSERT_EQ(speeds.size(), 2u);
  EXPECT_DOUBLE_EQ(speeds[0], 1.0);
  EXPECT_DOUBLE_EQ(speeds[1], 0.1);
}

TEST(Rope, Llama3SlowsOnlyTheLowFrequencies) {
  RopeConfig rope = {.theta = 500000.0};
  const std::vector<double> plain = rope_speeds(rope, 128);
  rope.llama3 = true;
  rope.factor = 8.0;
  rope.original_max_positions = 8192;
  const std::vector<double> scaled = rope_speeds(rope, 128);
  EXPECT_EQ(scaled.front(), plain.front());
  EXPECT_DOUBLE_EQ(scaled.back(), plain.back() / 8.0);
  int between = 0;
  for (size_t c = 0; c < plain.size(); ++c) {
    EXPECT_LE(scaled[c], plain[c]);
    EXPECT_GE(scaled[c], plain[c] / 8.0);
    between += scaled[c] < plain[c] && scaled[c] > plain[c] / 8.0 * 1.001;
  }
  EXPECT_GT(between, 0);
}

TEST(Rope, TableHoldsTheAnglesWhateverTheFirstPosition) {
  RopeTable whole({}, 8);
  RopeTable part({}, 8);
  whole.fill(0, 131072);
  part.fill(100001, 200);
  const std::vector<double> speeds = rope_speeds({}, 8);
  for (int64_t t = 0; t < 200; ++t) {
    for (size_t c = 0; c < speeds.size(); ++c) {
      const double angle = static_cast<double>(100001 + t) * speeds[c];
      EXPECT_FLOAT_EQ(part.cos(t)[c], static_cast<float>(std::cos(angle))) << t;
      EXPECT_FLOAT_EQ(part.sin(t)[c], static_cast<float>(std::sin(angle))) << t;
      EXPECT_EQ(part.cos(t)[c], whole.cos(100001 + t)[c]) << t;
      EXPECT_EQ(part.sin(t)[c], whole.sin(100001 + t)[c]) << t;
    }
  }
}

TEST(Rope, RotationKeepsLengthAndDependsOnDistanceAlone) {
  RopeTable table({}, 8);
  const auto dot_at = [&](int64_t first, int64_t distance) {
    auto a = random_values(8, 1.0f, 3);
    auto b = random_values(8, 1.0f, 4);
    table.fill(first, distance + 1);
    rotate(a.data(), 8, table.cos(0), table.sin(0));
    rotate(b.data(), 8, table.cos(distance), table.sin(distance));
    float dot = 0.0f;
    for (size_t c = 0; c < 8; ++c) dot += a[c] * b[c];
    return dot;
  };
  EXPECT_NEAR(dot_at(0, 5), dot_at(100000, 5), 1e-5);
  EXPECT_GT(std::abs(dot_at(0, 5) - dot_at(0, 6)), 1e-3);
}

// Products of every size class the runtime uses: one row, a tail, a tile.
TEST(Matmul, MatchesDoubleWithBiasAndAccumulation) {
  // CTest runs some suites once more with this variable: they must then be in f32.
  if (std::getenv("DNNL_MAX_CPU_ISA") != nullptr) {
    ASSERT_EQ(matmul_dtype(), DType::kF32);
  }
  const int64_t n = 40;
  const int64_t k = 24;
  const bool is_bf16 = matmul_dtype() == DType::kBF16;
  const auto weight = random_values(static_cast<size_t>(n * k), 1.0f, 5);
  const auto bias = random_values(static_cast<size_t>(n), 1.0f, 6);
  for (const bool with_bias : {false, true}) {
    Buffer rows(static_cast<size_t>(n * k * dtype_bytes(matmul_dtype())), "test weights");
    convert_row(weight.data(), n * k, matmul_dtype(), rows.data());
    const Linear linear(n, k, std::move(rows), with_bias ? bias : std::vector<float>{});
    Matmul matmul;
    for (const int64_t m : {1, 17, 129}) {
      const auto in = random_values(static_cast<size_t>(m * k), 1.0f, 7);
      std::vector<std::byte> in_rows(static_cast<size_t>(m * k * dtype_bytes(matmul_dtype())));
      convert_row(in.data(), m * k, matmul_dtype(), in_rows.data());
      for (const bool accumulate : {false, true}) {
        std::vector<float> out(static_cast<size_t>(m * n), 10.0f);
        matmul.run(linear, in_rows.data(), m, out.data(), accumulate);
        for (int64_t r = 0; r < m; ++r) {
          for (int64_t c = 0; c < n; ++c) {
            double expected = accumulate ? 10.0 : 0.0;
            if (with_bias) expected += bias[static_cast<size_t>(c)];
            for (int64_t x = 0; x < k; ++x) {
              expected += static_cast<double>(in[static_cast<size_t>(r * k + x)]) *
                          weight[static_cast<size_t>(c * k + x)];
            }
            ASSERT_NEAR(out[static_cast<size_t>(r * n + c)], expected, is_bf16 ? 0.1 : 1e-5)
                << m << " rows, bias " << with_bias << ", accumulate " << accumulate;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace flexprefill::runtime
