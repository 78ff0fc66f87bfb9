#include "tools/bench/suite.h"

#include <algorithm>

#include "runtime/session.h"
#include "tools/output.h"

namespace flexprefill::tools {
namespace {

constexpr int64_t kLayerTokens = 16384;  // the longest that a section takes from the model
constexpr int64_t kLeastTokens = 128;

}  // namespace

SuiteRun::SuiteRun(const SuiteOptions& options)
    : options_(options), progress_("bench suite"), start_(std::chrono::steady_clock::now()) {}

int64_t SuiteRun::length(int64_t tokens) const {
  return std::max(std::min(tokens, kLeastTokens), tokens / options_.shrink);
}

Shape SuiteRun::shape(int64_t q_len, int64_t kv_len, int32_t head_dim, DType dtype) const {
  Shape shape;
  shape.head_dim = shape.v_head_dim = head_dim;
  shape.q_len = length(q_len);
  shape.kv_len = length(kv_len);
  shape.dtype = dtype;
  return shape;
}

void SuiteRun::begin_section(size_t number, size_t count) {
  section_ = "section " + std::to_string(number) + " of " + std::to_string(count);
}

void SuiteRun::tell(const std::string& what) {
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start_;
  progress_.message(section_ + ", " + fixed(elapsed.count(), 0) + " s: " + what);
}

CaseResult SuiteRun::measure(const Shape& shape, Data data, const AttentionWork& work) {
  tell(shape.text());
  return measure_attention(Inputs(shape, data), work, setup());
}

CaseResult SuiteRun::measure_layer(int32_t layer, int64_t q_len, int64_t kv_len,
                                   const AttentionWork& work) {
  const Inputs inputs = layers().inputs(layer, length(q_len), length(kv_len), DType::kBF16);
  tell("layer " + std::to_string(layer) + ", " + inputs.shape.text());
  Setup often = setup();  // short work, small differences
  often.repeats.seconds = 1.0;
  often.repeats.most = 51;
  return measure_attention(inputs, work, often);
}

const runtime::Model& SuiteRun::model() {
  if (!model_) model_ = runtime::Model::load(options_.model);
  return *model_;
}

std::vector<int32_t> SuiteRun::ids(int64_t tokens) const {
  return ids_of_text(options_.model, read_text("--prompt-file", options_.prompt_file), tokens);
}

const ModelLayers& SuiteRun::layers() {
  if (!layers_) {
    tell("reading " + std::to_string(length(kLayerTokens)) + " tokens with the model");
    layers_.emplace(model(), ids(length(kLayerTokens)), setup().context);
  }
  return *layers_;
}

}  // namespace flexprefill::tools
