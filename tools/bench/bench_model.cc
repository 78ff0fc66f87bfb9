// `flexprefill bench model`: the prefill of a whole model, dense and with a policy.

#include <memory>

#include "tools/bench/bench_commands.h"
#include "tools/bench/bench_options.h"
#include "tools/bench/model_layers.h"
#include "tools/bench/model_prefill.h"
#include "tools/model_run.h"
#include "tools/progress.h"

namespace flexprefill::tools {
namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 24;

struct ModelArguments {
  ModelOptions model;
  MeasureOptions measure;
  int64_t tokens = 0;
};

void bench_model(const ModelArguments& arguments) {
  const Policy policy = arguments.model.policy().policy();
  Setup setup{arguments.model.policy().context(), arguments.measure.repeats()};
  setup.repeats.seconds = 20.0;
  const JsonOutput json(arguments.measure.json());
  const std::vector<int32_t> ids =
      ids_of_text(arguments.model.folder(), arguments.model.prompt(), arguments.tokens);
  arguments.model.check_chunk(policy, static_cast<int64_t>(ids.size()));
  const runtime::Model model = runtime::Model::load(arguments.model.folder());

  ProgressLine progress("bench model");
  ModelWork work;
  work.policy_name = arguments.model.policy().policy_name();
  work.policy = policy;
  work.chunk = arguments.model.chunk();
  work.on_progress = [&](const std::string&, const runtime::Progress& p) { progress.update(p); };
  const ModelResult result = measure_model(model, ids, work, setup);
  progress.finish();
  const std::string title = arguments.model.folder() + ", " + std::to_string(result.tokens) +
                            " tokens in chunks of " + std::to_string(result.chunk) + ", " +
                            describe(policy) + ", " + result.dtypes + "\n";
  report(title + table_of(result).text() + "\n" + notes_of(result),
         nlohmann::ordered_json::array({json_of(result)}), json);
}

}  // namespace

Action add_bench_model(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand(
      "model", "The prefill of a model, dense and with a policy, part by part");
  auto arguments = std::make_shared<ModelArguments>();
  arguments->model.add_to(*command, /*any_prompt=*/false);
  command
      ->add_option("--tokens", arguments->tokens,
                   "Cut or repeat the prompt to this many tokens, [1, " +
                       std::to_string(kMaxTokens) + "]\n(default: the prompt as it is)")
      ->check(within(1, kMaxTokens))
      ->type_name("N");
  arguments->measure.add_to(*command);
  command->footer(
      "Example:\n"
      "  flexprefill bench model --model models/needle-14m --prompt-file "
      "examples/data/rust-book.txt \\\n    --tokens 32768");
  return [arguments] { bench_model(*arguments); };
}

}  // namespace flexprefill::tools
