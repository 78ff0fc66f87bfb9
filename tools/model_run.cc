#include "tools/model_run.h"

#include <iostream>

#include "runtime/config.h"
#include "runtime/utf8.h"
#include "tools/commands.h"
#include "tools/output.h"

namespace flexprefill::tools {

void ModelOptions::add_to(CLI::App& app, bool any_prompt) {
  app_ = &app;
  app.add_option("--model", folder_,
                 "Hugging Face model folder: config.json, tokenizer.json, *.safetensors")
      ->type_name("DIR")
      ->required();
  const char* group = any_prompt ? "Prompt (exactly one of these)" : "Prompt";
  auto* file =
      app.add_option("--prompt-file", prompt_file_, "Read the prompt from a file (- is stdin)")
          ->type_name("FILE")
          ->group(group);
  if (any_prompt) {
    app.add_option("--prompt", prompt_, "The prompt itself")->type_name("TEXT")->group(group);
    app.add_option("stdin", dash_, "A lone - reads the prompt from stdin")->type_name("-");
  } else {
    file->required();
  }
  app.add_option("--chunk", chunk_,
                 "Tokens that are read at a time, at least 1 (default " +
                     std::to_string(runtime::default_chunk()) +
                     ";\nthe whole prompt for --rule official)")
      ->check(at_least(1))
      ->type_name("N");
  policy_.add_to(app);
}

void ModelOptions::check_one_prompt() const {
  if (!dash_.empty() && dash_ != "-")
    throw UsageError(dash_ +
                     " was not expected; the prompt is --prompt TEXT or --prompt-file FILE");
  std::string given;
  int count = 0;
  for (const char* name : {"--prompt-file", "--prompt", "stdin"}) {
    const CLI::Option* option = app_->get_option_no_throw(name);
    if (option == nullptr || option->count() == 0) continue;
    given += std::string(count++ == 0 ? "" : " and ") + (name[0] == '-' ? name : "-");
  }
  if (count == 0)
    throw UsageError("no prompt: give one of --prompt TEXT, --prompt-file FILE or - (stdin)");
  if (count > 1) throw UsageError(given + ": give one prompt only");
}

std::string ModelOptions::prompt() const {
  std::string text;
  if (app_->count("--prompt-file") > 0) {
    text = read_text("--prompt-file", prompt_file_);
  } else {
    text = dash_ == "-" ? read_text("-", "-") : prompt_;
  }
  if (runtime::to_valid_utf8(text) != text)
    std::cerr << "flexprefill: the prompt is not valid UTF-8; bad bytes are read as U+FFFD\n";
  return text;
}

void ModelOptions::check_chunk(const Policy& policy, int64_t prompt_tokens) const {
  const auto* flex = std::get_if<FlexPrefill>(&policy);
  if (flex == nullptr || flex->rule != Rule::kOfficial || chunk_ == 0) return;
  if (chunk_ < prompt_tokens)
    throw UsageError("--chunk " + std::to_string(chunk_) +
                     ": --rule official is defined for the whole prompt only, " +
                     std::to_string(prompt_tokens) + " tokens; leave --chunk out");
}

LoadedModel load_model(const std::string& folder, const std::string& prompt, int64_t new_tokens) {
  const runtime::ModelConfig config = runtime::load_config(folder);
  runtime::Tokenizer tokenizer = runtime::Tokenizer::load(folder);
  std::vector<int32_t> ids = tokenizer.encode(prompt, /*add_special_tokens=*/true);
  if (ids.empty())
    throw Error("the prompt is empty and the tokenizer adds no token; write a prompt");
  runtime::check_length(config, static_cast<int64_t>(ids.size()), new_tokens);
  return {runtime::Model::load(folder), std::move(tokenizer), std::move(ids)};
}

}  // namespace flexprefill::tools
