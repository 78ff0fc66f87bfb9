#include "runtime/session.h"

#include <algorithm>
#include <cmath>
#include <variant>

#include "runtime/kv_cache.h"
#include "runtime/matmul.h"
#include "runtime/thread_scope.h"
#include "runtime/timer.h"
#include "runtime/transformer.h"
#include "runtime/weights.h"

namespace flexprefill::runtime {
namespace {

// Every chunk is planned from its own last 128 queries. Small chunks find sparser masks but plan
// more often, and the probe rows alone cost 64 / chunk of dense attention; in large chunks most
// rows are far from the queries that chose their blocks, and activations grow with the chunk.
// needle-14m, 32,768 tokens, gamma .9, two Zen 4 cores (docs/runtime.md):
//   chunk        512   1024   2048   4096   8192  16384  32768
//   prefill, s  7.70   5.84   5.13   4.79   5.06   5.35   5.86
//   plan, s     3.27   1.63   0.86   0.48   0.30   0.19   0.14
//   computed    12.5   13.2   13.7   14.3   16.4   18.9   21.8 %
constexpr int64_t kDefaultChunk = 4096;

int64_t rows_of(const Policy& policy, const PrefillOptions& options, int64_t tokens_before,
                int64_t tokens) {
  const auto* flex = std::get_if<FlexPrefill>(&policy);
  const bool whole = flex != nullptr && flex->rule == Rule::kOfficial;
  if (options.chunk < 0) {
    throw Error("chunk = " + std::to_string(options.chunk) +
                ", expected 1 or more tokens, or 0 for the default");
  }
  if (!whole) return options.chunk == 0 ? default_chunk() : options.chunk;
  if (options.chunk != 0 && options.chunk < tokens) {
    throw Error("chunk = " + std::to_string(options.chunk) + ", expected the whole prompt (" +
                std::to_string(tokens) +
                " tokens) or more: Rule::kOfficial is defined for prompts in one chunk");
  }
  if (tokens_before != 0) {
    throw Error("Rule::kOfficial on a session that holds " + std::to_string(tokens_before) +
                " tokens: the rule is defined for whole prompts, clear() the session first");
  }
  return std::max(tokens, options.chunk);
}

// Collects the reports of all layers and chunks into one share and one minimum.
class ReportSummary {
 public:
  void add(std::span<const HeadReport> reports) {
    for (const HeadReport& report : reports) {
      kept_ += report.kept_blocks;
      causal_ += report.causal_blocks;
      coverage_min_ = std::fmin(coverage_min_, report.coverage);  // the number, if one is NaN
    }
  }

  double computed_share() const {
    return causal_ == 0 ? 1.0 : static_cast<double>(kept_) / static_cast<double>(causal_);
  }
  float coverage_min() const { return coverage_min_; }

 private:
  int64_t kept_ = 0;
  int64_t causal_ = 0;
  float coverage_min_ = std::numeric_limits<float>::quiet_NaN();
};

}  // namespace

int64_t default_chunk() { return kDefaultChunk; }

double Progress::fraction() const {
  if (tokens == 0) return 1.0;
  const double current = static_cast<double>(chunk_tokens) * layer / layers;
  return (static_cast<double>(tokens_done) + current) / static_cast<double>(tokens);
}

Model Model::load(const std::filesystem::path& folder) {
  Model model;
  model.config_ = load_config(folder);
  model.weights_ = load_weights(folder, model.config_);
  return model;
}

int64_t Model::weight_bytes() const {
  int64_t total = weights_->output.bytes();
  for (const LayerWeights& layer : weights_->layers) {
    for (const Linear* linear : {&layer.qkv, &layer.attention_out, &layer.gate_up, &layer.down}) {
      total += linear->bytes();
    }
  }
  return total;
}

struct Session::Impl {
  Impl(const Model& source, const SessionOptions& session_options)
      : model(source),
        options(checked(source.config(), session_options)),
        cache(model.config(), options.capacity, *options.cache_dtype),
        transformer(model.config(), model.weights()) {}

  static SessionOptions checked(const ModelConfig& config, SessionOptions options) {
    if (options.capacity < 0 || options.capacity > config.max_positions) {
      throw Error("capacity = " + std::to_string(options.capacity) +
                  " tokens, expected at most the model's max_position_embeddings = " +
                  std::to_string(config.max_positions));
    }
    if (options.capacity == 0) options.capacity = config.max_positions;
    if (options.threads < 0 || options.threads > 4096) {
      throw Error("threads = " + std::to_string(options.threads) + ", expected [0, 4096]");
    }
    if (!options.cache_dtype) options.cache_dtype = default_cache_dtype();
    if (*options.cache_dtype != DType::kF32 && *options.cache_dtype != DType::kF16 &&
        *options.cache_dtype != DType::kBF16) {
      throw Error("cache_dtype = " + std::string(to_string(*options.cache_dtype)) +
                  ", expected f32, f16 or bf16");
    }
    return options;
  }

  static DType default_cache_dtype() {
    return matmul_dtype() == DType::kBF16 ? DType::kBF16 : DType::kF32;
  }

  Context context() const {
    return {workspace.data(), workspace.bytes(), /*stream=*/nullptr, options.threads,
            options.backend};
  }

  void check(std::span<const int32_t> ids) const {
    const auto count = static_cast<int64_t>(ids.size());
    check_length(model.config(), tokens + count, 0);
    if (count > options.capacity - tokens) {
      throw Error(std::to_string(count) + " more tokens, expected at most " +
                  std::to_string(options.capacity - tokens) + ": the session holds " +
                  std::to_string(tokens) + " of capacity = " + std::to_string(options.capacity));
    }
    for (const int32_t id : ids) {
      if (id < 0 || id >= model.config().vocab_size) {
        throw Error("token id " + std::to_string(id) + ", expected [0, " +
                    std::to_string(model.config().vocab_size) + ") (vocab_size)");
      }
    }
  }

