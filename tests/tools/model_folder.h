#pragma once

// The embedded model and prompts for it.

#include <string>

namespace flexprefill::testing {

inline const std::string kModel = FLEXPREFILL_ROOT "/models/needle-14m";

// Text of a few dozen tokens per line with a planted fact, then the question about it. The model
// answers 7294161 and a newline.
inline std::string needle_prompt(int lines) {
  std::string text;
  for (int n = 0; n < lines; ++n) {
    text += "The function in section " + std::to_string(n) +
            " returns the length of the list, and an error when the argument is not a list.\n";
    if (n == lines / 3) text += "One of the special magic numbers for amber-anchor is: 7294161.\n";
  }
  return text +
         "\nQuestion: What is the special magic number for amber-anchor mentioned in the text?\n"
         "Answer: ";
}

}  // namespace flexprefill::testing
