#include "tools/format.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>

namespace flexprefill::tools {

std::string shortest(float value) {
  char text[64];
  const std::to_chars_result end = std::to_chars(text, text + sizeof(text), value);
  return std::string(text, end.ptr);
}

double as_double(float value) {
  if (!std::isfinite(value)) return value;
  const std::string text = shortest(value);
  double result = 0.0;
  std::from_chars(text.data(), text.data() + text.size(), result);
  return result;
}

std::string fixed(double value, int digits) {
  if (std::isnan(value)) return "-";
  char text[64];
  std::snprintf(text, sizeof(text), "%.*f", digits, value);
  return text;
}

std::string percent(double share) {
  return std::isnan(share) ? "-" : fixed(100.0 * share, 1) + " %";
}

std::string seconds(double value) {
  const int digits = value < 1.0 ? 3 : value < 10.0 ? 2 : 1;
  return fixed(value, digits) + " s";
}

void Table::drop_empty_columns() {
  if (rows_.empty()) return;
  const auto is_empty = [&](size_t c) {
    return std::all_of(rows_.begin() + 1, rows_.end(), [c](const std::vector<std::string>& row) {
      return row[c].empty() || row[c] == "-";
    });
  };
  for (size_t c = rows_[0].size(); c-- > 0;) {
    if (!is_empty(c)) continue;
    for (std::vector<std::string>& row : rows_) row.erase(row.begin() + static_cast<ptrdiff_t>(c));
  }
}

std::string Table::markdown() const {
  std::string text;
  for (const std::vector<std::string>& row : rows_) {
    text += "|";
    for (const std::string& cell : row) text += (cell.empty() ? "" : " ") + cell + " |";
    text += "\n";
    if (&row != &rows_.front()) continue;
    text += "|";
    for (size_t c = 0; c < row.size(); ++c) text += c == 0 ? "---|" : "---:|";
    text += "\n";
  }
  return text;
}

std::string Table::text() const {
  std::vector<size_t> widths;
  for (const std::vector<std::string>& row : rows_) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  std::string text;
  for (const std::vector<std::string>& row : rows_) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c) {
      const std::string padding(widths[c] - row[c].size(), ' ');
      line += c == 0 ? row[c] + padding : "  " + padding + row[c];
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

}  // namespace flexprefill::tools
