#include "ref/score.h"

#include <algorithm>
#include <cmath>

#include "numeric.h"

namespace flexprefill::internal {
namespace {

float dot(std::span<const float> a, const float* b) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (size_t c = 0; c < a.size(); ++c) sum += a[c] * b[c];
  return sum;
}

float identity(float value) { return value; }

// Mean of rows [begin, end) of head h, each element first passed through `round`.
template <typename Round>
void mean_rows(const HeadView& view, int32_t h, int64_t begin, int64_t end, Round round,
               std::span<double> sums, std::span<float> row, float* mean) {
  std::fill(sums.begin(), sums.end(), 0.0);
  for (int64_t t = begin; t < end; ++t) {
    load_row(view, t, h, row.data());
    for (size_t c = 0; c < row.size(); ++c) sums[c] += round(row[c]);
  }
  const double count = static_cast<double>(std::max<int64_t>(end - begin, 1));
  for (size_t c = 0; c < row.size(); ++c) mean[c] = static_cast<float>(sums[c] / count);
}

// Subtracts the maximum and exponentiates in place; returns the sum.
double exponentiate(std::span<float> logits) {
  const float max = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (float& logit : logits) sum += logit = std::exp(logit - max);
  return sum;
}

float softmax_scale(const AttentionProblem& problem) {
  return problem.softmax_scale.value_or(1.0f / std::sqrt(static_cast<float>(problem.q.head_dim)));
}

// Sums of one probe row's softmax over key blocks and over slash buckets.
void add_row(std::span<const float> weights, double total, int64_t position, int64_t first_bucket,
             std::span<float> row_mass, std::span<double> slash) {
  for (size_t j = 0; j < row_mass.size(); ++j) {
    const size_t end = std::min(weights.size(), (j + 1) * kBlock);
    double sum = 0.0;
    for (size_t n = j * kBlock; n < end; ++n) {
      const double p = weights[n] / total;
      sum += p;
      slash[static_cast<size_t>((position - static_cast<int64_t>(n)) / kBlock - first_bucket)] += p;
    }
    row_mass[j] = static_cast<float>(sum);
  }
}

// Steps 1 and 2: bf16(q / sqrt(D)), then the logits with the keys rounded to bf16.
float over_sqrt(float value, int32_t head_dim) {
  const float inverse_sqrt = 1.0f / std::sqrt(static_cast<float>(head_dim));
  return round_to_bf16(round_to_bf16(value) * inverse_sqrt);
}

// Step 12: bf16 mean over a full block with zero padding, the last block's scaled back in bf16.
float official_q_mean(float mean, int64_t tokens) {
  if (tokens == kBlock) return round_to_bf16(mean);
  const float padded = round_to_bf16(mean * static_cast<float>(tokens) / kBlock);
  return round_to_bf16(round_to_bf16(padded * kBlock) / static_cast<float>(tokens));
}

}  // namespace

CoverageScores score_coverage(const AttentionProblem& problem, int32_t h, Arena& arena) {
  const BlockMask grid = block_grid(problem);
  const ProbeRows probes = probe_rows(problem);
  const int64_t head_dim = problem.q.head_dim, keys = visible_keys(problem);
  const auto row_mass = arena.take<float>(int64_t{probes.count} * grid.k_blocks);
  const auto slash = arena.take<double>(slash_buckets(problem));
  const auto probe_mean = arena.take<float>(head_dim);
  const auto q_mean = arena.take<float>(grid.q_blocks * head_dim);
  const auto k_mean = arena.take<float>(grid.k_blocks * head_dim);
  const auto sums = arena.take<double>(head_dim);
  const auto row = arena.take<float>(head_dim), q = arena.take<float>(head_dim);
  const auto logits = arena.take<float>(keys);
  const auto k = arena.take<float>(keys * head_dim);
  if (row.empty()) return {};

  const float scale = softmax_scale(problem);
  const int32_t g = kv_head(problem, h);
  for (int64_t n = 0; n < keys; ++n) load_row(problem.kv.k, n, g, k.data() + n * head_dim);
  std::fill(row_mass.begin(), row_mass.end(), 0.0f);
  std::fill(slash.begin(), slash.end(), 0.0);
  int32_t rows = 0;  // that see keys
  for (int32_t r = 0; r < probes.count; ++r) {
    const int64_t position = probes.first_position + r;
    const auto seen = static_cast<size_t>(std::clamp<int64_t>(position + 1, 0, keys));
    if (seen == 0) continue;
    ++rows;
    load_row(problem.q, problem.q.tokens - probes.count + r, h, q.data());
    for (size_t n = 0; n < seen; ++n) logits[n] = scale * dot(q, k.data() + n * q.size());
    const double total = exponentiate(logits.first(seen));
    add_row(logits.first(seen), total, position, first_slash_bucket(problem),
            row_mass.subspan(static_cast<size_t>(r) * static_cast<size_t>(grid.k_blocks),
                             (seen + kBlock - 1) / kBlock),
            slash);
  }
  for (double& mass : slash) mass /= rows;

  mean_rows(problem.q, h, problem.q.tokens - rows, problem.q.tokens, identity, sums, row,
            probe_mean.data());
  for (int32_t i = 0; i < grid.q_blocks; ++i) {
    const int64_t begin = (grid.first_q_block + i) * kBlock - q_start(problem);
    mean_rows(problem.q, h, std::max<int64_t>(begin, 0), std::min(begin + kBlock, problem.q.tokens),
              identity, sums, row, q_mean.data() + i * head_dim);
  }
  for (int64_t j = 0; j < grid.k_blocks; ++j) {
    mean_rows(problem.kv.k, g, j * kBlock, std::min((j + 1) * kBlock, keys), identity, sums, row,
              k_mean.data() + j * head_dim);
  }
  return {row_mass, slash, probe_mean, q_mean, k_mean, scale};
}

