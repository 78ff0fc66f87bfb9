#pragma once

// How far attend() is from the fp64 reference.

#include "tools/bench/attention.h"

namespace flexprefill::tools {

struct ErrorSize {
  double max = 0.0;  // largest absolute error
  double rms = 0.0;  // root of the mean square, divided by that of the expected values
};

struct Accuracy {
  std::string data;
  DType dtype = DType::kF32;
  ErrorSize out, lse;  // against the reference on the same rounded q, k, v: arithmetic alone
  ErrorSize out_exact, lse_exact;  // against the reference on q, k, v before rounding to dtype
  double p_max = 0.0;              // largest absolute error of a probability (v = unit vectors)
};

// Dense attention on `exact`, fp32 inputs, rounded to `dtype`; the output is fp32. Throws Error if
// the backend `ref` is not there.
Accuracy measure_accuracy(const std::string& data, const Inputs& exact, DType dtype,
                          const Context& context);

Table table_of(const std::vector<Accuracy>& rows);
std::string accuracy_notes();  // how its columns are to be read
nlohmann::ordered_json json_of(const Accuracy& row);

}  // namespace flexprefill::tools
