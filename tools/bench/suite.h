#pragma once

// `flexprefill bench --suite`: every table of docs/performance.md.

#include <chrono>
#include <optional>

#include "tools/bench/accuracy.h"
#include "tools/bench/model_layers.h"
#include "tools/progress.h"

namespace flexprefill::tools {

struct SuiteOptions {
  Setup setup;
  std::string model;        // folder
  std::string prompt_file;  // text for it
  int64_t shrink = 1;       // divides every length: a test of the tool, no measurement
};

// A heading, what the table shows, and the table.
struct Section {
  std::string title;
  std::string text = {};
  Table table = {};
  std::string notes = {};
  nlohmann::ordered_json results = nlohmann::ordered_json::array();
};

// What the sections share: they measure through it, so that progress is told in one place.
class SuiteRun {
 public:
  explicit SuiteRun(const SuiteOptions& options);

  const SuiteOptions& options() const { return options_; }
  const Setup& setup() const { return options_.setup; }
  int64_t length(int64_t tokens) const;  // shrunk
  Shape shape(int64_t q_len, int64_t kv_len, int32_t head_dim, DType dtype) const;
  void begin_section(size_t number, size_t count);
  void tell(const std::string& what);

  CaseResult measure(const Shape& shape, Data data, const AttentionWork& work);
  // The same with the tensors of one layer of the model.
  CaseResult measure_layer(int32_t layer, int64_t q_len, int64_t kv_len, const AttentionWork& work);
  const ModelLayers& layers();  // of the longest text needed, read when first needed
  const runtime::Model& model();
  std::vector<int32_t> ids(int64_t tokens) const;

 private:
  SuiteOptions options_;
  ProgressLine progress_;
  std::chrono::steady_clock::time_point start_;
  std::string section_;
  std::optional<runtime::Model> model_;
  std::optional<ModelLayers> layers_;
};

// suite_attention.cc
Section peak_section(SuiteRun& run);
Section dense_section(SuiteRun& run);
Section sparse_section(SuiteRun& run);
Section isa_section(SuiteRun& run);
Section dtype_section(SuiteRun& run);
Section thread_section(SuiteRun& run);
// suite_policy.cc
Section plan_section(SuiteRun& run);
Section chunk_section(SuiteRun& run);
Section short_section(SuiteRun& run);
Section accuracy_section(SuiteRun& run);
Section model_section(SuiteRun& run);

// The measurements of `bench attention` in a process of its own that is forced to an instruction
// set; nothing if this machine lacks it.
std::optional<CaseResult> measure_with_isa(const std::string& isa,
                                           const std::vector<std::string>& arguments);

}  // namespace flexprefill::tools
