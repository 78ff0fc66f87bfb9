#include "runtime/weights.h"

#include <cassert>
#include <cstring>
#include <initializer_list>
#include <string>

#include "flexprefill/error.h"
#include "src/numeric.h"

namespace flexprefill::runtime {
namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t d = 0; d < shape.size(); ++d) {
    text += (d == 0 ? "" : ", ") + std::to_string(shape[d]);
  }
  return text + "]";
}

// Finds tensors and checks them against the config.
class Loader {
 public:
  Loader(const SafetensorsModel& file, const ModelConfig& config) : file_(file), config_(config) {}

  LayerWeights layer(int32_t index) const {
    const std::string prefix = "model.layers." + std::to_string(index) + ".";
    const std::string attention = prefix + "self_attn.";
    const std::string mlp = prefix + "mlp.";
    const int64_t hidden = config_.hidden_size;
    const int64_t inner = config_.intermediate_size;
    const int64_t q_size = int64_t{config_.heads} * config_.head_dim;
    const int64_t kv_size = int64_t{config_.kv_heads} * config_.head_dim;

    LayerWeights layer;
    layer.attention_norm = vector(prefix + "input_layernorm.weight", hidden);
    layer.qkv = linear({{attention + "q_proj", q_size},
                        {attention + "k_proj", kv_size},
                        {attention + "v_proj", kv_size}},
                       hidden, config_.qkv_bias);
    if (config_.qk_norm) {
      layer.q_norm = vector(attention + "q_norm.weight", config_.head_dim);
      layer.k_norm = vector(attention + "k_norm.weight", config_.head_dim);
    }
    layer.attention_out = linear({{attention + "o_proj", hidden}}, q_size, config_.output_bias);
    layer.mlp_norm = vector(prefix + "post_attention_layernorm.weight", hidden);
    layer.gate_up =
        linear({{mlp + "gate_proj", inner}, {mlp + "up_proj", inner}}, hidden, config_.mlp_bias);
    layer.down = linear({{mlp + "down_proj", hidden}}, inner, config_.mlp_bias);
    return layer;
  }

  const TensorInfo& tensor(const std::string& name, const std::vector<int64_t>& shape) const {
    const TensorInfo* found = file_.find(name);
    if (found == nullptr) {
      throw Error(file_.path().string() + ": tensor " + name + " " + shape_text(shape) +
                  " is missing: config.json describes another model than the weights");
    }
    if (found->shape != shape) {
      throw Error(file_.path().string() + ": tensor " + found->describe() + ", expected shape " +
                  shape_text(shape) + " as config.json says");
    }
    if (found->type != TensorType::kF32 && found->type != TensorType::kF16 &&
        found->type != TensorType::kBF16) {
      throw Error(file_.path().string() + ": tensor " + found->describe() +
                  ", expected type F32, F16 or BF16");
    }
    return *found;
  }

  std::vector<float> vector(const std::string& name, int64_t size) const {
    const TensorInfo& source = tensor(name, {size});
    std::vector<float> values(static_cast<size_t>(size));
    read_elements(source, 0, size, values.data());
    return values;
  }

  struct Part {
    std::string name;  // without .weight or .bias
    int64_t rows;
  };

  // The parts one below the other, [sum of rows, columns].
  Linear linear(std::initializer_list<Part> parts, int64_t columns, bool has_bias) const {
    int64_t total_rows = 0;
    std::vector<float> bias;
    for (const Part& part : parts) {
      tensor(part.name + ".weight", {part.rows, columns});  // checked before memory is taken
      total_rows += part.rows;
      if (!has_bias) {
        refuse(part.name + ".bias");
        continue;
      }
      const std::vector<float> values = vector(part.name + ".bias", part.rows);
      bias.insert(bias.end(), values.begin(), values.end());
    }
    const DType dtype = matmul_dtype();
    Buffer rows(static_cast<size_t>(total_rows * columns * dtype_bytes(dtype)), "weights");
    int64_t first_row = 0;
    for (const Part& part : parts) {
      copy_rows(tensor(part.name + ".weight", {part.rows, columns}), first_row, columns, rows);
      first_row += part.rows;
    }
    return Linear(total_rows, columns, std::move(rows), std::move(bias));
  }

