// `flexprefill attend`: plan() and attend() on the tensors q, k, v of a safetensors file.

#include <cmath>
#include <cstring>
#include <functional>
#include <iostream>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "flexprefill/flexprefill.h"
#include "runtime/safetensors.h"
#include "tools/attend_report.h"
#include "tools/commands.h"
#include "tools/options.h"
#include "tools/output.h"
#include "tools/place.h"
#include "tools/signals.h"

namespace flexprefill::tools {
namespace {

using runtime::SafetensorsFile;
using runtime::TensorInfo;
using runtime::TensorType;

struct AttendArguments {
  std::string input;
  std::string output;
  std::string json;
  bool check = false;
  int64_t q_start = 0;
  float softmax_scale = 0.0f;
  PolicyOptions policy;
  const CLI::App* app = nullptr;
};

DType dtype_of(const SafetensorsFile& file, const TensorInfo& tensor) {
  switch (tensor.type) {
    case TensorType::kF32: return DType::kF32;
    case TensorType::kF16: return DType::kF16;
    case TensorType::kBF16: return DType::kBF16;
    default:
      throw Error(file.path().string() + ": tensor " + tensor.describe() +
                  ", expected F32, F16 or BF16; convert it");
  }
}

// A tensor of the file as the library reads it.
struct InputTensor {
  HeadView view;               // [tokens, heads, head_dim]
  std::vector<uint64_t> copy;  // holds the data where the file's is not aligned to the element
};

InputTensor load(const SafetensorsFile& file, const std::string& name) {
  constexpr int64_t kMax32 = std::numeric_limits<int32_t>::max();
  const TensorInfo& tensor = file.at(name);
  if (tensor.shape.size() != 3 || tensor.shape[1] > kMax32 || tensor.shape[2] > kMax32)
    throw Error(file.path().string() + ": tensor " + tensor.describe() +
                ", expected three dimensions [tokens, heads, head_dim]; reshape it");
  const DType dtype = dtype_of(file, tensor);
  InputTensor input;
  const std::byte* data = tensor.data;
  if (reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(dtype_bytes(dtype)) != 0) {
    input.copy.resize((tensor.bytes + sizeof(uint64_t) - 1) / sizeof(uint64_t));
    std::memcpy(input.copy.data(), data, tensor.bytes);
    data = reinterpret_cast<const std::byte*>(input.copy.data());
  }
  // HeadView has one pointer type for inputs and outputs; the library never writes through inputs.
  input.view =
      head_view(const_cast<std::byte*>(data), dtype, tensor.shape[0],
                static_cast<int32_t>(tensor.shape[1]), static_cast<int32_t>(tensor.shape[2]));
  return input;
}

Output allocate_output(AttentionProblem& problem) {
  const HeadView& q = problem.q;
  const int32_t head_dim = problem.kv.v.head_dim;
  Output output;
  const size_t out_bytes =
      static_cast<size_t>(q.tokens) * q.heads * head_dim * dtype_bytes(q.dtype);
  output.storage.resize(out_bytes / sizeof(uint64_t) + 1);
  output.lse.resize(static_cast<size_t>(q.heads) * q.tokens);
  problem.out = head_view(output.storage.data(), q.dtype, q.tokens, q.heads, head_dim);
  problem.lse = output.lse.data();
  return output;
}

KeptMass kept_mass(const float* masked, const float* dense, int64_t q_len) {
  KeptMass kept;
  double sum = 0.0;
  int64_t rows = 0;
  for (int64_t t = 0; t < q_len; ++t) {
    if (dense[t] == -std::numeric_limits<float>::infinity()) continue;  // the row sees no key
    // Two roundings may put a full row an ulp above 1. A NaN stays one (the order of min's
    // arguments) and is lower than any number.
    const double share = std::min(std::exp(double{masked[t]} - double{dense[t]}), 1.0);
    sum += share;
    ++rows;
    if (kept.lowest_row >= 0 && (std::isnan(kept.lowest) || share >= kept.lowest)) continue;
    kept.lowest = share;
    kept.lowest_row = t;
  }
  if (rows > 0) kept.mean = sum / static_cast<double>(rows);
  return kept;
}

std::vector<KeptMass> check_all_rows(AttentionProblem problem, const Output& masked,
                                     const Context& context) {
  const Output dense = allocate_output(problem);
  const PlacedProblem placed(problem, context.backend);
  attend(placed.problem(), block_grid(problem), AttendOptions{}, context);
  placed.fetch_results();
  std::vector<KeptMass> kept;
  for (int32_t h = 0; h < problem.q.heads; ++h) {
    const int64_t first = h * problem.q.tokens;
    kept.push_back(kept_mass(&masked.lse[first], &dense.lse[first], problem.q.tokens));
  }
  return kept;
}

AttendResult plan_and_attend(AttentionProblem& problem, const Policy& policy,
                             const Context& context, bool check) {
  AttendResult result;
  result.output = allocate_output(problem);
  const PlacedProblem placed(problem, context.backend);
  const Workspace workspace(placed.problem(), policy, context);
  Plan plan;
  const std::function<void()> parts[] = {
      [&] { plan = flexprefill::plan(placed.problem(), policy, workspace.context()); },
      [&] { attend(placed.problem(), plan, AttendOptions{}, workspace.context()); }};
  const std::vector<double> seconds = seconds_of_parts(context.backend, parts);
  result.plan_seconds = seconds[0];
  result.attend_seconds = seconds[1];
  placed.fetch_results();
  result.backend = plan.backend;
  result.reports = read_reports(plan, /*p=*/0, workspace.context());
  result.mask = host_mask(plan, workspace.context(), result.bits);
  if (check) result.kept = check_all_rows(problem, result.output, workspace.context());
  return result;
}

void write_result(const OutputFile& file, const AttendResult& result,
                  const AttentionProblem& problem, TensorType type) {
  const BlockMask& mask = result.mask;
  const std::vector<uint8_t> bytes = to_bytes(mask);
  const int64_t heads = problem.q.heads;
  const runtime::TensorToWrite tensors[] = {
      {"out", type, {problem.q.tokens, heads, problem.kv.v.head_dim}, problem.out.data},
      {"lse", TensorType::kF32, {heads, problem.q.tokens}, problem.lse},
      {"mask", TensorType::kU8, {heads, mask.q_blocks, mask.k_blocks}, bytes.data()}};
  const RemoveOnSignal guard(runtime::partial_path(file.path()));
  runtime::write_safetensors(file.path(), tensors);
}

// Turns the library's message about an option of this command into a usage error.
void rethrow_for_options(const AttendArguments& arguments, const Error& error) {
  const std::string message = error.what();
  for (const auto& [option, field] :
       {std::pair("--q-start", ".q_start = "), std::pair("--softmax-scale", ".softmax_scale = ")})
    if (arguments.app->count(option) > 0 && message.find(field) != std::string::npos)
      throw UsageError(std::string(option) + ": " + message);
  throw Error(arguments.input + ": " + message);
}

void attend_file(const AttendArguments& arguments) {
  const Policy policy = arguments.policy.policy();
  const Context context = arguments.policy.context();
  const OutputFile file("--output", arguments.output);
  if (file.is_device()) throw UsageError("--output " + arguments.output + ": not a regular file");
  const JsonOutput json(arguments.json);
  if (json.path() == file.path())
    throw UsageError("--json " + arguments.json + " is the file of --output; name another one");

  const SafetensorsFile input(arguments.input);
  const InputTensor q = load(input, "q");
  const InputTensor k = load(input, "k");
  const InputTensor v = load(input, "v");
  AttentionProblem problem;
  problem.q = q.view;
  problem.kv.k = k.view;
  problem.kv.v = v.view;
  if (arguments.app->count("--q-start") > 0) problem.q_start = arguments.q_start;
  if (arguments.app->count("--softmax-scale") > 0) problem.softmax_scale = arguments.softmax_scale;

  AttendResult result;
  try {
    result = plan_and_attend(problem, policy, context, arguments.check);
  } catch (const Error& e) {
    rethrow_for_options(arguments, e);
  }
  write_result(file, result, problem, input.at("q").type);
  (json.to_stdout() ? std::cerr : std::cout) << report_text(result, policy, problem.q.tokens);
  json.write(report_json(result, arguments.policy.policy_name(), problem));
}

}  // namespace

Action add_attend(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "attend", "Plan and attend on the tensors q, k, v of a file and report on every head");
  auto arguments = std::make_shared<AttendArguments>();
  arguments->app = command;
  command
      ->add_option("--input", arguments->input,
                   "Tensors q, k, v, each [tokens, heads, head_dim], F32, F16 or BF16")
      ->type_name("FILE")
      ->required();
  command
      ->add_option("--output", arguments->output,
                   "Gets out [q_len, heads, head_dim] in the type of q, lse [heads, q_len] F32,\n"
                   "mask [heads, q_blocks, k_blocks] U8")
      ->type_name("FILE")
      ->required();
  command
      ->add_option("--q-start", arguments->q_start,
                   "Position of the first query relative to the first key\n"
                   "(default kv_len - q_len: the queries are the last tokens)")
      ->type_name("N");
  command
      ->add_option("--softmax-scale", arguments->softmax_scale,
                   "Factor on the scores, above 0 (default 1 / sqrt(head_dim))")
      ->type_name("S");
  command->add_flag("--check", arguments->check,
                    "Also compute dense attention and report the true kept mass of all rows");
  command->add_option("--json", arguments->json, "Write the report there; - is stdout")
      ->type_name("FILE|-");
  arguments->policy.add_to(*command, /*gpu=*/true);
  command->footer(
      "Example:\n"
      "  flexprefill attend --input qkv.safetensors --output result.safetensors --gamma 0.95 "
      "--check");
  return [arguments] { attend_file(*arguments); };
}

}  // namespace flexprefill::tools
