#include "tests/support/cases.h"

#include <cmath>
#include <limits>
#include <random>
#include <sstream>

#include "numeric.h"

namespace flexprefill::test {
namespace {

constexpr DType kF32 = DType::kF32, kF16 = DType::kF16, kBF16 = DType::kBF16;

const char* to_string(Layout layout) {
  switch (layout) {
    case Layout::kPacked: return "packed";
    case Layout::kHeadMajor: return "head-major";
    case Layout::kGaps: return "gaps";
    case Layout::kWideGaps: return "wide-gaps";
  }
  return "?";
}

const char* to_string(MaskKind mask) {
  switch (mask) {
    case MaskKind::kNullBits: return "null";
    case MaskKind::kAllOnes: return "ones";
    case MaskKind::kEmpty: return "empty";
    case MaskKind::kDiagonal: return "diagonal";
    case MaskKind::kOneBlock: return "one-block";
    case MaskKind::kRandom: return "random";
    case MaskKind::kRandomNoDiagonal: return "random-no-diagonal";
  }
  return "?";
}

const char* to_string(DataKind data) {
  switch (data) {
    case DataKind::kNormal: return "normal";
    case DataKind::kLogits20: return "logits20";
    case DataKind::kLogits1e4: return "logits1e4";
  }
  return "?";
}

// Whether bit (h, i, j) of the mask is set; j may lie in the future.
bool keeps(MaskKind kind, const BlockMask& mask, int32_t i, int32_t j, std::mt19937& random) {
  const int64_t diagonal = mask.first_q_block + i;
  switch (kind) {
    case MaskKind::kNullBits:
    case MaskKind::kAllOnes: return true;
    case MaskKind::kEmpty: return false;
    case MaskKind::kDiagonal: return j == diagonal;
    case MaskKind::kOneBlock: return j == (diagonal * 7 + 3) % (diagonal + 1);
    case MaskKind::kRandom: return random() % 3 == 0;
    case MaskKind::kRandomNoDiagonal: return random() % 2 == 0 && j != diagonal;
  }
  return false;
}

void fill_mask(const Case& c, Instance& x, std::mt19937& random) {
  x.mask = block_grid(x.problem);
  if (c.mask == MaskKind::kNullBits) return;
  x.bits.assign(static_cast<size_t>(x.mask.num_words()), 0);
  x.mask.bits = x.bits.data();
  for (int32_t h = 0; h < x.mask.heads; ++h) {
    for (int32_t i = 0; i < x.mask.q_blocks; ++i) {
      for (int32_t j = 0; j < x.mask.k_blocks; ++j) {
        if (keeps(c.mask, x.mask, i, j, random)) x.mask.set(h, i, j);
      }
    }
  }
}

// NaN and infinities in every key block that no query head of its kv head reads.
void poison_unread_blocks(Instance& x) {
  for (int32_t g = 0; g < x.problem.kv.k.heads; ++g) {
    std::vector<bool> read(static_cast<size_t>(x.mask.k_blocks));
    for (int32_t h = 0; h < x.mask.heads; ++h) {
      if (kv_head(x.problem, h) != g) continue;
      for (int32_t i = 0; i < x.mask.q_blocks; ++i) {
        x.mask.for_each_block(h, i, [&](int32_t j) { read[static_cast<size_t>(j)] = true; });
      }
    }
    for (int64_t j = 0; j < x.mask.k_blocks; ++j) {
      if (read[static_cast<size_t>(j)]) continue;
      x.k.poison(j * kBlock, (j + 1) * kBlock, g);
      x.v.poison(j * kBlock, (j + 1) * kBlock, g);
    }
  }
}

std::vector<Case> size_cases() {
  std::vector<Case> cases;
  const DType dtypes[] = {kF32, kF16, kBF16};
  size_t n = 0;
  for (const int64_t length : {1, 2, 17, 127, 128, 129, 255, 256, 257, 385, 1000}) {
    for (const bool chunk : {false, true}) {
      const DType dtype = dtypes[n++ % 3];
      cases.push_back({.q_len = chunk ? (length + 2) / 3 : length,
                       .kv_len = length,
                       .q_dtype = dtype,
                       .kv_dtype = dtype,
                       .out_dtype = dtype});
    }
  }
  cases.push_back({.q_len = 0, .kv_len = 0});
  cases.push_back({.q_len = 0, .kv_len = 200});
  cases.push_back({.q_len = 5, .kv_len = 0, .q_start = 0});
  cases.push_back({.q_len = 1, .kv_len = 300});
  return cases;
}

std::vector<Case> dtype_cases() {
  std::vector<Case> cases;
  for (const DType q : {kF32, kF16, kBF16}) {
    for (const DType kv : {kF32, kF16, kBF16}) {
      for (const DType out : {kF32, kF16, kBF16}) {
        cases.push_back(
            {.q_len = 70, .kv_len = 190, .q_dtype = q, .kv_dtype = kv, .out_dtype = out});
      }
    }
  }
  return cases;
}

std::vector<Case> head_cases() {
  std::vector<Case> cases;
  const int32_t dims[][2] = {{1, 1},     {3, 3},     {8, 8},     {17, 17},   {40, 40},  {80, 80},
                             {96, 96},   {128, 128}, {192, 192}, {256, 256}, {3, 5},    {64, 128},
                             {192, 128}, {40, 256},  {256, 1},   {1, 256},   {100, 36}, {129, 7}};
  for (const auto& [k_dim, v_dim] : dims) {
    for (const DType dtype : {kF32, kBF16}) {
      cases.push_back({.q_len = 45,
                       .kv_len = 161,
                       .k_dim = k_dim,
                       .v_dim = v_dim,
                       .q_dtype = dtype,
                       .kv_dtype = dtype,
                       .out_dtype = dtype});
    }
  }
  const int32_t ratios[][2] = {{1, 1}, {4, 4}, {4, 2}, {4, 1}, {6, 2},
                               {6, 3}, {5, 1}, {7, 7}, {12, 2}};
  for (const auto& [heads, kv_heads] : ratios) {
    for (const auto grouping : {HeadGrouping::kBlocked, HeadGrouping::kInterleaved}) {
      cases.push_back({.q_len = 133,
                       .kv_len = 140,
                       .heads = heads,
                       .kv_heads = kv_heads,
                       .k_dim = 24,
                       .v_dim = 40,
                       .grouping = grouping,
                       .mask = MaskKind::kRandom});
    }
  }
  return cases;
}

std::vector<Case> position_cases() {
  std::vector<Case> cases;
  for (const int64_t q_start :
       {-300, -128, -64, -1, 0, 1, 100, 127, 128, 200, 263, 290, 300, 384, 1000}) {
    for (const MaskKind mask : {MaskKind::kNullBits, MaskKind::kRandom}) {
      cases.push_back({.q_len = 200, .kv_len = 300, .q_start = q_start, .k_dim = 40, .mask = mask});
    }
  }
  // More queries than keys.
  cases.push_back({.q_len = 300, .kv_len = 40, .q_start = -100});
  cases.push_back({.q_len = 300, .kv_len = 40, .q_start = 10, .q_dtype = kBF16, .kv_dtype = kBF16});
  return cases;
}

std::vector<Case> layout_cases() {
  std::vector<Case> cases;
  for (const Layout layout : {Layout::kHeadMajor, Layout::kGaps}) {
    for (const DType dtype : {kF32, kF16, kBF16}) {
      cases.push_back({.q_len = 150,
                       .kv_len = 270,
                       .heads = 4,
                       .kv_heads = 2,
                       .k_dim = 40,
                       .v_dim = 24,
                       .q_dtype = dtype,
                       .kv_dtype = dtype,
                       .out_dtype = dtype,
                       .layout = layout,
                       .mask = MaskKind::kRandom});
    }
  }
  return cases;
}

std::vector<Case> mask_cases() {
  std::vector<Case> cases;
  for (const MaskKind mask :
       {MaskKind::kAllOnes, MaskKind::kEmpty, MaskKind::kDiagonal, MaskKind::kOneBlock,
        MaskKind::kRandom, MaskKind::kRandomNoDiagonal}) {
    cases.push_back({.q_len = 700, .kv_len = 700, .mask = mask});
    cases.push_back({.q_len = 200,
                     .kv_len = 590,
                     .heads = 3,
                     .q_dtype = kBF16,
                     .kv_dtype = kBF16,
                     .out_dtype = kBF16,
                     .mask = mask,
                     .lse = false});
  }
  // Rows of more than one mask word.
  cases.push_back(
      {.q_len = 20, .kv_len = 8500, .heads = 1, .k_dim = 16, .mask = MaskKind::kRandom});
  return cases;
}

std::vector<Case> data_cases() {
  std::vector<Case> cases;
  for (const DataKind data : {DataKind::kLogits20, DataKind::kLogits1e4}) {
    for (const DType dtype : {kF32, kF16, kBF16}) {
      cases.push_back({.q_len = 150,
                       .kv_len = 400,
                       .q_dtype = dtype,
                       .kv_dtype = dtype,
                       .out_dtype = dtype,
                       .data = data});
    }
  }
  for (const float scale : {1e-3f, 0.3f, 1.0f}) {
    cases.push_back({.q_len = 150, .kv_len = 400, .softmax_scale = scale});
  }
  return cases;
}

}  // namespace

std::string Case::name() const {
  std::ostringstream s;
  s << "q=" << q_len << "@" << (q_start ? std::to_string(*q_start) : "end") << " kv=" << kv_len
    << " heads=" << heads << "/" << kv_heads << " dim=" << k_dim << "/" << v_dim << " "
    << flexprefill::to_string(q_dtype) << "," << flexprefill::to_string(kv_dtype) << ","
    << flexprefill::to_string(out_dtype)
    << (grouping == HeadGrouping::kInterleaved ? " interleaved" : "") << " " << to_string(layout)
    << " mask=" << to_string(mask) << " data=" << to_string(data);
  if (softmax_scale) s << " scale=" << *softmax_scale;
  if (!lse) s << " no-lse";
  if (bf16_values) s << " bf16-values";
  return s.str();
}

Case as_multiplied_in_bf16(const Case& c) {
  Case rounded = c;
  rounded.bf16_values = c.q_dtype != kF32 && c.kv_dtype != kF32;
  return rounded;
}

DType Case::coarsest() const {
  if (bf16_values) return kBF16;
  if (kv_dtype == kBF16 || out_dtype == kBF16 || q_dtype == kBF16) return kBF16;
  return kv_dtype == kF16 || out_dtype == kF16 || q_dtype == kF16 ? kF16 : kF32;
}

double Case::max_logit() const {
  switch (data) {
    case DataKind::kNormal: return softmax_scale ? 50.0 * *softmax_scale : 8.0;
    case DataKind::kLogits20: return 20.0;
    case DataKind::kLogits1e4: return 1e4;
  }
  return 0.0;
}

std::vector<Case> attend_cases() {
  std::vector<Case> all;
  for (const auto& part : {size_cases(), dtype_cases(), head_cases(), position_cases(),
                           layout_cases(), mask_cases(), data_cases()}) {
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

Case for_tensor_cores(Case c) {
  if (c.q_dtype == kF32) c.q_dtype = kBF16;
  c.kv_dtype = c.out_dtype = c.q_dtype;
  const bool latent = c.k_dim == 192 && c.v_dim == 128;  // as in MLA
  const int32_t wanted = std::max(c.k_dim, c.v_dim);
  for (const int32_t dim : {256, 192, 128, 96, 64}) {
    if (wanted <= dim && !latent) c.k_dim = c.v_dim = dim;
  }
  if (c.layout == Layout::kGaps) c.layout = Layout::kWideGaps;
  return c;
}

Instance::Instance(const Case& c)
    : q(c.q_dtype, c.q_len, c.heads, c.k_dim, c.layout, /*spare=*/7),
      k(c.kv_dtype, c.kv_len, c.kv_heads, c.k_dim, c.layout, /*spare=*/150),
      v(c.kv_dtype, c.kv_len, c.kv_heads, c.v_dim, c.layout, /*spare=*/150),
      out(c.out_dtype, c.q_len, c.heads, c.v_dim, c.layout, /*spare=*/7),
      lse(static_cast<size_t>(c.heads * c.q_len), std::numeric_limits<float>::quiet_NaN()) {
  std::mt19937 random(static_cast<uint32_t>(c.q_len * 7919 + c.kv_len * 31 + c.k_dim));
  std::normal_distribution<float> normal;
  // Bounded, so that the largest scaled score is what the case says: |q . k| scale <= size^2
  // sqrt(D).
  const float size = static_cast<float>(std::sqrt(c.max_logit() / std::sqrt(c.k_dim)));
  const auto uniform = [&] {
    return size * (static_cast<float>(random() % 2049) / 1024.0f - 1.0f);
  };
  // Neighbouring channels share a sign often enough that scores come near the bound.
  const auto extreme = [&] { return random() % 4 == 0 ? uniform() : size; };
  if (c.data == DataKind::kNormal) {
    q.fill([&] { return normal(random); });
    k.fill([&] { return normal(random); });
  } else {
    q.fill(extreme);
    k.fill([&, sign = 1.0f, n = 0]() mutable {
      if (n++ % c.k_dim == 0) sign = static_cast<float>(static_cast<int>(random() % 3) - 1);
      return sign * extreme();
    });
  }
  v.fill([&] { return normal(random); });
  if (c.bf16_values) {
    for (Tensor* tensor : {&q, &k, &v}) {
      std::vector<float> values = tensor->values();
      for (float& value : values) value = internal::round_to_bf16(value);
      tensor->fill(std::span<const float>(values));
    }
  }

  problem.q = q.view();
  problem.kv.k = k.view();
  problem.kv.v = v.view();
  problem.out = out.view();
  problem.q_start = c.q_start;
  problem.softmax_scale = c.softmax_scale;
  problem.lse = c.lse ? lse.data() : nullptr;
  problem.grouping = c.grouping;
  fill_mask(c, *this, random);
  poison_unread_blocks(*this);
}

}  // namespace flexprefill::test
