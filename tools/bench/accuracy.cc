#include "tools/bench/accuracy.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "src/numeric.h"

namespace flexprefill::tools {
namespace {

constexpr int64_t kProbabilities = 256;  // keys of the problem that shows P: the widest v head

struct Result {
  std::vector<float> out;  // [q_len, heads, v_head_dim]
  std::vector<float> lse;  // [heads, q_len]
};

const Backend& reference() {
  const Backend* backend = find_backend("ref");
  if (backend == nullptr)
    throw Error("the accuracy is measured against the backend ref; unset FLEXPREFILL_BACKEND");
  return *backend;
}

Result run(AttentionProblem problem, const AttendOptions& options, Context context) {
  Result result;
  const int32_t head_dim = problem.kv.v.head_dim;
  result.out.resize(static_cast<size_t>(problem.q.tokens * problem.q.heads * head_dim));
  result.lse.resize(static_cast<size_t>(problem.q.tokens * problem.q.heads));
  problem.out =
      head_view(result.out.data(), DType::kF32, problem.q.tokens, problem.q.heads, head_dim);
  problem.lse = result.lse.data();
  std::vector<std::byte> workspace(workspace_bytes(problem, Dense{}, context));
  context.workspace = workspace.data();
  context.workspace_bytes = workspace.size();
  attend(problem, block_grid(problem), options, context);
  return result;
}

Result run_reference(const AttentionProblem& problem) {
  Context context;
  context.backend = &reference();
  return run(problem, {.accumulate_f64 = true}, context);
}

double rms_of(const std::vector<float>& values) {
  double sum = 0.0;
  for (const float value : values) sum += double{value} * value;
  return std::sqrt(sum / static_cast<double>(std::max<size_t>(1, values.size())));
}

ErrorSize error_of(const std::vector<float>& actual, const std::vector<float>& expected) {
  ErrorSize error;
  double sum = 0.0;
  for (size_t n = 0; n < actual.size(); ++n) {
    const double difference = std::abs(double{actual[n]} - double{expected[n]});
    // A NaN must not hide: it makes both figures NaN.
    if (!std::isnan(error.max) && !(difference <= error.max)) error.max = difference;
    sum += difference * difference;
  }
  error.rms =
      std::sqrt(sum / static_cast<double>(std::max<size_t>(1, actual.size()))) / rms_of(expected);
  return error;
}

// The first `count` tokens from `first` on as floats, [count, heads, head_dim].
std::vector<float> values_of(const HeadView& view, int64_t first, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count * view.heads * view.head_dim));
  float* row = values.data();
  for (int64_t t = first; t < first + count; ++t)
    for (int32_t h = 0; h < view.heads; ++h, row += view.head_dim)
      internal::load_row(view, t, h, row);
  return values;
}

Inputs rounded(const Inputs& exact, DType dtype) {
  Shape shape = exact.shape;
  shape.dtype = dtype;
  const AttentionProblem& problem = exact.problem;
  return Inputs(shape, values_of(problem.q, 0, shape.q_len),
                values_of(problem.kv.k, 0, shape.kv_len), values_of(problem.kv.v, 0, shape.kv_len));
}

// The last queries on the first keys, with v = unit vectors: the output is P itself.
Inputs probability_problem(const Inputs& exact, DType dtype) {
  Shape shape = exact.shape;
  shape.dtype = dtype;
  const int64_t count = std::min({kProbabilities, shape.q_len, shape.kv_len});
  shape.q_len = shape.kv_len = count;
  shape.v_head_dim = static_cast<int32_t>(count);
  std::vector<float> v(static_cast<size_t>(count * shape.kv_heads * count));
  for (int64_t t = 0; t < count; ++t)
    for (int32_t g = 0; g < shape.kv_heads; ++g)
      v[static_cast<size_t>((t * shape.kv_heads + g) * count + t)] = 1.0f;
  return Inputs(shape, values_of(exact.problem.q, exact.shape.q_len - count, count),
                values_of(exact.problem.kv.k, 0, count), v);
}

std::string scientific(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1e", value);
  return text;
}

}  // namespace

Accuracy measure_accuracy(const std::string& data, const Inputs& exact, DType dtype,
                          const Context& context) {
  Accuracy accuracy;
  accuracy.data = data;
  accuracy.dtype = dtype;
  const Inputs inputs = rounded(exact, dtype);
  const Result actual = run(inputs.problem, {}, context);
  const Result expected = run_reference(inputs.problem);
  const Result unrounded = dtype == DType::kF32 ? expected : run_reference(exact.problem);
  accuracy.out = error_of(actual.out, expected.out);
  accuracy.lse = error_of(actual.lse, expected.lse);
  accuracy.out_exact = error_of(actual.out, unrounded.out);
  accuracy.lse_exact = error_of(actual.lse, unrounded.lse);
  const Inputs probabilities = probability_problem(exact, dtype);
  accuracy.p_max = error_of(run(probabilities.problem, {}, context).out,
                            run_reference(probabilities.problem).out)
                       .max;
  return accuracy;
}

Table table_of(const std::vector<Accuracy>& rows) {
  Table table;
  table.add_row({"data", "dtype", "O max", "O rms", "LSE max", "P max", "O max, exact inputs",
                 "O rms, exact inputs", "LSE max, exact inputs"});
  for (const Accuracy& row : rows)
    table.add_row({row.data, std::string(to_string(row.dtype)), scientific(row.out.max),
                   scientific(row.out.rms), scientific(row.lse.max), scientific(row.p_max),
                   scientific(row.out_exact.max), scientific(row.out_exact.rms),
                   scientific(row.lse_exact.max)});
  return table;
}

std::string accuracy_notes() {
  return "Errors against the backend ref in fp64: max is the largest absolute one, rms the "
         "relative "
         "root\nmean square. The first columns compare on the same q, k, v in the dtype named, the "
         "last three on\nthe fp32 values that these were rounded from. P is seen through values "
         "that are unit vectors.\n";
}

nlohmann::ordered_json json_of(const Accuracy& row) {
  return {{"data", row.data},
          {"dtype", to_string(row.dtype)},
          {"out_max", row.out.max},
          {"out_rms", row.out.rms},
          {"lse_max", row.lse.max},
          {"lse_rms", row.lse.rms},
          {"p_max", row.p_max},
          {"out_max_exact", row.out_exact.max},
          {"out_rms_exact", row.out_exact.rms},
          {"lse_max_exact", row.lse_exact.max},
          {"lse_rms_exact", row.lse_exact.rms}};
}

}  // namespace flexprefill::tools
