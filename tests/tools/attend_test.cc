// `flexprefill attend` on small random tensors, against the library called directly.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "flexprefill/flexprefill.h"
#include "runtime/safetensors.h"
#include "tensors.h"
#include "tests/support/host_backends.h"
#include "tool.h"

namespace flexprefill::testing {
namespace {

using nlohmann::json;
using runtime::SafetensorsFile;
using runtime::TensorInfo;
using runtime::TensorType;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kTokens = 1300;  // 11 blocks, the last one cut
constexpr int32_t kHeads = 4;
constexpr int32_t kKvHeads = 2;
constexpr int32_t kHeadDim = 8;
constexpr int32_t kValueDim = 6;
const std::string kBest(test::host_backends().front()->name());

// q, k and v of one problem, on disk and in memory.
class AttendTest : public ::testing::Test {
 protected:
  void make_input(TensorType type = TensorType::kF32, int64_t q_len = kTokens) {
    q_ = random_tensor({q_len, kHeads, kHeadDim}, type, 1);
    k_ = random_tensor({kTokens, kKvHeads, kHeadDim}, type, 2);
    v_ = random_tensor({kTokens, kKvHeads, kValueDim}, type, 3);
    write_input(type);
  }

  void write_input(TensorType type) {
    write_qkv(input_, type, q_, k_, v_);
    dtype_ = type == TensorType::kBF16 ? DType::kBF16 : DType::kF32;
  }

  ToolResult attend(std::vector<std::string> options) {
    options.insert(options.begin(), {"attend", "--input", input_, "--output", output_});
    return run_tool(options);
  }

  static HeadView view(Tensor& tensor, DType dtype) {
    return head_view(tensor.bytes.data(), dtype, tensor.shape[0],
                     static_cast<int32_t>(tensor.shape[1]), static_cast<int32_t>(tensor.shape[2]));
  }

  // Compares the file written by the tool, bit for bit, with the library.
  void expect_output_of_library(const Policy& policy, const std::string& backend,
                                std::optional<int64_t> q_start = std::nullopt) {
    AttentionProblem problem;
    problem.q = view(q_, dtype_);
    problem.kv.k = view(k_, dtype_);
    problem.kv.v = view(v_, dtype_);
    problem.q_start = q_start;
    const int64_t q_len = problem.q.tokens;
    std::vector<float> out(q_len * kHeads * kValueDim);  // enough for every dtype
    std::vector<float> lse(kHeads * q_len);
    problem.out = head_view(out.data(), dtype_, q_len, kHeads, kValueDim);
    problem.lse = lse.data();
    Context context;
    context.backend = find_backend(backend);
    ASSERT_NE(context.backend, nullptr);
    std::vector<std::byte> workspace(workspace_bytes(problem, policy, context));
    context.workspace = workspace.data();
    context.workspace_bytes = workspace.size();
    const Plan plan = prefill(problem, policy, context);
    const std::vector<uint8_t> mask = to_bytes(plan.masks[0]);

    const SafetensorsFile file(output_);
    const TensorInfo& out_tensor = file.at("out");
    const TensorInfo& lse_tensor = file.at("lse");
    const TensorInfo& mask_tensor = file.at("mask");
    EXPECT_EQ(out_tensor.type, dtype_ == DType::kBF16 ? TensorType::kBF16 : TensorType::kF32);
    EXPECT_THAT(out_tensor.shape, ElementsAre(q_len, kHeads, kValueDim));
    EXPECT_EQ(lse_tensor.type, TensorType::kF32);
    EXPECT_THAT(lse_tensor.shape, ElementsAre(kHeads, q_len));
    EXPECT_EQ(mask_tensor.type, TensorType::kU8);
    EXPECT_THAT(mask_tensor.shape,
                ElementsAre(kHeads, plan.masks[0].q_blocks, plan.masks[0].k_blocks));
    EXPECT_EQ(std::memcmp(out_tensor.data, out.data(), out_tensor.bytes), 0);
    EXPECT_EQ(std::memcmp(lse_tensor.data, lse.data(), lse_tensor.bytes), 0);
    EXPECT_EQ(std::memcmp(mask_tensor.data, mask.data(), mask_tensor.bytes), 0);
    if (!std::holds_alternative<Dense>(policy)) {
      EXPECT_LT(computed_share(plan.masks[0]), 1.0) << "the case leaves nothing out";
    }
  }

