#pragma once

#include <chrono>
#include <string>

#include "runtime/session.h"

namespace flexprefill::tools {

// Tells on stderr how far a prefill is: one line that is redrawn on a terminal, else a line every
// few seconds.
class ProgressLine {
 public:
  explicit ProgressLine(std::string label);
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void message(const std::string& text);  // what happens now, before anything can be counted
  void update(const runtime::Progress& progress);
  void finish();  // removes the line from a terminal

 private:
  void show(const std::string& text);

  std::string label_;
  bool terminal_ = false;
  bool drawn_ = false;  // on the terminal, not removed yet
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point shown_;
};

}  // namespace flexprefill::tools
