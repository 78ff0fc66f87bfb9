#pragma once

// Times a model's prefill, dense and with a policy, and what its matrix products could reach.

#include <functional>

#include "runtime/session.h"
#include "tools/bench/attention.h"

namespace flexprefill::tools {

// The prefill of one policy over the repeats.
struct PrefillTimes {
  std::string policy;
  Samples prefill, plan, attend, matmul, pointwise, rest;  // seconds
  double computed_share = 1.0;
  float coverage_min = 1.0f;
};

struct ModelResult {
  int64_t tokens = 0;
  int64_t chunk = 0;
  std::string dtypes;
  std::vector<PrefillTimes> runs;        // dense first
  double attend_flops = 0.0;             // exact-causal, of dense attention
  double product_flops = 0.0;            // outside attention
  double onednn_flops_per_second = 0.0;  // the same products, each alone on many rows
  std::string peak_name;
  Samples peak;  // FLOP/s

  // Operations of the products per second of everything outside plan and attend.
  double outside_flops_per_second(const PrefillTimes& run) const;
  double speedup() const;  // dense / last
  // The speed-up if attention shrank to its computed share and planning were free.
  double amdahl_limit() const;
};

struct ModelWork {
  std::string policy_name;
  Policy policy = FlexPrefill{};
  int64_t chunk = 0;  // 0 = the runtime's choice
  // Told what runs and how far it is.
  std::function<void(const std::string&, const runtime::Progress&)> on_progress = {};
};

ModelResult measure_model(const runtime::Model& model, std::span<const int32_t> ids,
                          const ModelWork& work, const Setup& setup);

Table table_of(const ModelResult& result);
std::string notes_of(const ModelResult& result);
nlohmann::ordered_json json_of(const ModelResult& result);

}  // namespace flexprefill::tools
