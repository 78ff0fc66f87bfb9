// `flexprefill run`: a model reads a prompt and answers; with --compare twice, dense first.

#include <iostream>
#include <memory>

#include "runtime/generate.h"
#include "tools/commands.h"
#include "tools/model_run.h"
#include "tools/output.h"
#include "tools/progress.h"
#include "tools/run_report.h"

namespace flexprefill::tools {
namespace {

struct RunArguments {
  ModelOptions model;
  runtime::SamplerOptions sampler;
  std::vector<std::string> stop;
  int64_t max_new_tokens = 64;
  bool compare = false;
  std::string json;
};

// What a shell without $'\n' can write: \n, \t and a doubled backslash.
std::string unescape(const std::string& text) {
  std::string result;
  for (size_t n = 0; n < text.size(); ++n) {
    const char next = text[n] == '\\' && n + 1 < text.size() ? text[n + 1] : '\0';
    if (next != 'n' && next != 't' && next != '\\') {
      result += text[n];
      continue;
    }
    result += next == 'n' ? '\n' : next == 't' ? '\t' : '\\';
    ++n;
  }
  return result;
}

// The sampler knows its ranges; asking it early turns its message into a usage error.
void check_sampler(const runtime::SamplerOptions& options) {
  try {
    const runtime::Sampler sampler(options);
  } catch (const Error& e) {
    const bool top_p = std::string(e.what()).find("top_p") != std::string::npos;
    throw UsageError(std::string(top_p ? "--top-p: " : "--temperature: ") + e.what());
  }
}

class Runner {
 public:
  Runner(const RunArguments& arguments, const Context& context, LoadedModel loaded, bool print_text)
      : arguments_(arguments),
        loaded_(std::move(loaded)),
        session_(loaded_.model, session_options(arguments, context, loaded_)),
        print_text_(print_text) {}

  // The first prefill of a process also pays for page faults and for building the matrix products;
  // a comparison should not charge that to whoever comes first.
  void warm_up() {
    const size_t tokens = std::min<size_t>(loaded_.ids.size(), 256);
    session_.prefill(std::span(loaded_.ids).first(tokens), {});
    session_.clear();
  }

  PolicyRun run(const std::string& name, const Policy& policy) {
    session_.clear();
    ProgressLine progress(name);
    progress.message("reading " + std::to_string(loaded_.ids.size()) + " tokens");
    bool answering = false;
    runtime::GenerateOptions options;
    options.prefill.policy = policy;
    options.prefill.chunk = arguments_.model.chunk();
    options.prefill.on_progress = [&](const runtime::Progress& p) { progress.update(p); };
    options.sampler = arguments_.sampler;
    options.max_new_tokens = arguments_.max_new_tokens;
    options.stop = arguments_.stop;
    options.on_text = [&](std::string_view text) {
      if (!answering) begin_answer(name, progress);
      answering = true;
      if (print_text_) std::cout << text << std::flush;
    };
    PolicyRun run{name, runtime::generate(session_, loaded_.tokenizer, loaded_.ids, options)};
    if (!answering) begin_answer(name, progress);
    const std::string& text = run.result.text;
    if (print_text_ && (text.empty() || text.back() != '\n')) std::cout << std::endl;
    return run;
  }

 private:
  static runtime::SessionOptions session_options(const RunArguments& arguments,
                                                 const Context& context,
                                                 const LoadedModel& loaded) {
    runtime::SessionOptions options;
    options.capacity = static_cast<int64_t>(loaded.ids.size()) + arguments.max_new_tokens;
    options.threads = context.threads;
    options.backend = context.backend;
    return options;
  }

  void begin_answer(const std::string& name, ProgressLine& progress) const {
    progress.finish();
    if (print_text_ && arguments_.compare) std::cout << name << ": " << std::flush;
  }

  const RunArguments& arguments_;
  LoadedModel loaded_;
  runtime::Session session_;
  bool print_text_;
};

void run_model(const RunArguments& arguments) {
  const Policy policy = arguments.model.policy().policy();
  const std::string& policy_name = arguments.model.policy().policy_name();
  const Context context = arguments.model.policy().context();
  arguments.model.check_one_prompt();
  check_sampler(arguments.sampler);
  if (arguments.compare && policy_name == "dense")
    throw UsageError("--compare sets a policy against dense; name another one with --policy");
  const JsonOutput json(arguments.json);
  const std::string prompt = arguments.model.prompt();

  LoadedModel loaded = load_model(arguments.model.folder(), prompt, arguments.max_new_tokens);
  arguments.model.check_chunk(policy, static_cast<int64_t>(loaded.ids.size()));
  Runner runner(arguments, context, std::move(loaded), /*print_text=*/!json.to_stdout());
  std::vector<PolicyRun> runs;
  if (arguments.compare) {
    runner.warm_up();
    runs.push_back(runner.run("dense", Dense{}));
  }
  runs.push_back(runner.run(policy_name, policy));
  // stdout is the answer's alone, unless the comparison is what was asked for.
  const bool table_on_stdout = arguments.compare && !json.to_stdout();
  (table_on_stdout ? std::cout : std::cerr) << "\n" << run_table(runs);
  json.write(run_json(runs));
}

}  // namespace

Action add_run(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("run", "Read a prompt with a model and answer it; --compare with dense");
  auto arguments = std::make_shared<RunArguments>();
  arguments->model.add_to(*command, /*any_prompt=*/true);
  command
      ->add_option("--max-new-tokens", arguments->max_new_tokens,
                   "Length of the answer at most; 0 reads the prompt only")
      ->check(at_least(0))
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option("--stop", arguments->stop,
                   "End the answer after this text (\\n and \\t are understood); may be repeated")
      ->type_name("TEXT")
      ->expected(1)
      ->take_all();
  command
      ->add_option("--temperature", arguments->sampler.temperature,
                   "At least 0; 0 always takes the likeliest token")
      ->type_name("T")
      ->capture_default_str();
  command
      ->add_option("--top-p", arguments->sampler.top_p,
                   "Sample from the fewest tokens that hold this probability, in (0, 1]")
      ->type_name("P")
      ->capture_default_str();
  command->add_option("--seed", arguments->sampler.seed, "Of the sampling")
      ->type_name("N")
      ->capture_default_str();
  command->add_flag("--compare", arguments->compare,
                    "Run dense first, then the policy, and show both side by side");
  command
      ->add_option("--json", arguments->json,
                   "Write text and measurements there; - is stdout, which then has nothing else")
      ->type_name("FILE|-");
  command->footer(
      "The answer goes to stdout as it comes; progress and the table go to stderr (with --compare\n"
      "the table goes to stdout).\n\n"
      "Examples:\n"
      "  flexprefill run --model models/needle-14m --prompt-file prompt.txt --stop '\\n'\n"
      "  flexprefill run --model models/needle-14m --compare --gamma 0.95 --json - < prompt.txt -");
  return [arguments] {
    for (std::string& text : arguments->stop) text = unescape(text);
    run_model(*arguments);
  };
}

}  // namespace flexprefill::tools