OfficialScores score_official(const AttentionProblem& problem, int32_t h, Arena& arena) {
  const int64_t kv_len = problem.kv.k.tokens, head_dim = problem.q.head_dim;
  const int64_t k_blocks = block_grid(problem).k_blocks;
  const ProbeRows probes = probe_rows(problem);
  const auto vertical = arena.take<float>(kv_len), slash = arena.take<float>(kv_len);
  const auto probe_mean = arena.take<float>(head_dim);
  const auto q_mean = arena.take<float>(k_blocks * head_dim);
  const auto k_mean = arena.take<float>(k_blocks * head_dim);
  const auto row_mass = arena.take<float>(probes.count * k_blocks);
  const auto vertical_sums = arena.take<double>(kv_len), slash_sums = arena.take<double>(kv_len);
  const auto logits = arena.take<float>(kv_len);
  const auto sums = arena.take<double>(head_dim);
  const auto row = arena.take<float>(head_dim), q = arena.take<float>(head_dim);
  const auto k = arena.take<float>(kv_len * head_dim);
  if (row.empty()) return {};

  const int32_t g = kv_head(problem, h);
  for (int64_t n = 0; n < kv_len; ++n) load_row(problem.kv.k, n, g, k.data() + n * head_dim);
  for (float& value : k) value = round_to_bf16(value);
  const auto lq = [&](float value) { return over_sqrt(value, problem.q.head_dim); };
  std::fill(vertical_sums.begin(), vertical_sums.end(), 0.0);
  std::fill(slash_sums.begin(), slash_sums.end(), 0.0);
  std::fill(row_mass.begin(), row_mass.end(), 0.0f);
  for (int32_t r = 0; r < probes.count; ++r) {
    const int64_t position = probes.first_position + r;
    load_row(problem.q, position, h, q.data());
    for (float& value : q) value = lq(value);
    const auto seen = logits.first(static_cast<size_t>(position) + 1);
    for (size_t n = 0; n < seen.size(); ++n) {
      seen[n] = round_to_bf16(dot(q, k.data() + n * q.size()));
    }
    const double total = exponentiate(seen);
    for (size_t n = 0; n < seen.size(); ++n) {
      const auto p = static_cast<float>(seen[n] / total);
      vertical_sums[n] += p;
      slash_sums[static_cast<size_t>(position) - n] += p;
      row_mass[static_cast<size_t>(r * k_blocks) + n / kBlock] += p;
    }
  }
  for (size_t n = 0; n < vertical.size(); ++n) {
    vertical[n] = static_cast<float>(vertical_sums[n] / probes.count);
    slash[n] = static_cast<float>(slash_sums[n] / probes.count);
  }

  mean_rows(problem.q, h, kv_len - probes.count, kv_len, lq, sums, row, probe_mean.data());
  for (float& value : probe_mean) value = round_to_bf16(value);
  for (int64_t j = 0; j < k_blocks; ++j) {
    const int64_t begin = j * kBlock, end = std::min(begin + kBlock, kv_len);
    float* key_mean = k_mean.data() + j * head_dim;
    mean_rows(problem.kv.k, g, begin, end, round_to_bf16, sums, row, key_mean);
    float* query_mean = q_mean.data() + j * head_dim;
    mean_rows(problem.q, h, begin, end, round_to_bf16, sums, row, query_mean);
    for (int64_t c = 0; c < head_dim; ++c) {
      key_mean[c] = round_to_bf16(key_mean[c]);
      query_mean[c] = official_q_mean(query_mean[c], end - begin);
    }
  }
  return {vertical, slash, probe_mean, q_mean, k_mean, row_mass};
}

}  // namespace flexprefill::internal
