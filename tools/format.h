#pragma once

// Numbers and tables as text.

#include <string>
#include <vector>

#include "flexprefill/backend.h"

namespace flexprefill::tools {

// The shortest decimal that reads back as this float: 0.9, not 0.899999976.
std::string shortest(float value);

// The same number as a double, so that JSON shows 0.9; NaN stays NaN (null in JSON).
double as_double(float value);

std::string fixed(double value, int digits);

// 0.3042 -> "30.4 %"; NaN -> "-".
std::string percent(double share);

// "0.012 s", "12.3 s"; three significant digits.
std::string seconds(double value);

// Columns padded to their widest cell; the first is left-aligned, the others right-aligned.
class Table {
 public:
  void add_row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  // Removes the columns whose cells below the first row are all empty or "-".
  void drop_empty_columns();

  std::string text() const;
  std::string markdown() const;  // the first row is the head

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace flexprefill::tools
