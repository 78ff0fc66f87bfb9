// `--backend cuda` of the commands that copy their tensors to a GPU: against ref on a machine that
// has one, and refused with the reason on one that has not.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>

#include "flexprefill/flexprefill.h"
#include "runtime/safetensors.h"
#include "tensors.h"
#include "tests/support/compare.h"
#include "tests/support/device.h"
#include "tool.h"

namespace flexprefill::testing {
namespace {

using nlohmann::json;
using runtime::SafetensorsFile;
using runtime::TensorInfo;
using runtime::TensorType;
using ::testing::AnyOf;
using ::testing::HasSubstr;

// Why no command of this program can compute on a GPU here; empty = it can.
std::string gpu_why_not() {
  const Backend* const cuda = find_backend("cuda");
  return cuda == nullptr ? "this program was built without CUDA" : test::machine_why_not(*cuda);
}

std::vector<float> floats(const TensorInfo& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  for (size_t n = 0; n < values.size(); ++n) {
    if (tensor.type == TensorType::kF32) {
      std::memcpy(&values[n], tensor.data + 4 * n, 4);
    } else {  // bf16 is the upper half of fp32
      uint16_t bits = 0;
      std::memcpy(&bits, tensor.data + 2 * n, 2);
      values[n] = std::bit_cast<float>(uint32_t{bits} << 16);
    }
  }
  return values;
}

class ToolOnGpu : public ::testing::Test {
 protected:
  static constexpr int64_t kTokens = 1300;  // 11 blocks, the last one cut

  void write_input(TensorType type) {
    write_qkv(input_, type, random_tensor({kTokens, 4, 64}, type, 1),
              random_tensor({kTokens, 2, 64}, type, 2), random_tensor({kTokens, 2, 64}, type, 3));
  }

  std::string output(const std::string& backend) { return folder_ / (backend + ".safetensors"); }

  ToolResult attend(const std::string& backend, std::vector<std::string> options) {
    options.insert(options.begin(), {"attend", "--input", input_, "--output", output(backend),
                                     "--backend", backend, "--json", "-"});
    return run_tool(options);
  }

