#pragma once

// What an interrupt must undo: the temporary file being written and a progress line without its
// end.

#include <string>

namespace flexprefill::tools {

// SIGINT, SIGTERM and SIGHUP remove the temporary file, end the progress line and then kill the
// process as usual. SIGPIPE (`flexprefill ... | head`) ends it without a word. A file that grows
// beyond `ulimit -f` is an error of the write, no signal.
void install_signal_handlers();

// Removes `path` if a signal arrives during the lifetime of the object. One at a time.
class RemoveOnSignal {
 public:
  explicit RemoveOnSignal(const std::string& path);
  ~RemoveOnSignal();
  RemoveOnSignal(const RemoveOnSignal&) = delete;
  RemoveOnSignal& operator=(const RemoveOnSignal&) = delete;
};

// Whether stderr, a terminal, shows a progress line that lacks its newline.
void set_progress_line(bool open);
void end_progress_line();

}  // namespace flexprefill::tools
