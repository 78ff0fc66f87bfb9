// One query block against the key blocks of its mask row, with an online softmax per query:
//
//   for every kept key block:  m' = max(m, max_n S[n]);  P = exp(S - m')
//                              l = l exp(m - m') + sum P;  O = O exp(m - m') + P v;  m = m'
//   out = O / l,  lse = m + ln l

#include "ref/attend.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "numeric.h"

namespace flexprefill::internal {
namespace {

template <typename Real>
constexpr Real kMinusInf = -std::numeric_limits<Real>::infinity();

template <typename Real>
struct QueryState {
  Real m = kMinusInf<Real>;  // largest score so far
  Real l = 0;                // sum of exp(S - m)
};

template <typename Real>
Real dot(const Real* a, const Real* b, int32_t count) {
  Real sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int32_t c = 0; c < count; ++c) sum += a[c] * b[c];
  return sum;
}

// One query against the first `keys` keys of a block.
template <typename Real>
void attend_query(const Real* q, const Real* k, const Real* v, int64_t keys, int32_t k_dim,
                  int32_t v_dim, Real scale, Real* S, QueryState<Real>& state, Real* O) {
  Real max = state.m;
  for (int64_t n = 0; n < keys; ++n) {
    S[n] = scale * dot(q, k + n * k_dim, k_dim);
    max = std::max(max, S[n]);  // a NaN score leaves max alone and reaches l and O below
  }
  const Real correction = max == kMinusInf<Real> ? Real{1} : std::exp(state.m - max);
  state.m = max;
  state.l *= correction;
  for (int32_t c = 0; c < v_dim; ++c) O[c] *= correction;
  for (int64_t n = 0; n < keys; ++n) {
    if (S[n] == kMinusInf<Real>) continue;  // weight 0, also while every score so far is -inf
    const Real P = std::exp(S[n] - max);
    state.l += P;
    const Real* value = v + n * v_dim;
    for (int32_t c = 0; c < v_dim; ++c) O[c] += P * value[c];
  }
}

}  // namespace

template <typename Real>
void attend_block_row(const AttentionProblem& problem, const BlockMask& mask, int32_t h, int32_t i,
                      Arena& arena) {
  const int32_t k_dim = problem.q.head_dim, v_dim = problem.kv.v.head_dim;
  const auto q = arena.take<Real>(int64_t{kBlock} * k_dim);  // [kBlock, k.head_dim]
  const auto k = arena.take<Real>(int64_t{kBlock} * k_dim);
  const auto v = arena.take<Real>(int64_t{kBlock} * v_dim);  // [kBlock, v.head_dim]
  const auto O = arena.take<Real>(int64_t{kBlock} * v_dim);
  const auto S = arena.take<Real>(kBlock);
  const auto state = arena.take<QueryState<Real>>(kBlock);
  if (q.empty()) return;

  const int64_t first_position = (mask.first_q_block + i) * kBlock;
  const int64_t begin = std::max<int64_t>(first_position - q_start(problem), 0);
  const int64_t end =
      std::min<int64_t>(first_position + kBlock - q_start(problem), problem.q.tokens);
  const int64_t keys = problem.kv.k.tokens;
  const int32_t g = kv_head(problem, h);
  const Real scale = problem.softmax_scale ? static_cast<Real>(*problem.softmax_scale)
                                           : 1 / std::sqrt(static_cast<Real>(k_dim));
  for (int64_t t = begin; t < end; ++t) load_row(problem.q, t, h, &q[(t - begin) * k_dim]);
  std::fill(O.begin(), O.end(), Real{0});
  std::fill(state.begin(), state.end(), QueryState<Real>{});

  mask.for_each_block(h, i, [&](int32_t j) {
    const int64_t first_key = int64_t{j} * kBlock;
    const int64_t block_keys = std::min<int64_t>(kBlock, keys - first_key);
    for (int64_t n = 0; n < block_keys; ++n) {
      load_row(problem.kv.k, first_key + n, g, &k[n * k_dim]);
      load_row(problem.kv.v, first_key + n, g, &v[n * v_dim]);
    }
    for (int64_t t = begin; t < end; ++t) {
      const int64_t seen = std::min(q_start(problem) + t + 1 - first_key, block_keys);
      if (seen <= 0) continue;
      const int64_t row = t - begin;
      attend_query(&q[row * k_dim], k.data(), v.data(), seen, k_dim, v_dim, scale, S.data(),
                   state[row], &O[row * v_dim]);
    }
  });

  for (int64_t t = begin; t < end; ++t) {
    const auto& [m, l] = state[t - begin];
    const int64_t offset = row_offset(problem.out, t, h);
    for (int32_t c = 0; c < v_dim; ++c) {
      const Real value = l == 0 ? Real{0} : O[(t - begin) * v_dim + c] / l;
      store_element(problem.out.data, problem.out.dtype, offset + c, static_cast<float>(value));
    }
    if (problem.lse != nullptr) {
      problem.lse[h * problem.q.tokens + t] =
          static_cast<float>(l == 0 ? kMinusInf<Real> : m + std::log(l));
    }
  }
}

template void attend_block_row<float>(const AttentionProblem&, const BlockMask&, int32_t, int32_t,
                                      Arena&);
template void attend_block_row<double>(const AttentionProblem&, const BlockMask&, int32_t, int32_t,
                                       Arena&);

}  // namespace flexprefill::internal
