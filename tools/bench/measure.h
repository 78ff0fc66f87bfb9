#pragma once

// Times of repeated work.

#include <functional>
#include <limits>
#include <span>
#include <vector>

#include "tools/bench/peak.h"

namespace flexprefill::tools {

// Median and range of repeated samples, in the unit of the samples.
struct Samples {
  double median = std::numeric_limits<double>::quiet_NaN();
  double min = std::numeric_limits<double>::quiet_NaN();
  double max = std::numeric_limits<double>::quiet_NaN();
  int count = 0;
};
Samples summarize(std::vector<double> values);
Samples take_samples(int count, const std::function<double()>& sample);

// How often work is repeated after one warm-up: `count` times, or as often as fits into `seconds`.
struct Repeats {
  int count = 0;         // 0: by time
  double seconds = 2.0;  // for one round of everything that is compared
  int least = 3;
  int most = 15;
};

// A piece of work that times its own parts: returns the seconds of each.
using Work = std::function<std::vector<double>()>;

double seconds_of(const std::function<void()>& run);

struct Measured {
  std::vector<Samples> parts;  // seconds
  Samples total;               // seconds of all parts together
  Samples peak;                // FLOP/s, sampled before and after each run; NaN without a peak
};

// Runs everything once, then in rounds: peak, work 0, peak, work 1, ..., so that a drifting clock
// meets all of them alike and each share is of the peak at that time.
std::vector<Measured> measure(std::span<const Work> works, const Repeats& repeats,
                              const Peak* peak);

}  // namespace flexprefill::tools
