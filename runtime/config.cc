#include "runtime/config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "flexprefill/error.h"
#include "runtime/json_file.h"

namespace flexprefill::runtime {
namespace {

using nlohmann::json;

constexpr size_t kMaxConfigBytes = size_t{4} << 20;  // real ones are below 10 KB

// Bounds of the sizes: larger than any published model, small enough that
// heads * head_dim * positions and vocab * hidden stay far inside int64_t.
constexpr int64_t kMaxVocab = int64_t{1} << 24;
constexpr int64_t kMaxHidden = int64_t{1} << 17;
constexpr int64_t kMaxIntermediate = int64_t{1} << 20;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 1024;
constexpr int64_t kMaxHeadDim = 256;
constexpr int64_t kMaxPositions = int64_t{1} << 27;

// Keys that do not change what the model computes.
constexpr std::array kHarmlessKeys = {"_attn_implementation_autoset",
                                      "_name_or_path",
                                      "attention_dropout",
                                      "bos_token_id",
                                      "dtype",
                                      "id2label",
                                      "initializer_range",
                                      "is_llama_config",
                                      "label2id",
                                      "model_type",
                                      "name_or_path",
                                      "pad_token_id",
                                      "pretraining_tp",
                                      "return_dict",
                                      "torch_dtype",
                                      "transformers_version",
                                      "unk_token_id",
                                      "use_cache"};

// The value as an error message shows it.
std::string shown(const json& value) {
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return text;
}

// Reads the keys of one JSON object and remembers which were asked for.
class Reader {
 public:
  Reader(const json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) throw Error(where_ + ": expected a JSON object");
  }

  // The value, or null if the key is missing or null.
  const json* find(const std::string& key) {
    known_.insert(key);
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }

  bool has(const std::string& key) const { return object_.contains(key); }

  [[noreturn]] void refuse(const std::string& key, const json& value, const std::string& rule) {
    throw Error(where_ + ": " + key + " = " + shown(value) + ", expected " + rule);
  }

  int64_t integer(const std::string& key, int64_t low, int64_t high,
                  std::optional<int64_t> fallback = std::nullopt) {
    const std::string rule =
        "an integer in [" + std::to_string(low) + ", " + std::to_string(high) + "]";
    const json* value = find(key);
    if (value == nullptr) {
      if (fallback) return *fallback;
      throw Error(where_ + ": " + key + " is missing, expected " + rule);
    }
    return in_range(key, *value, low, high, rule);
  }

  double number(const std::string& key, double above, double high,
                std::optional<double> fallback = std::nullopt) {
    const json limit = high;
    const std::string rule = "a number above " + shown(json(above)) + ", at most " + shown(limit);
    const json* value = find(key);
    if (value == nullptr) {
      if (fallback) return *fallback;
      throw Error(where_ + ": " + key + " is missing, expected " + rule);
    }
    if (!value->is_number()) refuse(key, *value, rule);
    const double number = value->get<double>();
    if (!(number > above && number <= high)) refuse(key, *value, rule);
    return number;
  }

  bool flag(const std::string& key, bool fallback) {
    const json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) refuse(key, *value, "true or false");
    return value->get<bool>();
  }

  // One integer or a list of them.
  std::vector<int32_t> ids(const std::string& key, int64_t vocab_size) {
    const json* value = find(key);
    if (value == nullptr) return {};
    const std::string rule =
        "one id or a list of ids in [0, " + std::to_string(vocab_size) + ") (vocab_size)";
    const json list = value->is_array() ? *value : json::array({*value});
    if (list.size() > 256) refuse(key, *value, "at most 256 ids");
    std::vector<int32_t> result;
    for (const json& id : list) {
      result.push_back(static_cast<int32_t>(in_range(key, id, 0, vocab_size - 1, rule)));
    }
    return result;
  }

