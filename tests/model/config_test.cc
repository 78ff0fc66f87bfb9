// What parse_config reads, and what it refuses by name.

#include "runtime/config.h"

#include <gmock/gmock.h>

#include "tests/model/model_files.h"

namespace flexprefill::runtime {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

json base(const std::string& architecture = "LlamaForCausalLM") {
  return {{"architectures", {architecture}},
          {"vocab_size", 100},
          {"hidden_size", 64},
          {"intermediate_size", 96},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"max_position_embeddings", 1000}};
}

ModelConfig parse(const json& config, const json& generation = nullptr) {
  return parse_config(config, generation, "config.json");
}

// The base with one key changed.
json with(const std::string& key, const json& value,
          const std::string& architecture = "LlamaForCausalLM") {
  json config = base(architecture);
  config[key] = value;
  return config;
}

void expect_refused(const json& config, const std::string& key, const std::string& value = "") {
  EXPECT_THAT(error_of([&] { parse(config); }),
              AllOf(HasSubstr("config.json"), HasSubstr(key), HasSubstr(value)))
      << config.dump();
}

TEST(Config, ReadsNeedle) {
  const ModelConfig config = load_config(kNeedle);
  EXPECT_EQ(config.architecture, Architecture::kLlama);
  EXPECT_EQ(config.vocab_size, 4096);
  EXPECT_EQ(config.layers, 8);
  EXPECT_EQ(config.heads, 6);
  EXPECT_EQ(config.kv_heads, 2);
  EXPECT_EQ(config.head_dim, 64);
  EXPECT_EQ(config.max_positions, 131072);
  EXPECT_EQ(config.rope.theta, 1e6);
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_FALSE(config.sliding_window);
  EXPECT_THAT(config.eos_ids, ElementsAre(1));
}

TEST(Config, HeadDimComesFromHiddenSizeUnlessGiven) {
  EXPECT_EQ(parse(base()).head_dim, 16);
  EXPECT_EQ(parse(with("head_dim", 32)).head_dim, 32);
  EXPECT_EQ(parse(with("head_dim", nullptr)).head_dim, 16);
  EXPECT_EQ(parse(base("Qwen3ForCausalLM")).head_dim, 128);
  expect_refused(with("num_attention_heads", 6), "num_attention_heads", "6");
  expect_refused(with("num_attention_heads", 64), "head_dim", "1");
}

TEST(Config, OldLlamaFilesHaveAsManyKvHeadsAsHeads) {
  json config = base();
  config.erase("num_key_value_heads");
  EXPECT_EQ(parse(config).kv_heads, 4);
  config["architectures"] = {"Qwen2ForCausalLM"};
  expect_refused(config, "num_key_value_heads", "missing");
}

TEST(Config, BiasesAndNormsFollowTheArchitecture) {
  EXPECT_FALSE(parse(base()).qkv_bias);
  EXPECT_TRUE(parse(with("attention_bias", true)).output_bias);
  EXPECT_TRUE(parse(with("mlp_bias", true)).mlp_bias);
  EXPECT_TRUE(parse(base("Qwen2ForCausalLM")).qkv_bias);
  EXPECT_FALSE(parse(base("Qwen2ForCausalLM")).output_bias);
  EXPECT_TRUE(parse(base("Qwen3ForCausalLM")).qk_norm);
  expect_refused(with("attention_bias", true, "MistralForCausalLM"), "attention_bias", "true");
  expect_refused(with("mlp_bias", true, "Qwen3ForCausalLM"), "mlp_bias", "true");
}

TEST(Config, RopeThetaIsFoundInOldAndNewPlaces) {
  EXPECT_EQ(parse(base()).rope.theta, 10000.0);
  EXPECT_EQ(parse(with("rope_theta", 5e5)).rope.theta, 5e5);
  EXPECT_EQ(
      parse(with("rope_parameters", {{"rope_type", "default"}, {"rope_theta", 7e5}})).rope.theta,
      7e5);
}

TEST(Config, Llama3RopeScalingIsReadUnderBothNames) {
  const json rope = {{"rope_type", "llama3"},
                     {"factor", 8.0},
                     {"low_freq_factor", 1.0},
                     {"high_freq_factor", 4.0},
                     {"original_max_position_embeddings", 8192}};
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const RopeConfig config = parse(with(key, rope)).rope;
    EXPECT_TRUE(config.llama3);
    EXPECT_EQ(config.factor, 8.0);
    EXPECT_EQ(config.original_max_positions, 8192);
  }
  for (const char* key : {"factor", "low_freq_factor", "original_max_position_embeddings"}) {
    json missing = rope;
    missing.erase(key);
    expect_refused(with("rope_scaling", missing), key, "missing");
  }
  json reversed = rope;
  reversed["high_freq_factor"] = 0.5;
  expect_refused(with("rope_scaling", reversed), "high_freq_factor", "0.5");
}

