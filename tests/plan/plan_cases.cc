#include "tests/plan/plan_cases.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>

#include "numeric.h"
#include "tests/support/run.h"
#include "tests/support/safetensors.h"

namespace flexprefill::test {
namespace {

const char* to_string(Structure structure) {
  switch (structure) {
    case Structure::kNoise: return "noise";
    case Structure::kSink: return "sink";
    case Structure::kLocal: return "local";
    case Structure::kTopics: return "topics";
  }
  return "?";
}

// Direction of a topic in channel c: +-1, the same for queries and keys.
float direction(int64_t topic, int32_t c) {
  uint64_t hash = (static_cast<uint64_t>(topic) * 1000 + static_cast<uint64_t>(c) + 1) *
                  0x9e3779b97f4a7c15u;  // 2^64 over the golden ratio
  hash = (hash ^ (hash >> 32)) * 0xd6e8feb86659fd93u;
  return (hash >> 40) % 2 == 0 ? 1.0f : -1.0f;
}

// What token t is about; -1 = nothing.
int64_t topic(Structure structure, int64_t t) {
  switch (structure) {
    case Structure::kNoise: return -1;
    case Structure::kSink: return t < 4 || t % 397 == 50 ? 0 : -1;
    case Structure::kLocal: return t / 40;
    case Structure::kTopics: return t / kBlock % 5;
  }
  return -1;
}

void fill_tokens(Tensor& tensor, Structure structure, int64_t start, bool queries,
                 std::mt19937& random) {
  const HeadView view = tensor.view();
  std::normal_distribution<float> normal;
  const float noise = structure == Structure::kTopics ? 0.1f : 0.7f;
  for (int64_t t = 0; t < view.tokens; ++t) {
    const int64_t about =
        queries && structure == Structure::kSink ? 0 : topic(structure, start + t);
    for (int32_t h = 0; h < view.heads; ++h) {
      const float strength = 0.5f + 0.25f * static_cast<float>(h % 4);  // heads differ
      for (int32_t c = 0; c < view.head_dim; ++c) {
        const float signal = about < 0 ? 0.0f : strength * direction(about, c);
        tensor.set(t, h, c, signal + noise * normal(random));
      }
    }
  }
}

}  // namespace

std::string PlanCase::name() const {
  return std::string(to_string(structure)) + " q=" + std::to_string(q_len) + "@" +
         (q_start ? std::to_string(*q_start) : "end") + " kv=" + std::to_string(kv_len) +
         " heads=" + std::to_string(heads) + "/" + std::to_string(kv_heads) +
         " dim=" + std::to_string(head_dim) + " " + std::string(flexprefill::to_string(dtype)) +
         (grouping == HeadGrouping::kInterleaved ? " interleaved" : "");
}

PlanInstance::PlanInstance(const PlanCase& c)
    : name(c.name()),
      q(c.dtype, c.q_len, c.heads, c.head_dim, Layout::kGaps, /*spare=*/3),
      k(c.dtype, c.kv_len, c.kv_heads, c.head_dim, Layout::kHeadMajor, /*spare=*/130),
      v(c.dtype, c.kv_len, c.kv_heads, 1) {
  problem.q = q.view();
  problem.kv.k = k.view();
  problem.kv.v = v.view();
  problem.q_start = c.q_start;
  problem.grouping = c.grouping;
  std::mt19937 random(static_cast<uint32_t>(c.q_len * 131 + c.kv_len));
  fill_tokens(q, c.structure, q_start(problem), /*queries=*/true, random);
  fill_tokens(k, c.structure, 0, /*queries=*/false, random);
}

PlanInstance::PlanInstance(const std::string& fixture) : name(fixture) {
  const Fixture file("official/official_" + fixture + ".safetensors");
  q = file.tensor("q");
  k = file.tensor("k");
  v = file.tensor("v");
  problem.q = q.view();
  problem.kv.k = k.view();
  problem.kv.v = v.view();
}

std::vector<std::unique_ptr<PlanInstance>> plan_instances() {
  std::vector<std::unique_ptr<PlanInstance>> all;
  const auto add = [&](const PlanCase& c) { all.push_back(std::make_unique<PlanInstance>(c)); };
  for (const auto structure :
       {Structure::kNoise, Structure::kSink, Structure::kLocal, Structure::kTopics}) {
    if (!kSanitized) add({.structure = structure});
    add({.structure = structure,
         .q_len = 300,
         .kv_len = 1301,
         .head_dim = 20,
         .dtype = DType::kBF16,
         .grouping = HeadGrouping::kInterleaved});
    add({.structure = structure, .q_len = 77, .kv_len = 1000, .dtype = DType::kF16});
  }
  add({.structure = Structure::kLocal, .q_len = 200, .kv_len = 900, .q_start = 1200});
  add({.structure = Structure::kSink, .q_len = 900, .kv_len = 1100, .q_start = -50});
  add({.structure = Structure::kTopics, .q_len = 1, .kv_len = 700, .heads = 3, .kv_heads = 1});
  for (const char* fixture : {"n2000_layer4", "n2048_layer1"}) {
    if (kSanitized) break;
    all.push_back(std::make_unique<PlanInstance>(std::string(fixture)));
  }
  return all;
}

AttentionProblem chunk(const AttentionProblem& problem, int64_t begin, int64_t end,
                       int64_t kv_len) {
  AttentionProblem part = problem;
  part.q = slice(problem.q, begin, end);
  part.kv.k = slice(problem.kv.k, 0, kv_len);
  part.kv.v = slice(problem.kv.v, 0, kv_len);
  part.q_start = q_start(problem) + begin;
  return part;
}

Mass true_mass(const AttentionProblem& problem, int32_t h) {
  const auto rows = static_cast<size_t>(std::min<int64_t>(128, problem.q.tokens));
  const auto k_blocks = static_cast<size_t>((kv_len(problem) + kBlock - 1) / kBlock);
  const double scale = problem.softmax_scale ? double{*problem.softmax_scale}
                                             : 1 / std::sqrt(double(problem.q.head_dim));
  const auto head_dim = static_cast<size_t>(problem.q.head_dim);
  std::vector<double> q(head_dim), k(static_cast<size_t>(kv_len(problem)) * head_dim);
  for (int64_t n = 0; n < kv_len(problem); ++n) {
    internal::load_row(problem.kv.k, n, kv_head(problem, h), k.data() + n * problem.q.head_dim);
  }
  Mass mass(rows);
  for (size_t r = 0; r < rows; ++r) {
    const int64_t t = problem.q.tokens - static_cast<int64_t>(rows - r);
    const int64_t seen = std::clamp<int64_t>(q_start(problem) + t + 1, 0, kv_len(problem));
    if (seen == 0) continue;
    internal::load_row(problem.q, t, h, q.data());
    std::vector<double> logits;
    for (int64_t n = 0; n < seen; ++n) {
      const double* key = k.data() + n * problem.q.head_dim;
      double dot = 0.0;
      for (size_t c = 0; c < head_dim; ++c) dot += q[c] * key[c];
      logits.push_back(scale * dot);
    }
    const double max = *std::max_element(logits.begin(), logits.end());
    double total = 0.0;
    mass[r].resize(k_blocks);
    for (size_t n = 0; n < logits.size(); ++n) {
      const double p = std::exp(logits[n] - max);
      mass[r][n / kBlock] += p;
      total += p;
    }
    for (double& m : mass[r]) m /= total;
  }
  return mass;
}

KeptMass kept_mass(const AttentionProblem& problem, const Mass& mass, const BlockMask& mask,
                   int32_t h) {
  KeptMass kept;
  double sum = 0.0;
  int rows = 0;
  for (size_t r = 0; r < mass.size(); ++r) {
    if (mass[r].empty()) continue;
    const int64_t position = q_start(problem) + problem.q.tokens -
                             static_cast<int64_t>(mass.size()) + static_cast<int64_t>(r);
    double share = 0.0;
    for (int32_t j = 0; j < mask.k_blocks; ++j) {
      const auto i = static_cast<int32_t>(position / kBlock - mask.first_q_block);
      if (mask.test(h, i, j)) share += mass[r][static_cast<size_t>(j)];
    }
    kept.min_row = std::min(kept.min_row, share);
    sum += share;
    ++rows;
  }
  if (rows > 0) kept.mean = sum / rows;
  return kept;
}

std::vector<uint64_t> head_bits(const BlockMask& mask, int32_t h) {
  const int64_t words = int64_t{mask.q_blocks} * mask.row_words();
  return {mask.bits + h * words, mask.bits + (h + 1) * words};
}

bool same_bits(const HeadReport& a, const HeadReport& b) {
  const auto same = [](float x, float y) {
    return std::bit_cast<uint32_t>(x) == std::bit_cast<uint32_t>(y);
  };
  return a.pattern == b.pattern && a.budget_limited == b.budget_limited &&
         a.kept_blocks == b.kept_blocks && a.causal_blocks == b.causal_blocks &&
         same(a.coverage, b.coverage) && same(a.coverage_min_row, b.coverage_min_row) &&
         same(a.divergence, b.divergence);
}

}  // namespace flexprefill::test
