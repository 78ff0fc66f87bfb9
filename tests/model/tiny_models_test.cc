// Every supported architecture against Hugging Face transformers, on tiny random models that
// tests/data/model/make_tiny_models.py wrote.

#include <gmock/gmock.h>

#include <cmath>
#include <numeric>

#include "runtime/matmul.h"
#include "runtime/prompt_masks.h"
#include "runtime/sampler.h"
#include "runtime/session.h"
#include "tests/model/model_files.h"
#include "tests/support/host_backends.h"

namespace flexprefill::runtime {
namespace {

using testing::HasSubstr;

// Relative to the largest logit. f32 differs by summation order alone; bf16 rounds every product's
// input to 8 bits.
double tolerance() { return matmul_dtype() == DType::kF32 ? 2e-5 : 3e-2; }

double largest_difference(std::span<const float> a, std::span<const float> b) {
  double largest = 0.0;
  for (size_t n = 0; n < a.size(); ++n) {
    const double difference = std::abs(static_cast<double>(a[n]) - b[n]);
    if (!(difference <= largest)) largest = difference;  // NaN counts as the largest
  }
  return largest;
}

class TinyModel : public testing::TestWithParam<const char*> {
 protected:
  TinyModel()
      : model_(Model::load(kData / GetParam())),
        expected_(read_data(std::string(GetParam()) + "/expected.json")),
        ids_(expected_["ids"].get<std::vector<int32_t>>()),
        logits_(expected_["last_logits"].get<std::vector<float>>()) {
    for (const float logit : logits_) scale_ = std::max(scale_, std::abs(double{logit}));
  }