  // Throws at a key that nobody asked for, unless it is off (null or false).
  void refuse_unknown_keys() {
    for (const auto& [key, value] : object_.items()) {
      if (known_.count(key) != 0 || value.is_null() || value == json(false)) continue;
      if (std::find(kHarmlessKeys.begin(), kHarmlessKeys.end(), key) != kHarmlessKeys.end())
        continue;
      throw Error(where_ + ": " + shown(key) + " = " + shown(value) +
                  " is not known to this runtime, which therefore cannot say that the model runs "
                  "as intended; remove the key if it has no effect");
    }
  }

  const std::string& where() const { return where_; }

 private:
  int64_t in_range(const std::string& key, const json& value, int64_t low, int64_t high,
                   const std::string& rule) {
    // Unsigned values above int64_t are out of every range, too.
    if (!value.is_number_integer() ||
        (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(high)) ||
        value.get<int64_t>() < low || value.get<int64_t>() > high) {
      refuse(key, value, rule);
    }
    return value.get<int64_t>();
  }

  const json& object_;
  std::string where_;
  std::set<std::string> known_;
};

Architecture read_architecture(Reader& reader) {
  constexpr std::array kAll = {Architecture::kLlama, Architecture::kMistral, Architecture::kQwen2,
                               Architecture::kQwen3};
  const std::string rule =
      "one of [\"LlamaForCausalLM\"], [\"MistralForCausalLM\"], [\"Qwen2ForCausalLM\"], "
      "[\"Qwen3ForCausalLM\"]";
  const json* value = reader.find("architectures");
  if (value == nullptr)
    throw Error(reader.where() + ": architectures is missing, expected " + rule);
  for (const Architecture architecture : kAll) {
    if (*value == json::array({std::string(to_string(architecture))})) return architecture;
  }
  reader.refuse("architectures", *value, rule);
}

// The rope type: `rope_type` today, `type` in older files.
std::string read_rope_type(Reader& rope) {
  std::string type = "default";
  for (const char* key : {"type", "rope_type"}) {
    const json* value = rope.find(key);
    if (value == nullptr) continue;
    if (!value->is_string() || (*value != "default" && *value != "llama3")) {
      rope.refuse(key, *value, "\"default\" or \"llama3\"");
    }
    type = value->get<std::string>();
  }
  return type;
}

RopeConfig read_rope(Reader& reader) {
  constexpr double kMaxTheta = 1e12;
  const json* parameters = reader.find("rope_parameters");
  const json* scaling = reader.find("rope_scaling");
  if (parameters != nullptr && scaling != nullptr && *parameters != *scaling) {
    reader.refuse("rope_scaling", *scaling, "the same as rope_parameters, or only one of them");
  }
  RopeConfig config;
  config.theta = reader.number("rope_theta", 0.0, kMaxTheta, config.theta);
  const json* source = parameters != nullptr ? parameters : scaling;
  if (source == nullptr) return config;

  Reader rope(*source,
              reader.where() + ": " + (parameters != nullptr ? "rope_parameters" : "rope_scaling"));
  config.theta = rope.number("rope_theta", 0.0, kMaxTheta, config.theta);
  if (read_rope_type(rope) == "llama3") {
    config.llama3 = true;
    config.factor = rope.number("factor", 0.0, 1e6);
    config.low_freq_factor = rope.number("low_freq_factor", 0.0, 1e6);
    config.high_freq_factor = rope.number("high_freq_factor", 0.0, 1e6);
    config.original_max_positions =
        rope.integer("original_max_position_embeddings", 1, kMaxPositions);
    if (config.high_freq_factor <= config.low_freq_factor) {
      rope.refuse("high_freq_factor", config.high_freq_factor,
                  "more than low_freq_factor = " + shown(json(config.low_freq_factor)));
    }
  }
  const json* partial = rope.find("partial_rotary_factor");
  if (partial != nullptr && *partial != json(1.0)) {
    rope.refuse("partial_rotary_factor", *partial, "1: only whole heads are rotated");
  }
  rope.refuse_unknown_keys();
  return config;
}