TEST(Config, OtherRopeTypesAreRefusedByName) {
  for (const char* type : {"yarn", "linear", "dynamic", "longrope", "su", "mrope"}) {
    expect_refused(with("rope_scaling", {{"type", type}, {"factor", 2.0}}), "rope_scaling", type);
    expect_refused(with("rope_parameters", {{"rope_type", type}}), "rope_type", type);
  }
  expect_refused(with("rope_parameters", {{"partial_rotary_factor", 0.5}}), "partial_rotary_factor",
                 "0.5");
  expect_refused(with("rope_parameters", {{"mrope_section", {1, 2}}}), "mrope_section");
  expect_refused(with("rope_scaling", "llama3"), "rope_scaling", "object");
}

TEST(Config, UnsupportedModelsAreRefusedByName) {
  expect_refused(base("GemmaForCausalLM"), "architectures", "GemmaForCausalLM");
  expect_refused(with("architectures", json::array()), "architectures");
  expect_refused(with("architectures", nullptr), "architectures", "missing");
  expect_refused(with("hidden_act", "gelu"), "hidden_act", "gelu");
  expect_refused(with("quantization_config", {{"quant_method", "awq"}}), "quantization_config",
                 "awq");
  expect_refused(with("logits_soft_cap", 30.0), "logits_soft_cap", "30");
  EXPECT_NO_THROW(parse(with("use_mrope", false)));  // off means the ordinary model
}

TEST(Config, SizesOutsideTheirBoundsAreRefused) {
  const json bad[] = {0, -1, 1.5, "many", nullptr, 1ull << 63, json::array({1}), 1e300};
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "max_position_embeddings"}) {
    for (const json& value : bad) expect_refused(with(key, value), key);
    expect_refused(with(key, int64_t{1} << 40), key, "1099511627776");
  }
  expect_refused(with("num_key_value_heads", 3), "num_key_value_heads", "3");
  for (const json& value : {json(0), json(3), json(258), json(1 << 30)}) {
    expect_refused(with("head_dim", value), "head_dim", value.dump());
  }
  expect_refused(with("rms_norm_eps", 0.0), "rms_norm_eps");
  expect_refused(with("rope_theta", -1.0), "rope_theta", "-1");
  expect_refused(with("tie_word_embeddings", 1), "tie_word_embeddings", "1");
  expect_refused(json::array(), "object");
}

TEST(Config, EosIdsComeFromTheGenerationConfigFirst) {
  const json config = with("eos_token_id", 5);
  EXPECT_THAT(parse(config).eos_ids, ElementsAre(5));
  EXPECT_THAT(parse(config, {{"eos_token_id", {7, 8}}}).eos_ids, ElementsAre(7, 8));
  EXPECT_THAT(parse(config, {{"do_sample", true}}).eos_ids, ElementsAre(5));
  EXPECT_TRUE(parse(base()).eos_ids.empty());
  expect_refused(with("eos_token_id", 100), "eos_token_id", "100");
  expect_refused(with("eos_token_id", {1, -2}), "eos_token_id", "-2");
}

TEST(Config, SlidingWindowIsReadAsEachArchitectureMeansIt) {
  EXPECT_EQ(parse(base("MistralForCausalLM")).sliding_window, 4096);  // the key's absence
  EXPECT_FALSE(parse(with("sliding_window", nullptr, "MistralForCausalLM")).sliding_window);
  EXPECT_EQ(parse(with("sliding_window", 64, "MistralForCausalLM")).sliding_window, 64);
  EXPECT_FALSE(parse(with("sliding_window", 64, "Qwen2ForCausalLM")).sliding_window);
  json qwen = with("sliding_window", 64, "Qwen2ForCausalLM");
  qwen["use_sliding_window"] = true;
  EXPECT_FALSE(parse(qwen).sliding_window);  // from layer 28 on, and there are two
  qwen["max_window_layers"] = 1;
  EXPECT_EQ(parse(qwen).sliding_window, 64);
  qwen["layer_types"] = {"full_attention", "full_attention"};
  EXPECT_FALSE(parse(qwen).sliding_window);
  qwen["layer_types"] = {"full_attention", "sliding_attention"};
  EXPECT_EQ(parse(qwen).sliding_window, 64);
  qwen["layer_types"] = {"full_attention", "chunked_attention"};
  expect_refused(qwen, "layer_types", "chunked_attention");
  qwen["layer_types"] = {"full_attention"};
  expect_refused(qwen, "layer_types", "num_hidden_layers");
  expect_refused(with("sliding_window", 64), "sliding_window");
}

TEST(Config, LengthMustFitPositionsAndWindow) {
  const ModelConfig config = parse(base());
  EXPECT_NO_THROW(check_length(config, 990, 10));
  EXPECT_THAT(error_of([&] { check_length(config, 990, 11); }),
              AllOf(HasSubstr("990"), HasSubstr("max_position_embeddings = 1000")));
  EXPECT_THROW(check_length(config, 990, INT64_MAX), Error);
  EXPECT_THROW(check_length(config, -1, 0), Error);
  const ModelConfig windowed = parse(with("sliding_window", 64, "MistralForCausalLM"));
  EXPECT_NO_THROW(check_length(windowed, 60, 4));
  EXPECT_THAT(error_of([&] { check_length(windowed, 65, 0); }), HasSubstr("sliding_window = 64"));
}

}  // namespace
}  // namespace flexprefill::runtime
