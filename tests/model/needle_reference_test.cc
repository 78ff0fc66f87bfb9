// needle-14m against Hugging Face transformers in fp32: losses, logits and tokens.

#include <gtest/gtest.h>

#include <numeric>

#include "runtime/sampler.h"
#include "tests/model/needle.h"
#include "tests/support/host_backends.h"

namespace flexprefill::runtime {
namespace {

double mean(const std::vector<float>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

// Every step of the reference's answer, its tokens fed back: the likeliest token is the
// reference's, or one that a bf16 model cannot tell from it.
void expect_answer(Session& session, const ReferenceCase& c) {
  for (size_t n = 0; n < c.greedy.size(); ++n) {
    if (n > 0) session.decode(c.greedy[n - 1]);
    const std::span<const float> logits = session.logits();
    const auto lead =
        logits[static_cast<size_t>(argmax(logits))] - logits[static_cast<size_t>(c.greedy[n])];
    EXPECT_LE(lead, tie_margin()) << "step " << n;
  }
}

void expect_reference(const ReferenceCase& c, const Backend& backend, int64_t chunk) {
  SCOPED_TRACE(c.name + " on " + std::string(backend.name()) + ", chunk " + std::to_string(chunk));
  Session session(needle(),
                  {.capacity = std::ssize(c.ids) + std::ssize(c.greedy), .backend = &backend});
  PrefillOptions options;
  options.chunk = chunk;
  options.losses = true;
  const PrefillResult result = session.prefill(c.ids, options);
  EXPECT_EQ(result.backend, backend.name());
  EXPECT_EQ(result.computed_share, 1.0);
  ASSERT_EQ(result.losses.size(), c.ids.size() - 1);
  EXPECT_NEAR(mean(result.losses), c.mean_loss, loss_tolerance() * c.mean_loss);
  EXPECT_EQ(argmax(session.logits()), c.top_logits.front().first);
  for (const auto& [id, logit] : c.top_logits) {
    EXPECT_NEAR(session.logits()[static_cast<size_t>(id)], logit, logit_tolerance()) << id;
  }
  expect_answer(session, c);
}

TEST(NeedleReference, OneShotMatchesTransformers) {
  for (const ReferenceCase& c : reference_cases()) {
    expect_reference(c, *test::host_backends().front(), std::ssize(c.ids));
  }
}

TEST(NeedleReference, ChunksMatchTransformers) {
  expect_reference(reference_case("short"), *test::host_backends().front(), 5);
  expect_reference(reference_case("text-1000"), *test::host_backends().front(), 333);
  expect_reference(reference_case("niah-2048-4"), *test::host_backends().front(), 512);
  expect_reference(reference_case("niah-8192-16"), *test::host_backends().front(), 2048);
}

// The scalar reference takes minutes for more tokens.
TEST(NeedleReference, EveryBackendMatchesTransformers) {
  for (const Backend* backend : test::host_backends()) {
    expect_reference(reference_case("short"), *backend, 12);
    expect_reference(reference_case("text-1000"), *backend, 600);
  }
}

TEST(NeedleReference, SixteenBitCachesKeepTheAnswer) {
  const ReferenceCase c = reference_case("niah-2048-4");
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    Session session(needle(), {.capacity = 2100, .cache_dtype = dtype});
    PrefillOptions options;
    options.losses = true;
    const PrefillResult result = session.prefill(c.ids, options);
    EXPECT_NEAR(mean(result.losses), c.mean_loss, 0.002 * c.mean_loss) << to_string(dtype);
    std::vector<int32_t> greedy = {argmax(session.logits())};
    while (greedy.size() < c.greedy.size()) {
      greedy.push_back(argmax(session.decode(greedy.back())));
    }
    EXPECT_EQ(greedy, c.greedy) << to_string(dtype);
  }
}

}  // namespace
}  // namespace flexprefill::runtime
