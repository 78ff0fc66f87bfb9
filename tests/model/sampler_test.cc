#include "runtime/sampler.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <map>

#include "tests/model/model_files.h"

namespace flexprefill::runtime {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

std::map<int32_t, int> draw(const SamplerOptions& options, const std::vector<float>& logits,
                            int count) {
  Sampler sampler(options);
  std::map<int32_t, int> drawn;
  for (int n = 0; n < count; ++n) ++drawn[sampler.sample(logits)];
  return drawn;
}

TEST(Sampler, GreedyTakesTheLowestIdOfEqualLogits) {
  EXPECT_EQ(argmax(std::vector<float>{-3.0f, 2.0f, 2.0f, 1.0f}), 1);
  EXPECT_EQ(Sampler({}).sample(std::vector<float>{-3.0f, -2.0f, -2.0f}), 1);
}

TEST(Sampler, NaNIsNeverChosen) {
  EXPECT_EQ(argmax(std::vector<float>{kNaN, -kInf, -5.0f, kNaN}), 2);
  const auto drawn = draw({.temperature = 1.0f}, {kNaN, 0.0f, kNaN, 0.0f}, 100);
  EXPECT_EQ(drawn.count(0) + drawn.count(2), 0u);
}

TEST(Sampler, DrawsFollowTheProbabilities) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  auto drawn = draw({.temperature = 1.0f, .seed = 1}, logits, 20000);
  EXPECT_NEAR(drawn[0] / 20000.0, 0.5, 0.02);
  EXPECT_NEAR(drawn[1] / 20000.0, 0.3, 0.02);
  EXPECT_NEAR(drawn[2] / 20000.0, 0.2, 0.02);
}

TEST(Sampler, TemperatureSharpensAndFlattens) {
  const std::vector<float> logits = {1.0f, 0.0f};
  EXPECT_GT(draw({.temperature = 0.2f}, logits, 2000)[0], 1950);
  EXPECT_NEAR(draw({.temperature = 50.0f}, logits, 2000)[0], 1010, 120);
}

TEST(Sampler, TopPDropsTheTail) {
  const std::vector<float> logits = {std::log(0.2f), std::log(0.5f), std::log(0.3f)};
  auto drawn = draw({.temperature = 1.0f, .top_p = 0.7f}, logits, 1000);
  EXPECT_EQ(drawn.count(0), 0u);  // 0.5 + 0.3 reach 0.7 without it
  EXPECT_GT(drawn[2], 0);
  EXPECT_EQ(draw({.temperature = 1.0f, .top_p = 0.4f}, logits, 100)[1], 100);
}

TEST(Sampler, TheSeedDecidesTheTokens) {
  const std::vector<float> logits(50, 0.0f);
  const auto sequence = [&](uint64_t seed) {
    Sampler sampler({.temperature = 1.0f, .seed = seed});
    std::vector<int32_t> ids;
    for (int n = 0; n < 20; ++n) ids.push_back(sampler.sample(logits));
    return ids;
  };
  EXPECT_EQ(sequence(3), sequence(3));
  EXPECT_NE(sequence(3), sequence(4));
}

TEST(Sampler, OptionsOutsideTheirRangeAreRefused) {
  EXPECT_THAT(error_of([] { Sampler({.temperature = -1.0f}); }), testing::HasSubstr("temperature"));
  EXPECT_THAT(error_of([] { Sampler({.temperature = kNaN}); }), testing::HasSubstr("temperature"));
  EXPECT_THAT(error_of([] { Sampler({.top_p = 0.0f}); }), testing::HasSubstr("top_p"));
  EXPECT_THAT(error_of([] { Sampler({.top_p = 1.5f}); }), testing::HasSubstr("top_p = 1.5"));
}

}  // namespace
}  // namespace flexprefill::runtime