// Whether layer_types has a sliding layer; nothing if there is no layer_types.
std::optional<bool> read_layer_types(Reader& reader, int32_t layers) {
  const json* value = reader.find("layer_types");
  if (value == nullptr) return std::nullopt;
  if (!value->is_array() || value->size() != static_cast<size_t>(layers)) {
    reader.refuse("layer_types", *value,
                  "a list of num_hidden_layers = " + std::to_string(layers) + " names");
  }
  bool sliding = false;
  for (const json& type : *value) {
    if (type == "sliding_attention") {
      sliding = true;
    } else if (type != "full_attention") {
      reader.refuse("layer_types", type, "\"full_attention\" or \"sliding_attention\"");
    }
  }
  return sliding;
}

std::optional<int64_t> read_sliding_window(Reader& reader, Architecture architecture,
                                           int32_t layers) {
  const std::optional<bool> sliding_layers = read_layer_types(reader, layers);
  const bool in_use = reader.flag("use_sliding_window", false);
  const int64_t first_layer = reader.integer("max_window_layers", 0, kMaxLayers, 28);
  std::optional<int64_t> window;
  if (reader.find("sliding_window") != nullptr) {
    window = reader.integer("sliding_window", 1, kMaxPositions);
  } else if (architecture == Architecture::kMistral && !reader.has("sliding_window")) {
    window = 4096;  // what the key's absence means for this architecture; null means none
  }
  switch (architecture) {
    case Architecture::kLlama:
      if (sliding_layers.value_or(false) || window) {
        throw Error(reader.where() +
                    ": sliding_window is set, expected none: LlamaForCausalLM has no sliding "
                    "window layers");
      }
      return std::nullopt;
    case Architecture::kMistral: return sliding_layers.value_or(true) ? window : std::nullopt;
    case Architecture::kQwen2:
    case Architecture::kQwen3: {
      const bool sliding = sliding_layers.value_or(in_use && first_layer < layers);
      if (sliding && !window) window = 4096;  // the architecture's default
      return sliding ? window : std::nullopt;
    }
  }
  return std::nullopt;
}

void read_heads(Reader& reader, ModelConfig& config) {
  config.heads = static_cast<int32_t>(reader.integer("num_attention_heads", 1, kMaxHeads));
  // Files of the Llama family from before grouped heads leave the number out.
  const bool may_be_missing = config.architecture == Architecture::kLlama;
  config.kv_heads = may_be_missing && reader.find("num_key_value_heads") == nullptr
                        ? config.heads
                        : static_cast<int32_t>(reader.integer("num_key_value_heads", 1, kMaxHeads));
  if (config.heads % config.kv_heads != 0) {
    reader.refuse("num_key_value_heads", config.kv_heads,
                  "a divisor of num_attention_heads = " + std::to_string(config.heads));
  }
  int64_t head_dim = config.architecture == Architecture::kQwen3
                         ? 128  // the architecture's default, whatever hidden_size is
                         : config.hidden_size / config.heads;
  if (reader.find("head_dim") == nullptr && config.architecture != Architecture::kQwen3 &&
      config.hidden_size % config.heads != 0) {
    reader.refuse("num_attention_heads", config.heads,
                  "a divisor of hidden_size = " + std::to_string(config.hidden_size) +
                      ", since head_dim is not given");
  }
  head_dim = reader.integer("head_dim", 2, kMaxHeadDim, head_dim);
  if (head_dim % 2 != 0 || head_dim < 2 || head_dim > kMaxHeadDim) {
    reader.refuse("head_dim", head_dim, "an even number in [2, 256]");
  }
  config.head_dim = static_cast<int32_t>(head_dim);
}

void read_biases(Reader& reader, ModelConfig& config) {
  switch (config.architecture) {
    case Architecture::kLlama:
      config.qkv_bias = config.output_bias = reader.flag("attention_bias", false);
      config.mlp_bias = reader.flag("mlp_bias", false);
      break;
    case Architecture::kMistral: break;  // has none: a bias key that is on is refused as unknown
    case Architecture::kQwen2: config.qkv_bias = true; break;
    case Architecture::kQwen3:
      config.qkv_bias = config.output_bias = reader.flag("attention_bias", false);
      config.qk_norm = true;
      break;
  }
}

}  // namespace

