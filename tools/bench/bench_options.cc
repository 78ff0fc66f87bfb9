#include "tools/bench/bench_options.h"

#include "runtime/session.h"
#include "tools/bench/model_layers.h"
#include "tools/commands.h"
#include "tools/output.h"
#include "tools/place.h"

namespace flexprefill::tools {
namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 24;
constexpr int kMaxRepeats = 1000;

CLI::Option* add_count(CLI::App& app, const std::string& name, auto& value, int64_t most,
                       const std::string& help) {
  return app.add_option(name, value, help + ", [1, " + std::to_string(most) + "]")
      ->check(within(1, most))
      ->type_name("N")
      ->capture_default_str()
      ->group("Problem");
}

}  // namespace

void ProblemOptions::add_to(CLI::App& app) {
  app_ = &app;
  add_count(app, "--heads", shape_.heads, 1024, "Query heads, a multiple of --kv-heads");
  add_count(app, "--kv-heads", shape_.kv_heads, 1024, "Key and value heads");
  add_count(app, "--head-dim", shape_.head_dim, 256, "Channels of a query and key head");
  add_count(app, "--v-head-dim", shape_.v_head_dim, 256,
            "Channels of a value head (default --head-dim)")
      ->default_str("");
  add_count(app, "--q-len", shape_.q_len, kMaxTokens, "Queries: the last tokens");
  add_count(app, "--kv-len", shape_.kv_len, kMaxTokens, "Keys, --q-len or more (default --q-len)")
      ->default_str("");
  app.add_option("--dtype", dtype_, "bf16, f16 or f32: q, k, v and the output")
      ->check(CLI::IsMember({"bf16", "f16", "f32"}))
      ->type_name("TYPE")
      ->capture_default_str()
      ->group("Problem");
  app.add_option("--data", data_,
                 "normal: random; structured: like trained heads, with liked keys and decay;\n"
                 "peaky: random, scores up to +-25")
      ->check(CLI::IsMember({"normal", "structured", "peaky"}))
      ->type_name("NAME")
      ->capture_default_str()
      ->group("Problem");
  app.add_option("--model", model_,
                 "Instead of --data: q, k, v of the layers of this model for a text, repeated\n"
                 "if it is shorter than --kv-len. With --heads or --kv-heads one case that takes\n"
                 "so many heads evenly from its layers")
      ->type_name("DIR")
      ->group("Problem");
  app.add_option("--prompt-file", prompt_file_, "The text that --model reads (- is stdin)")
      ->type_name("FILE")
      ->group("Problem");
  app.add_option("--layer", layer_, "One layer of --model (default all, one case each)")
      ->check(at_least(0))
      ->type_name("N")
      ->group("Problem");
}

Shape ProblemOptions::shape() const {
  Shape shape = shape_;
  if (app_->count("--v-head-dim") == 0) shape.v_head_dim = shape.head_dim;
  if (app_->count("--kv-len") == 0) shape.kv_len = shape.q_len;
  shape.dtype = dtype_ == "f32" ? DType::kF32 : dtype_ == "f16" ? DType::kF16 : DType::kBF16;
  return shape;
}

void ProblemOptions::check() const {
  const Shape wanted = shape();
  if (wanted.heads % wanted.kv_heads != 0)
    throw UsageError("--heads " + std::to_string(wanted.heads) +
                     ", expected a multiple of --kv-heads " + std::to_string(wanted.kv_heads));
  if (wanted.kv_len < wanted.q_len)
    throw UsageError("--kv-len " + std::to_string(wanted.kv_len) +
                     ", expected --q-len or more, which is " + std::to_string(wanted.q_len));
  if (app_->count("--model") == 0) {
    for (const char* name : {"--prompt-file", "--layer"})
      if (app_->count(name) > 0)
        throw UsageError(std::string(name) + " belongs to --model, which is not given");
    return;
  }
  for (const char* name : {"--head-dim", "--v-head-dim", "--data"})
    if (app_->count(name) > 0)
      throw UsageError(std::string(name) + ": --model brings its own; give one of the two");
  if (app_->count("--prompt-file") == 0)
    throw UsageError("--model needs --prompt-file, the text that the model reads");
}

void ProblemOptions::for_each(
    const Context& context,
    const std::function<void(const std::string&, const Inputs&)>& visit) const {
  if (app_->count("--model") > 0) return for_each_layer(context, visit);
  const Data data = data_ == "peaky"        ? Data::kPeaky
                    : data_ == "structured" ? Data::kStructured
                                            : Data::kNormal;
  visit(shape().text() + ", " + data_, Inputs(shape(), data));
}

void ProblemOptions::for_each_layer(
    const Context& context,
    const std::function<void(const std::string&, const Inputs&)>& visit) const {
  const Shape wanted = shape();
  const std::string text = read_text("--prompt-file", prompt_file_);
  const runtime::Model model = runtime::Model::load(model_);
  if (layer_ >= model.config().layers)
    throw UsageError("--layer " + std::to_string(layer_) + ", expected a layer of the model, [0, " +
                     std::to_string(model.config().layers - 1) + "]");
  Context host = context;  // the model runs on the CPU, wherever its tensors are measured
  if (on_gpu(host.backend)) host.backend = nullptr;
  const std::vector<int32_t> ids = ids_of_text(model_, text, /*tokens=*/0);
  const std::string repeated =
      static_cast<int64_t>(ids.size()) < wanted.kv_len ? ", text repeated" : "";
  const ModelLayers layers(model, fitted(ids, wanted.kv_len), host);
  const auto visit_as = [&](const std::string& heads, const Inputs& inputs) {
    visit(inputs.shape.text() + ", " + heads + repeated, inputs);
  };
  const bool one = app_->count("--layer") > 0;
  if (app_->count("--heads") + app_->count("--kv-heads") > 0) {
    const auto layer = one ? std::optional(layer_) : std::nullopt;
    visit_as("heads of " + (one ? "layer " + std::to_string(layer_) : "all layers"),
             layers.stacked(wanted, layer));
    return;
  }
  for (int32_t layer = 0; layer < layers.count(); ++layer) {
    if (one && layer != layer_) continue;
    visit_as("layer " + std::to_string(layer),
             layers.inputs(layer, wanted.q_len, wanted.kv_len, wanted.dtype));
  }
}

void MeasureOptions::add_to(CLI::App& app) {
  app.add_option("--repeats", repeats_,
                 "Runs after the warm-up, [1, " + std::to_string(kMaxRepeats) +
                     "] (default 3 to 15, as many as take 2 s)")
      ->check(within(1, kMaxRepeats))
      ->type_name("N");
  app.add_option("--json", json_,
                 "Write the measurements there; - is stdout, which then has\n"
                 "nothing else")
      ->type_name("FILE|-");
}

Repeats MeasureOptions::repeats() const {
  Repeats repeats;
  repeats.count = repeats_;
  return repeats;
}

}  // namespace flexprefill::tools
