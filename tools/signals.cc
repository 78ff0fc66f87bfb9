#include "tools/signals.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstring>

namespace flexprefill::tools {
namespace {

// A signal handler may touch lock-free atomics and memory that is not being changed, nothing else:
// the path is complete before the flag says that it is there.
char g_path[PATH_MAX];
std::atomic<bool> g_has_path{false};
std::atomic<bool> g_progress_line{false};

extern "C" void on_fatal_signal(int number) {
  if (g_has_path.load()) unlink(g_path);
  if (g_progress_line.load()) {
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, "\n", 1);
  }
  signal(number, SIG_DFL);
  raise(number);
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action = {};
  action.sa_handler = on_fatal_signal;
  sigemptyset(&action.sa_mask);
  for (int number : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction current = {};
    sigaction(number, nullptr, &current);
    if (current.sa_handler != SIG_IGN) sigaction(number, &action, nullptr);  // nohup stays nohup
  }
  signal(SIGPIPE, SIG_DFL);  // a parent may have left it ignored
  signal(SIGXFSZ, SIG_IGN);
}

RemoveOnSignal::RemoveOnSignal(const std::string& path) {
  if (path.size() >= sizeof(g_path)) return;
  std::memcpy(g_path, path.c_str(), path.size() + 1);
  g_has_path.store(true);
}

RemoveOnSignal::~RemoveOnSignal() { g_has_path.store(false); }

void set_progress_line(bool open) { g_progress_line.store(open); }

void end_progress_line() {
  if (!g_progress_line.exchange(false)) return;
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, "\n", 1);
}

}  // namespace flexprefill::tools
