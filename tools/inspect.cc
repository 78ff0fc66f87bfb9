// `flexprefill inspect`: reads a prompt and draws which blocks every head of every layer computed.

#include <iostream>
#include <memory>
#include <span>

#include "runtime/prompt_masks.h"
#include "tools/commands.h"
#include "tools/format.h"
#include "tools/inspect_page.h"
#include "tools/model_run.h"
#include "tools/output.h"
#include "tools/progress.h"

namespace flexprefill::tools {
namespace {

struct InspectArguments {
  ModelOptions model;
  std::string html;
};

// The text of every block of 128 tokens.
std::vector<std::string> block_texts(const LoadedModel& loaded) {
  const std::span<const int32_t> ids = loaded.ids;
  std::vector<std::string> texts;
  for (size_t first = 0; first < ids.size(); first += kBlock) {
    const size_t tokens = std::min<size_t>(kBlock, ids.size() - first);
    texts.push_back(loaded.tokenizer.decode(ids.subspan(first, tokens), /*skip_special=*/false));
  }
  return texts;
}

void inspect_model(const InspectArguments& arguments) {
  const Policy policy = arguments.model.policy().policy();
  const Context context = arguments.model.policy().context();
  const OutputFile html("--html", arguments.html);
  const std::string prompt = arguments.model.prompt();
  const LoadedModel loaded = load_model(arguments.model.folder(), prompt, /*new_tokens=*/0);
  const auto tokens = static_cast<int64_t>(loaded.ids.size());
  arguments.model.check_chunk(policy, tokens);

  runtime::SessionOptions session_options;
  session_options.capacity = tokens;
  session_options.threads = context.threads;
  session_options.backend = context.backend;
  runtime::Session session(loaded.model, session_options);
  runtime::PromptMasks masks(loaded.model.config(), tokens);
  ProgressLine progress("inspect");
  progress.message("reading " + std::to_string(tokens) + " tokens");
  runtime::PrefillOptions options;
  options.policy = policy;
  options.chunk = arguments.model.chunk();
  options.on_progress = [&](const runtime::Progress& p) { progress.update(p); };
  options.on_plan = [&](const runtime::ChunkPlan& plan) { masks.add(plan); };
  const runtime::PrefillResult result = session.prefill(loaded.ids, options);
  progress.finish();

  InspectData data;
  data.model = arguments.model.folder();
  data.policy = describe(policy);
  data.texts = block_texts(loaded);
  html.write_text(inspect_page(data, result, loaded.model.config(), masks));
  std::cout << arguments.html << ": " << tokens << " tokens, " << loaded.model.config().layers
            << " layers, computed " << percent(result.computed_share) << ", lowest coverage "
            << fixed(result.coverage_min, 4) << ", prefill " << seconds(result.prefill_seconds)
            << "\n";
}

}  // namespace

Action add_inspect(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "inspect", "Draw the block masks of all layers and heads on one HTML page");
  auto arguments = std::make_shared<InspectArguments>();
  arguments->model.add_to(*command, /*any_prompt=*/false);
  command
      ->add_option("--html", arguments->html,
                   "The page: one file that needs nothing else. It holds the prompt's text")
      ->type_name("FILE")
      ->required();
  command->footer(
      "Example:\n"
      "  flexprefill inspect --model models/needle-14m --prompt-file prompt.txt --html masks.html");
  return [arguments] { inspect_model(*arguments); };
}

}  // namespace flexprefill::tools
