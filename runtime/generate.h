#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/sampler.h"
#include "runtime/session.h"
#include "runtime/tokenizer.h"

namespace flexprefill::runtime {

struct GenerateOptions {
  PrefillOptions prefill = {};
  SamplerOptions sampler = {};
  int64_t max_new_tokens = 64;  // >= 0; 0 = prefill only
  std::vector<std::string> stop =
      {};                   // the answer ends after the first of these strings (kept in it)
  bool stop_at_eos = true;  // the eos token itself is not part of the text
  /// Text as it becomes complete characters; the pieces concatenate to GenerateResult::text.
  std::function<void(std::string_view)> on_text = {};
};

enum class StopReason : uint8_t { kEos, kStopString, kMaxNewTokens };

struct GenerateResult {
  std::string text;          // the answer, special tokens left out
  std::vector<int32_t> ids;  // generated tokens, the eos included
  StopReason stop_reason = StopReason::kMaxNewTokens;
  PrefillResult prefill;
  double decode_seconds = 0.0;
  /// Tokens per second of decode(); NaN when no token was decoded (the first comes from prefill).
  double decode_tokens_per_second = 0.0;
};

/// Prefills `session` (usually empty) with the prompt and generates an answer. Throws Error before
/// any work if the prompt is empty or prompt and answer together exceed the model's positions.
///
///   const Model model = Model::load("models/needle-14m");
///   const Tokenizer tokenizer = Tokenizer::load("models/needle-14m");
///   const auto ids = tokenizer.encode(text, /*add_special_tokens=*/true);
///   Session session(model, {.capacity = std::ssize(ids) + 64});
///   const auto result = generate(session, tokenizer, ids, {.prefill = {.policy = FlexPrefill{}}});
GenerateResult generate(Session& session, const Tokenizer& tokenizer,
                        std::span<const int32_t> prompt, const GenerateOptions& options);

}  // namespace flexprefill::runtime