std::string_view to_string(Architecture architecture) {
  switch (architecture) {
    case Architecture::kLlama: return "LlamaForCausalLM";
    case Architecture::kMistral: return "MistralForCausalLM";
    case Architecture::kQwen2: return "Qwen2ForCausalLM";
    case Architecture::kQwen3: return "Qwen3ForCausalLM";
  }
  return "unknown";
}

ModelConfig parse_config(const json& config_json, const json& generation_json,
                         const std::string& where) {
  Reader reader(config_json, where);
  ModelConfig config;
  config.architecture = read_architecture(reader);
  if (const json* quantization = reader.find("quantization_config")) {
    reader.refuse("quantization_config", *quantization,
                  "none: quantized weights are not supported, use the f32, f16 or bf16 model");
  }
  config.vocab_size = reader.integer("vocab_size", 1, kMaxVocab);
  config.hidden_size = reader.integer("hidden_size", 1, kMaxHidden);
  config.intermediate_size = reader.integer("intermediate_size", 1, kMaxIntermediate);
  config.layers = static_cast<int32_t>(reader.integer("num_hidden_layers", 1, kMaxLayers));
  config.max_positions = reader.integer("max_position_embeddings", 1, kMaxPositions);
  config.rms_norm_eps = static_cast<float>(reader.number("rms_norm_eps", 0.0, 0.1, 1e-6));
  config.tied_embeddings = reader.flag("tie_word_embeddings", false);
  const json* activation = reader.find("hidden_act");
  if (activation != nullptr && *activation != "silu") {
    reader.refuse("hidden_act", *activation, "\"silu\"");
  }
  read_heads(reader, config);
  read_biases(reader, config);
  config.rope = read_rope(reader);
  config.sliding_window = read_sliding_window(reader, config.architecture, config.layers);
  config.eos_ids = reader.ids("eos_token_id", config.vocab_size);
  reader.refuse_unknown_keys();

  if (!generation_json.is_null()) {
    // The newer of the two places: where it has an eos it replaces config.json's.
    Reader generation(generation_json, "generation_config.json beside " + where);
    if (generation.find("eos_token_id") != nullptr) {
      config.eos_ids = generation.ids("eos_token_id", config.vocab_size);
    }
  }
  return config;
}

ModelConfig load_config(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "config.json";
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored) || !std::filesystem::exists(path, ignored)) {
    throw Error(path.string() +
                ": no such file; expected the folder of a Hugging Face model, with config.json, "
                "tokenizer.json and *.safetensors");
  }
  const std::filesystem::path generation_path = folder / "generation_config.json";
  const json generation = std::filesystem::exists(generation_path, ignored)
                              ? read_json_file(generation_path, kMaxConfigBytes)
                              : json();
  return parse_config(read_json_file(path, kMaxConfigBytes), generation, path.string());
}

void check_length(const ModelConfig& config, int64_t prompt_tokens, int64_t new_tokens) {
  const auto length = [&] {
    return std::to_string(prompt_tokens) + " prompt and " + std::to_string(new_tokens) +
           " new tokens";
  };
  if (prompt_tokens < 0 || new_tokens < 0) {
    throw Error(length() + ": expected counts of 0 or more");
  }
  if (prompt_tokens > config.max_positions || new_tokens > config.max_positions - prompt_tokens) {
    throw Error(length() + " are more than the model's max_position_embeddings = " +
                std::to_string(config.max_positions) + ": shorten the prompt or the answer");
  }
  if (config.sliding_window && prompt_tokens + new_tokens > *config.sliding_window) {
    throw Error(length() + " are more than the model's sliding_window = " +
                std::to_string(*config.sliding_window) +
                ", and sliding window layers are not supported: shorten the prompt or the answer");
  }
}

}  // namespace flexprefill::runtime
