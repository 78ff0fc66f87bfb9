#include "tools/bench/attention.h"

#include <memory>

#include "tools/place.h"

namespace flexprefill::tools {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

double flops_per_pair(const AttentionProblem& problem) {  // q . k and p v, two operations each
  return 2.0 * (problem.kv.k.head_dim + problem.kv.v.head_dim);
}

double exact_causal_flops(const AttentionProblem& problem) {
  const auto q = static_cast<double>(problem.q.tokens), kv = static_cast<double>(kv_len(problem));
  return flops_per_pair(problem) * problem.q.heads * (q * (kv - q) + q * (q + 1) / 2);
}

double blocks_of(const BlockMask& mask) {
  double blocks = 0.0;
  for (int32_t h = 0; h < mask.heads; ++h) blocks += static_cast<double>(kept_blocks(mask, h));
  return blocks;
}

// Keys and values of every block that a query block reads.
double bytes_read(const AttentionProblem& problem, const BlockMask& mask) {
  const HeadView &k = problem.kv.k, &v = problem.kv.v;
  return blocks_of(mask) * kBlock *
         (static_cast<double>(k.head_dim) * dtype_bytes(k.dtype) +
          static_cast<double>(v.head_dim) * dtype_bytes(v.dtype));
}

double key_bytes(const AttentionProblem& problem) {
  const HeadView& k = problem.kv.k;
  return static_cast<double>(k.tokens) * k.heads * k.head_dim * dtype_bytes(k.dtype);
}

// Something that is measured, and the rows that come of it.
class Entry {
 public:
  explicit Entry(const AttentionProblem& problem) : problem_(problem) {}
  virtual ~Entry() = default;
  virtual std::vector<double> run() = 0;
  virtual void add_rows(const Measured& measured, std::vector<Row>& rows) const = 0;

 protected:
  const AttentionProblem& problem_;  // where the backend computes
};

class MaskEntry : public Entry {
 public:
  MaskEntry(const AttentionProblem& problem, double density, const Context& context)
      : Entry(problem), density_(density), workspace_(problem_, Dense{}, context) {
    mask_ = density < 1.0 ? random_mask(problem_, density, bits_) : block_grid(problem_);
    placed_ = placed_mask(mask_, context.backend, placed_bits_);
  }

  std::vector<double> run() override {
    const std::function<void()> parts[] = {
        [&] { attend(problem_, placed_, {}, workspace_.context()); }};
    return seconds_of_parts(workspace_.context().backend, parts);
  }

  void add_rows(const Measured& measured, std::vector<Row>& rows) const override {
    Row row;
    const bool dense = mask_.bits == nullptr;
    row.name = dense ? "dense" : "random " + percent(density_);
    row.seconds = measured.total;
    row.flops = dense ? exact_causal_flops(problem_)
                      : flops_per_pair(problem_) * blocks_of(mask_) * kBlock * kBlock;
    row.flop_count = dense ? "exact-causal" : "whole blocks";
    row.peak = measured.peak;
    row.bytes = bytes_read(problem_, mask_);
    row.computed_share = computed_share(mask_);
    rows.push_back(row);
  }

 private:
  double density_;
  Workspace workspace_;
  std::vector<uint64_t> bits_;
  BlockMask mask_;  // in host memory
  Memory placed_bits_;
  BlockMask placed_;
};

class PolicyEntry : public Entry {
 public:
  PolicyEntry(const AttentionProblem& problem, std::string name, const Policy& policy,
              const Context& context)
      : Entry(problem),
        name_(std::move(name)),
        policy_(policy),
        workspace_(problem_, policy, context) {}

  std::vector<double> run() override {
    const Context& context = workspace_.context();
    const std::function<void()> parts[] = {[&] { plan_ = plan(problem_, policy_, context); },
                                           [&] { attend(problem_, plan_, {}, context); }};
    return seconds_of_parts(context.backend, parts);
  }