  // Room for plan() and attend() on these problems.
  void reserve_workspace(size_t bytes) {
    if (bytes > workspace.bytes()) workspace = Buffer(bytes, "the attention workspace");
  }

  // Most workspace that any chunk of the prompt needs.
  size_t prefill_workspace(const Policy& policy, int64_t count, int64_t chunk) {
    size_t bytes = 0;
    for (int64_t first = 0; first < count; first += chunk) {
      const int64_t q_len = std::min(chunk, count - first);
      const AttentionProblem problem =
          transformer.problem(cache, /*layer=*/0, q_len, tokens + first + q_len);
      bytes = std::max(bytes, workspace_bytes(problem, policy, context()));
    }
    return bytes;
  }

  PrefillResult prefill(std::span<const int32_t> ids, const PrefillOptions& prefill_options);
  void decode(int32_t id);

  Model model;
  SessionOptions options;
  KvCache cache;
  Transformer transformer;
  Buffer workspace;
  int64_t tokens = 0;
};

PrefillResult Session::Impl::prefill(std::span<const int32_t> ids,
                                     const PrefillOptions& prefill_options) {
  check(ids);
  const auto count = static_cast<int64_t>(ids.size());
  if (count == 0) throw Error("prefill of 0 tokens, expected 1 or more");
  const int64_t chunk = rows_of(prefill_options.policy, prefill_options, tokens, count);

  PrefillResult result;
  result.prompt_tokens = count;
  result.chunk = chunk;
  if (prefill_options.losses) result.losses.resize(static_cast<size_t>(count - 1));
  ReportSummary summary;
  {
    const ThreadScope threads(options.threads);
    const ScopedTimer whole(result.prefill_seconds);
    transformer.reserve(std::min(chunk, count));
    reserve_workspace(prefill_workspace(prefill_options.policy, count, chunk));
    for (int64_t first = 0; first < count; first += chunk) {
      const int64_t q_len = std::min(chunk, count - first);
      const int64_t position = tokens + first;
      const auto attend_layer = [&](int32_t layer, const AttentionProblem& problem) {
        Plan planned;
        {
          const ScopedTimer timer(result.parts.plan);
          planned = plan(problem, prefill_options.policy, context());
        }
        summary.add(planned.report());
        result.reports.emplace_back(planned.report().begin(), planned.report().end());
        if (prefill_options.on_plan) {
          prefill_options.on_plan({position, q_len, layer, planned.masks[0], planned.report()});
        }
        {
          const ScopedTimer timer(result.parts.attend);
          attend(problem, planned, {}, context());
        }
        result.backend = planned.backend->name();
        if (prefill_options.on_progress) {
          prefill_options.on_progress({first, count, q_len, layer + 1, model.config().layers});
        }
      };
      Chunk piece;
      piece.ids = ids.subspan(static_cast<size_t>(first), static_cast<size_t>(q_len));
      piece.position = position;
      piece.logits = first + q_len == count;
      if (prefill_options.losses) {
        const auto num_losses = static_cast<size_t>(std::min(q_len, count - 1 - first));
        piece.next_ids = ids.subspan(static_cast<size_t>(first) + 1, num_losses);
        piece.losses = std::span(result.losses).subspan(static_cast<size_t>(first), num_losses);
      }
      transformer.forward(piece, cache, attend_layer, result.parts);
    }
    tokens += count;
  }
  PartSeconds& parts = result.parts;
  parts.rest = std::max(
      0.0, result.prefill_seconds - parts.matmul - parts.plan - parts.attend - parts.pointwise);
  result.computed_share = summary.computed_share();
  result.coverage_min = summary.coverage_min();
  result.cache_bytes = cache.bytes(count);
  result.workspace_bytes = static_cast<int64_t>(workspace.bytes());
  result.dtypes = "matmul " + std::string(to_string(matmul_dtype())) + ", kv cache " +
                  std::string(to_string(cache.dtype()));
  return result;
}

void Session::Impl::decode(int32_t id) {
  check({&id, 1});
  const ThreadScope threads(options.threads);
  const auto attend_layer = [&](int32_t layer, const AttentionProblem& problem) {
    if (layer == 0) reserve_workspace(workspace_bytes(problem, Dense{}, context()));
    attend(problem, block_grid(problem), {}, context());
  };
  Chunk piece;
  piece.ids = {&id, 1};
  piece.position = tokens;
  piece.logits = true;
  PartSeconds unused;
  transformer.forward(piece, cache, attend_layer, unused);
  ++tokens;
}

Session::Session(const Model& model, const SessionOptions& options)
    : impl_(std::make_unique<Impl>(model, options)) {}
Session::~Session() = default;
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;

PrefillResult Session::prefill(std::span<const int32_t> ids, const PrefillOptions& options) {
  return impl_->prefill(ids, options);
}

std::span<const float> Session::decode(int32_t id) {
  impl_->decode(id);
  return logits();
}

std::span<const float> Session::logits() const { return impl_->transformer.logits(); }
int64_t Session::tokens() const { return impl_->tokens; }
int64_t Session::capacity() const { return impl_->options.capacity; }
void Session::clear() { impl_->tokens = 0; }
const ModelConfig& Session::config() const { return impl_->model.config(); }

}  // namespace flexprefill::runtime
