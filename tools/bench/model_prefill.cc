#include "tools/bench/model_prefill.h"

#include <algorithm>

#include "runtime/weights.h"
#include "tools/bench/products.h"
#include "tools/options.h"

namespace flexprefill::tools {
namespace {

using runtime::ModelWeights;
using runtime::PrefillResult;

constexpr int64_t kProductRows = 4096;  // of one product, enough for all threads
constexpr int kProductRepeats = 7;

std::vector<const runtime::Linear*> products_of(const runtime::LayerWeights& layer) {
  return {&layer.qkv, &layer.attention_out, &layer.gate_up, &layer.down};
}

// The last layer's rows beyond the last are not computed behind its attention, and neither are the
// logits of any other token.
double product_flops(const ModelWeights& weights, double tokens) {
  double flops = flops_of(weights.output, 1.0);
  for (const runtime::LayerWeights& layer : weights.layers) {
    const bool last = &layer == &weights.layers.back();
    for (const runtime::Linear* linear : products_of(layer))
      flops += flops_of(*linear, last && linear != &layer.qkv ? 1.0 : tokens);
  }
  return flops;
}

PrefillTimes times_of(const std::string& policy, const std::vector<PrefillResult>& results) {
  const auto samples = [&](auto part) {
    std::vector<double> values;
    values.reserve(results.size());
    for (const PrefillResult& result : results) values.push_back(part(result));
    return summarize(std::move(values));
  };
  PrefillTimes times;
  times.policy = policy;
  times.prefill = samples([](const PrefillResult& r) { return r.prefill_seconds; });
  times.plan = samples([](const PrefillResult& r) { return r.parts.plan; });
  times.attend = samples([](const PrefillResult& r) { return r.parts.attend; });
  times.matmul = samples([](const PrefillResult& r) { return r.parts.matmul; });
  times.pointwise = samples([](const PrefillResult& r) { return r.parts.pointwise; });
  times.rest = samples([](const PrefillResult& r) { return r.parts.rest; });
  times.computed_share = results.front().computed_share;
  times.coverage_min = results.front().coverage_min;
  return times;
}

}  // namespace

double ModelResult::outside_flops_per_second(const PrefillTimes& run) const {
  return product_flops / (run.prefill.median - run.plan.median - run.attend.median);
}

double ModelResult::speedup() const {
  return runs.front().prefill.median / runs.back().prefill.median;
}

double ModelResult::amdahl_limit() const {
  const PrefillTimes& dense = runs.front();
  const double saved = dense.attend.median * (1.0 - runs.back().computed_share);
  return dense.prefill.median / (dense.prefill.median - saved);
}

ModelResult measure_model(const runtime::Model& model, std::span<const int32_t> ids,
                          const ModelWork& work, const Setup& setup) {
  const runtime::ModelConfig& config = model.config();
  const auto tokens = static_cast<int64_t>(ids.size());
  runtime::SessionOptions session_options;
  session_options.capacity = tokens;
  session_options.threads = setup.context.threads;
  session_options.backend = setup.context.backend;
  runtime::Session session(model, session_options);
  const auto prefill = [&](const std::string& name, const Policy& policy,
                           std::span<const int32_t> part) {
    session.clear();
    runtime::PrefillOptions options;
    options.policy = policy;
    options.chunk = work.chunk;
    if (work.on_progress)
      options.on_progress = [&](const runtime::Progress& p) { work.on_progress(name, p); };
    return session.prefill(part, options);
  };

  // The first prefill also pays for page faults and for building the matrix products; the whole
  // prompt would take too long.
  const auto warm_up = ids.first(std::min<size_t>(ids.size(), 4096));
  prefill("warm-up", Dense{}, warm_up);
  prefill("warm-up", work.policy, warm_up);

  const Backend& backend = backend_or_best(setup.context);
  const std::optional<Peak> peak =
      Peak::of(backend, runtime::matmul_dtype(), setup.context.threads);
  std::vector<PrefillResult> dense, sparse;
  std::vector<double> peaks;
  double spent = 0.0;
  const Repeats& repeats = setup.repeats;
  for (int n = 0; n < (repeats.count > 0 ? repeats.count : repeats.most); ++n) {
    if (repeats.count == 0 && n > 0 && spent + spent / n > repeats.seconds) break;
    if (peak) peaks.push_back(peak->sample());
    dense.push_back(prefill("dense", Dense{}, ids));
    if (peak) peaks.push_back(peak->sample());
    sparse.push_back(prefill(work.policy_name, work.policy, ids));
    spent += dense.back().prefill_seconds + sparse.back().prefill_seconds;
  }

  ModelResult result;
  result.tokens = tokens;
  result.chunk = dense.front().chunk;
  result.dtypes = dense.front().dtypes;
  result.runs = {times_of("dense", dense), times_of(work.policy_name, sparse)};
  const auto length = static_cast<double>(tokens);
  result.attend_flops =
      4.0 * config.head_dim * config.heads * config.layers * length * (length + 1) / 2;
  result.product_flops = product_flops(model.weights(), length);
  result.onednn_flops_per_second =
      measure_products(products_of(model.weights().layers.front()), kProductRows,
                       setup.context.threads, kProductRepeats)
          .median;
  result.peak_name = peak ? peak->name() : "";
  result.peak = summarize(std::move(peaks));
  return result;
}

}  // namespace flexprefill::tools