 private:
  // A bias that the config does not announce would be ignored silently.
  void refuse(const std::string& name) const {
    const TensorInfo* found = file_.find(name);
    if (found != nullptr) {
      throw Error(file_.path().string() + ": tensor " + found->describe() +
                  ", expected none: config.json says that this layer has no bias");
    }
  }

  static void copy_rows(const TensorInfo& source, int64_t first_row, int64_t columns,
                        const Buffer& rows) {
    const int64_t num_rows = source.shape[0];
    const bool to_bf16 = matmul_dtype() == DType::kBF16;
    if (to_bf16 && source.type == TensorType::kBF16) {
      std::memcpy(rows.as<uint16_t>() + first_row * columns, source.data, source.bytes);
      return;
    }
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < num_rows; ++r) {
      const int64_t target = (first_row + r) * columns;
      if (!to_bf16) {
        read_elements(source, r * columns, columns, rows.as<float>() + target);
        continue;
      }
      std::vector<float> row(static_cast<size_t>(columns));
      read_elements(source, r * columns, columns, row.data());
      for (int64_t c = 0; c < columns; ++c) {
        rows.as<uint16_t>()[target + c] = internal::float_to_bf16(row[static_cast<size_t>(c)]);
      }
    }
  }

  const SafetensorsModel& file_;
  const ModelConfig& config_;
};

// Elements of a 16-bit type at any address, as the format promises no alignment.
template <typename Convert>
void read_16_bit(const std::byte* data, int64_t count, Convert convert, float* out) {
  for (int64_t n = 0; n < count; ++n) {
    uint16_t bits;
    std::memcpy(&bits, data + n * 2, sizeof(bits));
    out[n] = convert(bits);
  }
}

}  // namespace

void read_elements(const TensorInfo& tensor, int64_t first, int64_t count, float* out) {
  const std::byte* data = tensor.data + first * static_cast<int64_t>(type_bytes(tensor.type));
  switch (tensor.type) {
    case TensorType::kF32:
      std::memcpy(out, data, static_cast<size_t>(count) * sizeof(float));
      return;
    case TensorType::kF16: read_16_bit(data, count, internal::f16_to_float, out); return;
    case TensorType::kBF16: read_16_bit(data, count, internal::bf16_to_float, out); return;
    default: assert(!"Loader::tensor lets floating-point types through only");
  }
}

std::shared_ptr<const ModelWeights> load_weights(const std::filesystem::path& folder,
                                                 const ModelConfig& config) {
  auto weights = std::make_shared<ModelWeights>();
  weights->file = SafetensorsModel::open(folder);
  const Loader loader(weights->file, config);
  const std::vector<int64_t> table = {config.vocab_size, config.hidden_size};
  weights->embedding = &loader.tensor("model.embed_tokens.weight", table);
  weights->final_norm = loader.vector("model.norm.weight", config.hidden_size);
  const std::string next = "model.layers." + std::to_string(config.layers);
  if (weights->file.find(next + ".input_layernorm.weight") != nullptr) {
    throw Error(weights->file.path().string() + ": has tensors of " + next +
                ", expected none: num_hidden_layers = " + std::to_string(config.layers) +
                " in config.json");
  }
  for (int32_t index = 0; index < config.layers; ++index) {
    weights->layers.push_back(loader.layer(index));
  }
  const std::string output = config.tied_embeddings ? "model.embed_tokens" : "lm_head";
  weights->output = loader.linear({{output, config.vocab_size}}, config.hidden_size, false);
  return weights;
}

}  // namespace flexprefill::runtime
