#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

namespace flexprefill::runtime {

/// The same numbers on every platform: std::mt19937_64 is specified, distributions are not.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  size_t below(size_t n) { return static_cast<size_t>(engine_() % n); }
  bool one_in(size_t n) { return below(n) == 0; }

 private:
  std::mt19937_64 engine_;
};

/// A few random edits of the bytes: flips, cuts, copies, extreme numbers, JSON fragments.
void mutate_bytes(std::string& bytes, Random& random);

/// A few values anywhere in the document replaced, removed or moved; wrong types, extreme numbers,
/// hostile regular expressions, deep nesting.
void mutate_json(nlohmann::json& root, Random& random);

}  // namespace flexprefill::runtime