  void add_rows(const Measured& measured, std::vector<Row>& rows) const override {
    std::vector<uint64_t> bits;
    const BlockMask mask = host_mask(plan_, workspace_.context(), bits);
    Row planned, attended, total;
    planned.name = "plan " + name_;
    planned.seconds = measured.parts[0];
    planned.bytes = key_bytes(problem_);
    attended.name = "attend " + name_;
    attended.seconds = measured.parts[1];
    attended.flops = flops_per_pair(problem_) * blocks_of(mask) * kBlock * kBlock;
    attended.flop_count = "whole blocks";
    attended.bytes = bytes_read(problem_, mask);
    attended.computed_share = computed_share(mask);
    total.name = "total " + name_;
    total.seconds = measured.total;
    for (Row* row : {&planned, &attended, &total}) {
      row->peak = measured.peak;
      rows.push_back(*row);
    }
  }

 private:
  std::string name_;
  Policy policy_;
  Workspace workspace_;
  Plan plan_;
};

nlohmann::ordered_json fields_of(const Inputs& inputs, const Context& context,
                                 const Backend& backend) {
  const Shape& shape = inputs.shape;
  nlohmann::ordered_json fields = {{"backend", backend.name()},
                                   {"description", backend.description()}};
  if (!on_gpu(&backend)) fields["threads"] = thread_count(context.threads);
  fields.update({{"dtype", to_string(shape.dtype)},
                 {"heads", shape.heads},
                 {"kv_heads", shape.kv_heads},
                 {"head_dim", shape.head_dim},
                 {"v_head_dim", shape.v_head_dim},
                 {"q_len", shape.q_len},
                 {"kv_len", shape.kv_len}});
  return fields;
}

}  // namespace

const Backend& backend_of(const AttentionProblem& problem, const Policy& policy,
                          const Context& context) {
  if (context.backend != nullptr) return *context.backend;
  std::string why;
  for (const Backend* backend : backends()) {
    why = backend->why_not(problem, std::span(&policy, 1), {});
    if (why.empty()) return *backend;
  }
  throw Error("no backend runs this: " + why);
}

CaseResult measure_attention(const Inputs& inputs, const AttentionWork& work, const Setup& setup) {
  Context context = setup.context;
  const Backend& backend = backend_of(inputs.problem, Dense{}, context);
  context.backend = &backend;
  const PlacedProblem placed(inputs.problem, &backend);
  const AttentionProblem& problem = placed.problem();
  std::vector<std::unique_ptr<Entry>> entries;
  if (work.dense) entries.push_back(std::make_unique<MaskEntry>(problem, 1.0, context));
  for (const double density : work.densities)
    entries.push_back(std::make_unique<MaskEntry>(problem, density, context));
  for (const auto& [name, policy] : work.policies) {
    const std::string why = backend.why_not(problem, std::span(&policy, 1), {});
    if (why.empty()) {
      entries.push_back(std::make_unique<PolicyEntry>(problem, name, policy, context));
    } else if (work.policies.size() == 1) {
      throw Error(why);
    }
  }

  std::vector<Work> works;
  works.reserve(entries.size());
  for (const std::unique_ptr<Entry>& entry : entries)
    works.emplace_back([&entry] { return entry->run(); });
  std::optional<Peak> peak;
  if (work.peak) peak = Peak::of(backend, inputs.shape.dtype, context.threads);
  const std::vector<Measured> measured = measure(works, setup.repeats, peak ? &*peak : nullptr);

  CaseResult result{inputs.shape.text(), fields_of(inputs, context, backend), {}};
  for (size_t n = 0; n < entries.size(); ++n) entries[n]->add_rows(measured[n], result.rows);
  const double dense_seconds = work.dense && entries.size() > 1 ? measured[0].total.median : kNaN;
  for (Row& row : result.rows) {
    row.peak_name = peak ? peak->name() : "";
    row.times_dense = row.seconds.median / dense_seconds;
  }
  return result;
}

ThreadComparison compare_threads(const Inputs& inputs, const Setup& setup) {
  Context one = setup.context;
  one.threads = 1;
  MaskEntry single(inputs.problem, 1.0, one), team(inputs.problem, 1.0, setup.context);
  std::vector<std::byte> results[2];
  const std::vector<Work> works = {[&] {
                                     auto parts = single.run();
                                     results[0] = inputs.results();
                                     return parts;
                                   },
                                   [&] {
                                     auto parts = team.run();
                                     results[1] = inputs.results();
                                     return parts;
                                   }};
  const std::vector<Measured> measured = measure(works, setup.repeats, /*peak=*/nullptr);
  return {measured[0].total, measured[1].total, thread_count(setup.context.threads),
          results[0] == results[1]};
}

}  // namespace flexprefill::tools