  // Share of the attention mass that the mask of the output file keeps for one row, in fp64.
  double kept_mass_of_row(int32_t h, int64_t t) {
    const SafetensorsFile file(output_);
    const TensorInfo& mask = file.at("mask");
    const auto* bits = reinterpret_cast<const uint8_t*>(mask.data);
    const auto* q = reinterpret_cast<const float*>(q_.bytes.data());
    const auto* k = reinterpret_cast<const float*>(k_.bytes.data());
    double kept = 0.0;
    double total = 0.0;
    for (int64_t n = 0; n <= t; ++n) {
      double score = 0.0;
      for (int32_t c = 0; c < kHeadDim; ++c)
        score += double{q[(t * kHeads + h) * kHeadDim + c]} *
                 double{k[(n * kKvHeads + h / (kHeads / kKvHeads)) * kHeadDim + c]};
      const double mass = std::exp(score / std::sqrt(double{kHeadDim}));
      total += mass;
      if (bits[(h * mask.shape[1] + t / kBlock) * mask.shape[2] + n / kBlock] != 0) kept += mass;
    }
    return kept / total;
  }

  TemporaryFolder folder_;
  std::string input_ = folder_ / "in.safetensors";
  std::string output_ = folder_ / "out.safetensors";
  Tensor q_, k_, v_;
  DType dtype_ = DType::kF32;
};

TEST_F(AttendTest, OutputsAreThoseOfTheLibraryForEveryBackendAndPolicy) {
  make_input();
  for (const Backend* each : test::host_backends()) {
    const std::string backend(each->name());
    SCOPED_TRACE(backend);
    FlexPrefill flex;
    flex.gamma = 0.6f;
    flex.min_budget = 0;
    ToolResult result = attend({"--backend", backend, "--gamma", "0.6", "--min-budget", "0"});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    EXPECT_THAT(result.out, HasSubstr("backend " + backend));
    expect_output_of_library(flex, backend);

    flex.rule = Rule::kOfficial;
    flex.tau = 0.4f;
    flex.max_budget = 256;
    result = attend({"--backend", backend, "--gamma", "0.6", "--min-budget", "0", "--rule",
                     "official", "--tau", "0.4", "--max-budget", "256", "--threads", "1"});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    expect_output_of_library(flex, backend);

    result = attend({"--backend", backend, "--policy", "dense"});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    expect_output_of_library(Dense{}, backend);

    result = attend({"--backend", backend, "--policy", "a-shape", "--sink-tokens", "1",
                     "--local-tokens", "130"});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    expect_output_of_library(AShape{1, 130}, backend);
  }
}

TEST_F(AttendTest, Bf16InGivesBf16Out) {
  make_input(TensorType::kBF16);
  const ToolResult result = attend({"--backend", kBest, "--gamma", "0.5", "--min-budget", "0"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  FlexPrefill flex;
  flex.gamma = 0.5f;
  flex.min_budget = 0;
  expect_output_of_library(flex, kBest);
}

TEST_F(AttendTest, QueryStartPlacesAChunk) {
  make_input(TensorType::kF32, /*q_len=*/200);
  const ToolResult result =
      attend({"--backend", kBest, "--q-start", "1077", "--min-budget", "0", "--gamma", "0.3"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  FlexPrefill flex;
  flex.gamma = 0.3f;
  flex.min_budget = 0;
  expect_output_of_library(flex, kBest, 1077);
}

TEST_F(AttendTest, TensorsNeedNotBeAligned) {
  make_input();
  const std::string aligned_input = input_;
  ASSERT_EQ(attend({"--policy", "dense"}).exit_code, 0);
  const std::string expected = read_file(output_);
  json header;
  std::string data;
  for (const auto& [name, tensor] :
       {std::pair("q", &q_), std::pair("k", &k_), std::pair("v", &v_)}) {
    header[name] = {{"dtype", "F32"},
                    {"shape", tensor->shape},
                    {"data_offsets", {data.size(), data.size() + tensor->bytes.size()}}};
    data.append(tensor->bytes.begin(), tensor->bytes.end());
  }
  std::string text = header.dump();
  while (text.size() % 4 != 1) text += ' ';
  uint64_t length = text.size();
  input_ = folder_ / "odd.safetensors";
  write_file(input_, std::string(reinterpret_cast<const char*>(&length), 8) + text + data);
  const ToolResult result = attend({"--policy", "dense"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(read_file(output_), expected);
}

TEST_F(AttendTest, CheckMeasuresTheKeptMassOfAllRows) {
  make_input();
  const ToolResult result =
      attend({"--gamma", "0.5", "--min-budget", "0", "--check", "--json", "-"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json report = json::parse(result.out);
  EXPECT_LT(report["computed_share"].get<double>(), 1.0) << "nothing was left out";
  for (int32_t h = 0; h < kHeads; ++h) {
    double sum = 0.0;
    double lowest = 2.0;
    for (int64_t t = 0; t < kTokens; ++t) {
      const double kept = kept_mass_of_row(h, t);
      sum += kept;
      lowest = std::min(lowest, kept);
    }
    const json& head = report["heads"][h];
    EXPECT_NEAR(head["kept_mass_mean"].get<double>(), sum / kTokens, 1e-4);
    EXPECT_NEAR(head["kept_mass_min"].get<double>(), lowest, 1e-4);
    EXPECT_NEAR(kept_mass_of_row(h, head["kept_mass_min_row"].get<int64_t>()), lowest, 1e-4);
  }
}

TEST_F(AttendTest, CheckOfGammaOneIsOne) {
  make_input();
  const ToolResult result = attend({"--gamma", "1", "--check", "--json", "-"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json report = json::parse(result.out);
  ASSERT_EQ(report["heads"].size(), size_t{kHeads});
  for (const json& head : report["heads"]) {
    EXPECT_EQ(head["kept_mass_mean"], 1.0);
    EXPECT_EQ(head["kept_mass_min"], 1.0);
    EXPECT_EQ(head["pattern"], "dense");
  }
}

// A row that is NaN has kept nothing that could be told.
TEST_F(AttendTest, CheckOfNanIsNan) {
  make_input();
  constexpr int64_t kRow = 700;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(&q_.bytes[static_cast<size_t>(kRow * kHeads * kHeadDim) * sizeof(nan)], &nan,
              sizeof(nan));
  write_input(TensorType::kF32);
  const ToolResult result =
      attend({"--gamma", "0.5", "--min-budget", "0", "--check", "--json", "-"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json heads = json::parse(result.out)["heads"];
  EXPECT_TRUE(heads[0]["kept_mass_mean"].is_null());
  EXPECT_TRUE(heads[0]["kept_mass_min"].is_null());
  EXPECT_EQ(heads[0]["kept_mass_min_row"], kRow);
  EXPECT_TRUE(heads[1]["kept_mass_mean"].is_number());
}

TEST_F(AttendTest, JsonOnStdoutIsAlone) {
  make_input();
  const ToolResult result = attend({"--min-budget", "0", "--backend", kBest, "--json", "-"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json report = json::parse(result.out);  // throws on anything else
  EXPECT_EQ(report["q_len"], kTokens);
  EXPECT_EQ(report["kv_len"], kTokens);
  EXPECT_EQ(report["q_start"], 0);
  EXPECT_EQ(report["backend"], kBest);
  EXPECT_EQ(report["policy"], "flex");
  EXPECT_TRUE(report["plan_seconds"].is_number());
  EXPECT_TRUE(report["attend_seconds"].is_number());
  EXPECT_GE(report["coverage_min"].get<double>(), 0.9);
  ASSERT_EQ(report["heads"].size(), size_t{kHeads});
  for (const json& head : report["heads"]) {
    EXPECT_TRUE(head["pattern"].is_string());
    EXPECT_EQ(head["causal_blocks"], 66);
    EXPECT_DOUBLE_EQ(head["computed_share"], head["kept_blocks"].get<double>() / 66.0);
    EXPECT_FALSE(head.contains("kept_mass_mean"));
  }
  EXPECT_THAT(result.err, HasSubstr("divergence")) << "the table moves to stderr";
}

TEST_F(AttendTest, JsonInAFileLeavesTheTableOnStdout) {
  make_input();
  const std::string path = folder_ / "report.json";
  const ToolResult result = attend({"--min-budget", "0", "--json", path});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("divergence"));
  EXPECT_EQ(result.err, "");
  EXPECT_EQ(json::parse(read_file(path))["heads"].size(), size_t{kHeads});
  EXPECT_THAT(folder_.names(), ElementsAre("in.safetensors", "out.safetensors", "report.json"));
}

TEST_F(AttendTest, UnwritableOutputsFailBeforeTheWorkAndLeaveNothing) {
  make_input();
  const std::string good = output_;
  output_ = folder_ / "missing/out.safetensors";
  ToolResult result = attend({});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("--output"));
  EXPECT_THAT(result.err, HasSubstr("writable folder"));

  output_ = good;
  result = attend({"--json", folder_ / "missing/report.json"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("--json"));
  EXPECT_THAT(folder_.names(), ElementsAre("in.safetensors"));

  result = attend({"--json", folder_ / ""});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("folder"));
}

TEST_F(AttendTest, ReportAndTensorsNeedTwoFiles) {
  make_input();
  const ToolResult result = attend({"--json", output_});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("--json " + output_ + " is the file of --output"));
  EXPECT_THAT(folder_.names(), ElementsAre("in.safetensors"));
}

TEST_F(AttendTest, FileSizeLimitIsAnErrorThatLeavesNothing) {
  make_input();
  const ToolResult result = run_shell("ulimit -f 8; \"$TOOL\" attend --policy dense --input " +
                                      input_ + " --output " + output_);
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("out.safetensors: cannot write"));
  EXPECT_THAT(folder_.names(), ElementsAre("in.safetensors"));
}

// Whenever the signal comes, the output is whole or absent. The loop sends it as soon as it sees
// the file that is being written. (SIGINT is ignored in background jobs.)
TEST_F(AttendTest, SignalLeavesNothingHalfWritten) {
  constexpr int64_t kMany = 60'000;  // of the queries: about 60 MB to write
  q_ = random_tensor({kMany, 1, 1}, TensorType::kF32, 1);
  k_ = random_tensor({1, 1, 1}, TensorType::kF32, 2);
  v_ = random_tensor({1, 1, 256}, TensorType::kF32, 3);
  write_input(TensorType::kF32);
  const ToolResult result =
      run_shell("\"$TOOL\" attend --policy dense --q-start 0 --input " + input_ + " --output " +
                output_ + " & while kill -0 $! 2> /dev/null; do compgen -G '" + output_ +
                ".partial.*' > /dev/null && kill -TERM $!; done; wait $!; exit 0");
  EXPECT_EQ(result.exit_code, 0);
  for (const std::string& name : folder_.names())
    EXPECT_TRUE(name == "in.safetensors" || name == "out.safetensors") << name;
}

TEST_F(AttendTest, DevicesAreNoOutput) {
  make_input();
  output_ = "/dev/null";
  const ToolResult result = attend({});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
}

TEST_F(AttendTest, InputsThatCannotBeReadSayWhy) {
  const auto expect_error = [&](const std::string& words) {
    const ToolResult result = attend({});
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_THAT(result.err, HasSubstr(words));
    EXPECT_EQ(result.out, "");
  };
  expect_error(input_);  // does not exist

  write_file(input_, "not safetensors");
  expect_error(input_);

  make_input();
  const std::string whole = read_file(input_);
  write_file(input_, whole.substr(0, whole.size() / 2));
  expect_error(input_);

  const auto write = [&](std::vector<runtime::TensorToWrite> tensors) {
    runtime::write_safetensors(input_, tensors);
  };
  const auto f32 = TensorType::kF32;
  write({{"q", f32, q_.shape, q_.bytes.data()}, {"k", f32, k_.shape, k_.bytes.data()}});
  expect_error("v");
  write({{"q", TensorType::kI32, q_.shape, q_.bytes.data()},
         {"k", f32, k_.shape, k_.bytes.data()},
         {"v", f32, v_.shape, v_.bytes.data()}});
  expect_error("expected F32, F16 or BF16");
  write({{"q", f32, {kTokens, kHeads * kHeadDim}, q_.bytes.data()},
         {"k", f32, k_.shape, k_.bytes.data()},
         {"v", f32, v_.shape, v_.bytes.data()}});
  expect_error("[tokens, heads, head_dim]");
  write({{"q", f32, {kTokens, kHeads * 2, kHeadDim / 2}, q_.bytes.data()},
         {"k", f32, k_.shape, k_.bytes.data()},
         {"v", f32, v_.shape, v_.bytes.data()}});
  expect_error("q.head_dim = 4");
  EXPECT_FALSE(std::filesystem::exists(output_));
}

TEST_F(AttendTest, RuleOfTheLibraryNamesTheOption) {
  make_input(TensorType::kF32, /*q_len=*/200);
  ToolResult result = attend({"--softmax-scale", "-1"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("--softmax-scale"));
  result = attend({"--q-start", "99999999999999"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("--q-start"));
  result = attend({"--rule", "official"});  // a chunk: the rule is not defined for it
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("FlexPrefill.rule = official"));
}

}  // namespace
}  // namespace flexprefill::testing
