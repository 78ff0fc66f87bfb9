#pragma once

// What the model tests share: where the files are, reading expected values, catching messages.

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "flexprefill/error.h"
#include "runtime/json_file.h"

namespace flexprefill::runtime {

inline const std::filesystem::path kRoot = FLEXPREFILL_ROOT;
inline const std::filesystem::path kData = kRoot / "tests/data/model";
inline const std::filesystem::path kNeedle = kRoot / "models/needle-14m";

inline nlohmann::json read_data(const std::string& file) { return read_json_file(kData / file); }

// The message of the Error that `body` throws; a failure if it throws none.
template <typename Body>
std::string error_of(Body body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "expected a flexprefill::Error";
  return "";
}

}  // namespace flexprefill::runtime
