#include "tools/progress.h"

#include <unistd.h>

#include <iostream>
#include <utility>

#include "tools/format.h"
#include "tools/signals.h"

namespace flexprefill::tools {

using Clock = std::chrono::steady_clock;

ProgressLine::ProgressLine(std::string label)
    : label_(std::move(label)),
      terminal_(isatty(STDERR_FILENO) == 1),
      start_(Clock::now()),
      shown_(start_) {}

ProgressLine::~ProgressLine() { finish(); }

void ProgressLine::show(const std::string& text) {
  if (terminal_) {
    set_progress_line(true);
    drawn_ = true;
    std::cerr << "\r\033[K" << label_ << ": " << text << std::flush;
  } else {
    std::cerr << label_ << ": " << text << "\n";
  }
  shown_ = Clock::now();
}

void ProgressLine::message(const std::string& text) { show(text); }

void ProgressLine::update(const runtime::Progress& progress) {
  // A terminal is redrawn as fast as one can read; a log stays short.
  const auto pause = terminal_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(5000);
  const Clock::time_point now = Clock::now();
  if (now - shown_ < pause) return;
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const bool chunk_done = progress.layer == progress.layers;
  show("prefill " + percent(progress.fraction()) + ", " +
       std::to_string(progress.tokens_done + (chunk_done ? progress.chunk_tokens : 0)) + " of " +
       std::to_string(progress.tokens) + " tokens, layer " + std::to_string(progress.layer) +
       " of " + std::to_string(progress.layers) + ", " + seconds(elapsed));
}

void ProgressLine::finish() {
  if (!drawn_) return;  // the line of the terminal may hold somebody else's text by now
  drawn_ = false;
  set_progress_line(false);
  std::cerr << "\r\033[K" << std::flush;
}

}  // namespace flexprefill::tools
