#include "tools/bench/measure.h"

#include <algorithm>
#include <chrono>
#include <numeric>

namespace flexprefill::tools {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int rounds_for(const Repeats& repeats, double round_seconds) {
  if (repeats.count > 0) return repeats.count;
  const double fitting = repeats.seconds / std::max(round_seconds, 1e-9);
  return static_cast<int>(std::clamp(fitting, double(repeats.least), double(repeats.most)));
}

// What the rounds leave behind for one piece of work.
struct Record {
  std::vector<std::vector<double>> parts;  // [parts][rounds]
  std::vector<double> totals;              // [rounds]
  std::vector<double> peaks;

  void add(const std::vector<double>& seconds) {
    parts.resize(seconds.size());
    for (size_t n = 0; n < seconds.size(); ++n) parts[n].push_back(seconds[n]);
    totals.push_back(std::accumulate(seconds.begin(), seconds.end(), 0.0));
  }
};

}  // namespace

Samples summarize(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  const double median =
      values.size() % 2 == 1 ? values[half] : 0.5 * (values[half - 1] + values[half]);
  return {median, values.front(), values.back(), static_cast<int>(values.size())};
}

Samples take_samples(int count, const std::function<double()>& sample) {
  std::vector<double> values(static_cast<size_t>(count));
  for (double& value : values) value = sample();
  return summarize(std::move(values));
}

double seconds_of(const std::function<void()>& run) {
  const double begin = now();
  run();
  return now() - begin;
}

std::vector<Measured> measure(std::span<const Work> works, const Repeats& repeats,
                              const Peak* peak) {
  double round_seconds = 0.0;
  for (const Work& work : works) round_seconds += seconds_of([&] { work(); });
  std::vector<Record> records(works.size());
  const int rounds = rounds_for(repeats, round_seconds);
  for (int round = 0; round < rounds; ++round) {
    for (size_t n = 0; n < works.size(); ++n) {
      if (peak != nullptr) records[n].peaks.push_back(peak->sample());
      records[n].add(works[n]());
      if (peak != nullptr) records[n].peaks.push_back(peak->sample());
    }
  }
  std::vector<Measured> result;
  for (Record& record : records) {
    Measured measured;
    for (std::vector<double>& part : record.parts)
      measured.parts.push_back(summarize(std::move(part)));
    measured.total = summarize(std::move(record.totals));
    measured.peak = summarize(std::move(record.peaks));
    result.push_back(std::move(measured));
  }
  return result;
}

}  // namespace flexprefill::tools