  Model model_;
  nlohmann::json expected_;
  std::vector<int32_t> ids_;
  std::vector<float> logits_;
  double scale_ = 0.0;
};

TEST_P(TinyModel, MatchesTransformersOnEveryBackend) {
  for (const Backend* backend : test::host_backends()) {
    Session session(model_, {.backend = backend});
    PrefillOptions options;
    options.losses = true;
    const PrefillResult result = session.prefill(ids_, options);
    EXPECT_EQ(result.backend, backend->name());
    EXPECT_LE(largest_difference(session.logits(), logits_), tolerance() * scale_);
    const double loss = std::accumulate(result.losses.begin(), result.losses.end(), 0.0) /
                        static_cast<double>(result.losses.size());
    EXPECT_NEAR(loss, expected_["mean_loss"].get<double>(), tolerance() * scale_);
    if (matmul_dtype() != DType::kF32) continue;  // rounding may flip a random model's argmax
    std::vector<int32_t> greedy = {argmax(session.logits())};
    while (greedy.size() < expected_["greedy"].size()) {
      greedy.push_back(argmax(session.decode(greedy.back())));
    }
    EXPECT_EQ(greedy, expected_["greedy"].get<std::vector<int32_t>>());
  }
}

TEST_P(TinyModel, ChunksAndDecodeGiveTheLogitsOfOneShot) {
  for (const int64_t chunk : {1, 17, 128, 149}) {
    Session session(model_, {});
    PrefillOptions options;
    options.chunk = chunk;
    session.prefill(ids_, options);
    EXPECT_LE(largest_difference(session.logits(), logits_), tolerance() * scale_) << chunk;
  }
  Session session(model_, {});
  const std::span<const int32_t> ids = ids_;
  session.prefill(ids.first(100), {});
  for (const int32_t id : ids.subspan(100)) session.decode(id);
  EXPECT_LE(largest_difference(session.logits(), logits_), tolerance() * scale_);
}

TEST_P(TinyModel, SixteenBitCachesStayClose) {
  const std::pair<DType, double> cases[] = {{DType::kF16, 1e-2}, {DType::kBF16, 6e-2}};
  for (const auto& [dtype, limit] : cases) {
    Session session(model_, {.cache_dtype = dtype});
    session.prefill(ids_, {});
    const double difference = largest_difference(session.logits(), logits_);
    EXPECT_LE(difference, (limit + tolerance()) * scale_);
    EXPECT_GT(difference, 0.0);
  }
}

INSTANTIATE_TEST_SUITE_P(All, TinyModel,
                         testing::Values("llama-llama3-tied", "llama-llama3-bias", "mistral",
                                         "qwen2", "qwen3"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::erase(name, '-');
                           return name;
                         });

class SmallSession : public testing::Test {
 protected:
  Model model_ = Model::load(kData / "mistral");
};

TEST_F(SmallSession, ClearStartsANewSequence) {
  Session session(model_, {});
  const std::vector<int32_t> ids = {0, 5, 9};
  session.prefill(ids, {});
  const std::vector<float> first(session.logits().begin(), session.logits().end());
  session.decode(7);
  EXPECT_EQ(session.tokens(), 4);
  session.clear();
  session.prefill(ids, {});
  EXPECT_EQ(first, std::vector<float>(session.logits().begin(), session.logits().end()));
}

TEST_F(SmallSession, ThreadsDoNotChangeTheTokensThatFit) {
  const std::vector<int32_t> ids(40, 3);
  Session one(model_, {.threads = 1});
  Session two(model_, {.threads = 2});
  one.prefill(ids, {});
  two.prefill(ids, {});
  EXPECT_LE(largest_difference(one.logits(), two.logits()), 1e-4);
}

TEST_F(SmallSession, RefusesWhatDoesNotFitAndStaysUsable) {
  Session session(model_, {.capacity = 10});
  const std::vector<int32_t> ids(8, 3);
  session.prefill(ids, {});
  EXPECT_THAT(error_of([&] { session.prefill(ids, {}); }), HasSubstr("capacity = 10"));
  EXPECT_THAT(error_of([&] { session.decode(160); }), HasSubstr("token id 160"));
  EXPECT_THAT(error_of([&] { session.decode(-1); }), HasSubstr("token id -1"));
  EXPECT_THAT(error_of([&] { session.prefill({}, {}); }), HasSubstr("0 tokens"));
  EXPECT_EQ(session.tokens(), 8);
  session.decode(4);
  EXPECT_EQ(session.tokens(), 9);
}

TEST_F(SmallSession, OptionsOutsideTheirRangeAreRefused) {
  const auto open = [&](const SessionOptions& options) {
    return error_of([&] { Session(model_, options); });
  };
  EXPECT_THAT(open({.capacity = 257}), HasSubstr("max_position_embeddings = 256"));
  EXPECT_THAT(open({.capacity = -1}), HasSubstr("capacity = -1"));
  EXPECT_THAT(open({.threads = -1}), HasSubstr("threads = -1"));
  EXPECT_THAT(open({.cache_dtype = DType::kI8}), HasSubstr("cache_dtype = i8"));
  Session session(model_, {});
  const std::vector<int32_t> ids(8, 3);
  EXPECT_THAT(error_of([&] { session.prefill(ids, {.chunk = -1}); }), HasSubstr("chunk = -1"));
  EXPECT_THAT(error_of([&] { session.prefill(ids, {.policy = FlexPrefill{.gamma = 2.0f}}); }),
              HasSubstr("gamma"));
}

TEST_F(SmallSession, OfficialRuleNeedsThePromptInOneChunk) {
  const std::vector<int32_t> ids(200, 3);
  Session session(model_, {});
  PrefillOptions options;
  options.policy = FlexPrefill{.rule = Rule::kOfficial};
  options.chunk = 128;
  EXPECT_THAT(error_of([&] { session.prefill(ids, options); }), HasSubstr("kOfficial"));
  options.chunk = 0;
  EXPECT_GE(session.prefill(ids, options).chunk, 200);
  EXPECT_THAT(error_of([&] { session.prefill(std::span(ids).first(9), options); }),
              HasSubstr("kOfficial"));
}

TEST_F(SmallSession, MasksOfChunksAreMergedIntoThePrompts) {
  const std::vector<int32_t> ids(200, 3);
  Session session(model_, {});
  PromptMasks masks(model_.config(), std::ssize(ids));
  PrefillOptions options;
  options.chunk = 70;  // chunks start inside blocks
  int64_t calls = 0;
  options.on_plan = [&](const ChunkPlan& plan) {
    ++calls;
    masks.add(plan);
  };
  const PrefillResult result = session.prefill(ids, options);
  EXPECT_EQ(calls, 3 * model_.config().layers);
  EXPECT_EQ(std::ssize(result.reports), calls);
  EXPECT_EQ(computed_share(masks.layer(0)), 1.0);
  ASSERT_EQ(masks.chunks(1).size(), 3u);
  EXPECT_EQ(masks.chunks(1)[1].q_start, 70);
  EXPECT_EQ(std::ssize(masks.chunks(1)[2].reports), model_.config().heads);
}

TEST_F(SmallSession, ProgressGrowsToOne) {
  const std::vector<int32_t> ids(50, 3);
  Session session(model_, {});
  PrefillOptions options;
  options.chunk = 20;
  std::vector<double> fractions;
  options.on_progress = [&](const Progress& progress) { fractions.push_back(progress.fraction()); };
  session.prefill(ids, options);
  EXPECT_EQ(std::ssize(fractions), 3 * model_.config().layers);
  EXPECT_TRUE(std::is_sorted(fractions.begin(), fractions.end()));
  EXPECT_DOUBLE_EQ(fractions.back(), 1.0);
}

}  // namespace
}  // namespace flexprefill::runtime
