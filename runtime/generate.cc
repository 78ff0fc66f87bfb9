#include "runtime/generate.h"

#include <algorithm>
#include <limits>

#include "runtime/timer.h"

namespace flexprefill::runtime {
namespace {

// Collects the text, hands it on as it comes and finds stop strings across the pieces.
class TextSink {
 public:
  explicit TextSink(const GenerateOptions& options) : options_(options) {}

  // Whether the text now ends at a stop string; what follows it is dropped.
  bool push(std::string_view piece) {
    const size_t before = text_.size();
    text_ += piece;
    size_t end = std::string::npos;
    for (const std::string& stop : options_.stop) {
      const size_t from = before - std::min(before, stop.size() - 1);
      const size_t found = text_.find(stop, from);
      if (found != std::string::npos) end = std::min(end, found + stop.size());
    }
    if (end != std::string::npos) text_.resize(end);
    if (options_.on_text && text_.size() > before) {
      options_.on_text(std::string_view(text_).substr(before));
    }
    return end != std::string::npos;
  }

  std::string take() { return std::move(text_); }

 private:
  const GenerateOptions& options_;
  std::string text_;
};

void check(const Session& session, std::span<const int32_t> prompt,
           const GenerateOptions& options) {
  if (prompt.empty()) throw Error("prompt of 0 tokens, expected 1 or more");
  if (options.max_new_tokens < 0) {
    throw Error("max_new_tokens = " + std::to_string(options.max_new_tokens) +
                ", expected 0 or more");
  }
  for (const std::string& stop : options.stop) {
    if (stop.empty()) throw Error("stop = \"\", expected a string that is not empty");
  }
  check_length(session.config(), session.tokens() + std::ssize(prompt), options.max_new_tokens);
  const int64_t left = session.capacity() - session.tokens();
  if (std::ssize(prompt) + options.max_new_tokens > left) {
    throw Error(std::to_string(std::ssize(prompt)) + " prompt and " +
                std::to_string(options.max_new_tokens) + " new tokens, expected at most " +
                std::to_string(left) + ", which is what the session's capacity = " +
                std::to_string(session.capacity()) + " leaves");
  }
}

}  // namespace

GenerateResult generate(Session& session, const Tokenizer& tokenizer,
                        std::span<const int32_t> prompt, const GenerateOptions& options) {
  check(session, prompt, options);
  Sampler sampler(options.sampler);
  GenerateResult result;
  result.prefill = session.prefill(prompt, options.prefill);

  const std::vector<int32_t>& eos_ids = session.config().eos_ids;
  const auto is_eos = [&](int32_t id) {
    return options.stop_at_eos && std::find(eos_ids.begin(), eos_ids.end(), id) != eos_ids.end();
  };
  TextSink sink(options);
  StreamDecoder decoder(tokenizer, /*skip_special=*/true);
  bool stopped = false;
  while (!stopped && std::ssize(result.ids) < options.max_new_tokens) {
    if (!result.ids.empty()) {
      const ScopedTimer timer(result.decode_seconds);
      session.decode(result.ids.back());
    }
    const int32_t id = sampler.sample(session.logits());
    result.ids.push_back(id);
    if (is_eos(id)) {
      result.stop_reason = StopReason::kEos;
      break;
    }
    stopped = sink.push(decoder.push(id));
    if (stopped) result.stop_reason = StopReason::kStopString;
  }
  if (!stopped) sink.push(decoder.finish());
  result.text = sink.take();
  const int64_t decoded = std::max<int64_t>(std::ssize(result.ids) - 1, 0);
  result.decode_tokens_per_second = decoded == 0
                                        ? std::numeric_limits<double>::quiet_NaN()
                                        : static_cast<double>(decoded) / result.decode_seconds;
  return result;
}

}  // namespace flexprefill::runtime