  TemporaryFolder folder_;
  std::string input_ = folder_ / "in.safetensors";
};

class ToolWithGpu : public ToolOnGpu {
 protected:
  void SetUp() override {
    if (const std::string why = gpu_why_not(); !why.empty()) GTEST_SKIP() << why;
  }
};

TEST_F(ToolOnGpu, WithoutOneIsRefusedWithTheReason) {
  if (gpu_why_not().empty()) GTEST_SKIP() << "this machine has a GPU";
  write_input(TensorType::kBF16);
  const auto refused = AnyOf(HasSubstr("--backend cuda: cuda refuses q.device = cuda:0: "),
                             HasSubstr("--backend cuda: this program was built without CUDA"));
  for (const ToolResult& result :
       {attend("cuda", {}), run_tool({"bench", "attention", "--backend", "cuda"}),
        run_tool({"bench", "plan", "--backend", "cuda"})}) {
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, refused);
    EXPECT_THAT(result.err, HasSubstr("; choose from auto"));
  }
  EXPECT_THAT(folder_.names(), ::testing::ElementsAre("in.safetensors"));
}

TEST_F(ToolOnGpu, IsRefusedWhereTensorsStayInHostMemory) {
  if (find_backend("cuda") == nullptr) GTEST_SKIP() << gpu_why_not();
  for (const char* mode : {"peak", "accuracy"}) {
    const ToolResult result = run_tool({"bench", mode, "--backend", "cuda"});
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_THAT(result.err, HasSubstr("--backend cuda: it computes on tensors in its device's"));
  }
}

TEST_F(ToolWithGpu, AttendsAsTheReference) {
  write_input(TensorType::kBF16);
  const std::vector<std::vector<std::string>> policies = {
      {"--policy", "dense", "--check"},
      {"--policy", "a-shape", "--sink-tokens", "1", "--local-tokens", "300", "--check"},
      {"--gamma", "0.6", "--min-budget", "0", "--check"}};
  for (const std::vector<std::string>& policy : policies) {
    SCOPED_TRACE(::testing::PrintToString(policy));
    const ToolResult reference = attend("ref", policy), result = attend("cuda", policy);
    ASSERT_EQ(reference.exit_code, 0) << reference.err;
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const json expected = json::parse(reference.out), actual = json::parse(result.out);
    EXPECT_EQ(actual["backend"], "cuda");
    EXPECT_GT(actual["plan_seconds"], 0.0);
    EXPECT_GT(actual["attend_seconds"], 0.0);
    for (size_t h = 0; h < 4; ++h) {
      const json &a = actual["heads"][h], &e = expected["heads"][h];
      EXPECT_EQ(a["pattern"], e["pattern"]);
      EXPECT_NEAR(a["kept_mass_mean"], e["kept_mass_mean"], 1e-3);
      EXPECT_NEAR(a["computed_share"], e["computed_share"], 0.02);
    }
    const SafetensorsFile a(output("cuda")), e(output("ref"));
    const auto bytes = [](const SafetensorsFile& file) {
      const TensorInfo& mask = file.at("mask");
      return std::string(reinterpret_cast<const char*>(mask.data), mask.bytes);
    };
    if (bytes(a) != bytes(e)) {
      EXPECT_EQ(policy[0], "--gamma") << "only scores may tie";
      continue;
    }
    test::Tolerance twice = test::tolerance(DType::kBF16, kTokens);  // both outputs are rounded
    twice.absolute *= 2;
    twice.relative *= 2;
    EXPECT_TRUE(test::all_close(floats(a.at("out")), floats(e.at("out")), twice));
    EXPECT_TRUE(
        test::all_close(floats(a.at("lse")), floats(e.at("lse")), test::lse_tolerance(kTokens)));
  }
}

TEST_F(ToolWithGpu, RefusesFp32ByName) {
  write_input(TensorType::kF32);
  const ToolResult result = attend("cuda", {});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("q.dtype = f32"));
  EXPECT_FALSE(std::filesystem::exists(output("cuda")));
}

TEST_F(ToolWithGpu, BenchMeasuresDenseMasksAndPlans) {
  const std::vector<std::string> shape = {"--backend", "cuda", "--q-len",    "1000",
                                          "--kv-len",  "2500", "--head-dim", "64",
                                          "--repeats", "2",    "--json",     "-"};
  const auto rows = [&](std::vector<std::string> options) {
    options.insert(options.begin(), "bench");
    options.insert(options.end(), shape.begin(), shape.end());
    const ToolResult result = run_tool(options);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    const json one = json::parse(result.out, nullptr, /*allow_exceptions=*/false)["results"][0];
    EXPECT_EQ(one["backend"], "cuda");
    EXPECT_FALSE(one.contains("threads"));
    for (const json& row : one["rows"]) {
      EXPECT_EQ(row["runs"], 2);
      EXPECT_GT(row["seconds"], 0.0);
      EXPECT_FALSE(row.contains("peak_share")) << "no peak of a GPU is known";
    }
    return one["rows"];
  };
  const json masks = rows({"attention", "--density", "0.3"});
  ASSERT_EQ(masks.size(), 2u);
  EXPECT_GT(masks[0]["gflops"], 0.0);
  EXPECT_LT(masks[1]["computed_share"], 0.6);
  const json plans = rows({"plan", "--rule", "coverage", "--min-budget", "0", "--gamma", "0.5"});
  ASSERT_EQ(plans.size(), 4u);
  EXPECT_EQ(plans[1]["name"], "plan coverage");
  EXPECT_LT(plans[2]["computed_share"], 1.0);
}

}  // namespace
}  // namespace flexprefill::testing
