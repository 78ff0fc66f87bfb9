#pragma once

// Tensor maps of TMA over the views of a problem, and what of a view they cannot take.

#include <cuda.h>

#include <cstdint>
#include <string>

#include "flexprefill/tensor.h"

namespace flexprefill::internal::cuda {

// Why TMA (and stores of 16 bytes) cannot take the view, by name; empty = they can.
std::string view_why_not(const std::string& name, const HeadView& view);

// The boxes that one copy brings from a view: [panels, rows, channels of a panel].
struct BoxShape {
  int32_t panel;   // channels: 64 or 32
  int32_t panels;  // of one copy
  int32_t rows;
};

// Over [pages, heads, panels, tokens, channels]; a contiguous view is one page. Reads behind
// view.tokens give zeros. Throws Error if the driver refuses.
CUtensorMap tensor_map(const HeadView& view, const BoxShape& box, int64_t pages,
                       int64_t page_stride);

// Over [heads, groups of eight tokens, panels, 8, channels]: a box comes in TileOrder::kByGroup.
// All pages are one row of groups, page_groups() from each to the next.
CUtensorMap grouped_map(const HeadView& view, const BoxShape& box);

// 0 where pages do not begin a whole number of groups apart.
inline int64_t page_groups(const HeadView& view, int64_t page_stride) {
  const int64_t group_stride = 8 * view.token_stride;
  return group_stride > 0 && page_stride % group_stride == 0 ? page_stride / group_stride : 0;
}

}  // namespace flexprefill::internal::cuda
