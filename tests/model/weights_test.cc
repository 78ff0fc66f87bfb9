// Weight files that do not fit the config are refused, naming the tensor.

#include <gmock/gmock.h>
#include <unistd.h>

#include <fstream>
#include <functional>

#include "runtime/safetensors.h"
#include "runtime/session.h"
#include "tests/model/model_files.h"

namespace flexprefill::runtime {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class Weights : public testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        std::filesystem::path(testing::TempDir()) / ("weights_test_" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
    config_ = read_data("qwen2/config.json");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // Writes the qwen2 model with its tensors changed by `edit` and loads it.
  Model load(const std::function<void(std::vector<TensorToWrite>&)>& edit) {
    const SafetensorsFile source(kData / "qwen2/model.safetensors");
    std::vector<TensorToWrite> tensors;
    for (const TensorInfo& tensor : source.tensors()) {
      tensors.push_back({tensor.name, tensor.type, tensor.shape, tensor.data});
    }
    edit(tensors);
    write_safetensors(folder_ / "model.safetensors", tensors);
    std::ofstream(folder_ / "config.json") << config_;
    return Model::load(folder_);
  }

  static TensorToWrite& named(std::vector<TensorToWrite>& tensors, const std::string& name) {
    for (TensorToWrite& tensor : tensors) {
      if (tensor.name == name) return tensor;
    }
    throw Error("the fixture has no tensor " + name);
  }

  std::filesystem::path folder_;
  nlohmann::json config_;
};

TEST_F(Weights, UnchangedCopyLoads) {
  const Model model = load([](auto&) {});
  EXPECT_GT(model.weight_bytes(), 0);
}

TEST_F(Weights, MissingTensorIsNamed) {
  for (const char* name : {"model.norm.weight", "model.layers.1.mlp.up_proj.weight",
                           "model.layers.0.self_attn.k_proj.bias", "model.embed_tokens.weight"}) {
    const std::string message = error_of([&] {
      load([&](auto& tensors) {
        std::erase_if(tensors, [&](const TensorToWrite& tensor) { return tensor.name == name; });
      });
    });
    EXPECT_THAT(message, AllOf(HasSubstr(name), HasSubstr("missing")));
  }
}

TEST_F(Weights, WrongShapeIsNamedWithTheExpectedOne) {
  const std::string message = error_of([&] {
    load([](auto& tensors) {
      named(tensors, "model.layers.0.mlp.down_proj.weight").shape = {80, 48};
    });
  });
  EXPECT_THAT(message, AllOf(HasSubstr("model.layers.0.mlp.down_proj.weight"),
                             HasSubstr("[80, 48]"), HasSubstr("[48, 80]")));
}

TEST_F(Weights, IntegerWeightsAreRefused) {
  const std::string message = error_of([&] {
    load([](auto& tensors) {
      named(tensors, "model.layers.0.input_layernorm.weight").type = TensorType::kI16;
    });
  });
  EXPECT_THAT(message, AllOf(HasSubstr("input_layernorm"), HasSubstr("I16"), HasSubstr("BF16")));
}

TEST_F(Weights, UntiedModelNeedsAnOutputLayer) {
  config_["tie_word_embeddings"] = false;
  EXPECT_THAT(error_of([&] { load([](auto&) {}); }), HasSubstr("lm_head.weight"));
}

TEST_F(Weights, MoreLayersThanTheConfigSaysAreRefused) {
  config_["num_hidden_layers"] = 1;
  EXPECT_THAT(error_of([&] { load([](auto&) {}); }),
              AllOf(HasSubstr("model.layers.1"), HasSubstr("num_hidden_layers = 1")));
}

TEST_F(Weights, BiasThatTheConfigDoesNotAnnounceIsRefused) {
  config_["architectures"] = {"LlamaForCausalLM"};
  EXPECT_THAT(error_of([&] { load([](auto&) {}); }), HasSubstr("q_proj.bias"));
}

TEST_F(Weights, HugeConfigIsRefusedBeforeMemoryIsTaken) {
  config_["intermediate_size"] = 1 << 20;
  EXPECT_THAT(error_of([&] { load([](auto&) {}); }), HasSubstr("1048576"));
}

TEST_F(Weights, PromptLongerThanTheWindowIsRefused) {
  config_["use_sliding_window"] = true;
  config_["sliding_window"] = 64;
  config_["max_window_layers"] = 0;
  Session session(load([](auto&) {}), {});
  const std::vector<int32_t> ids(65, 3);
  EXPECT_THAT(error_of([&] { session.prefill(ids, {}); }), HasSubstr("sliding_window = 64"));
  EXPECT_NO_THROW(session.prefill(std::span(ids).first(64), {}));
  EXPECT_THAT(error_of([&] { session.decode(3); }), HasSubstr("sliding_window = 64"));
}

TEST_F(Weights, MissingFolderIsNamed) {
  EXPECT_THAT(error_of([] { Model::load("/no/such/model"); }), HasSubstr("/no/such/model"));
}

}  // namespace
}  // namespace flexprefill::runtime
