#pragma once

// A reader for the tests' own fixtures: trusts the file, knows f32, bf16 and int32.

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "tests/support/tensor.h"

namespace flexprefill::test {

class Fixture {
 public:
  // Relative to tests/data.
  explicit Fixture(const std::string& path);

  std::vector<std::string> names() const;
  bool has(const std::string& name) const { return entries_.count(name) != 0; }

  Tensor tensor(const std::string& name) const;  // bf16 [tokens, heads, head_dim]
  std::vector<int32_t> ints(const std::string& name) const;
  std::vector<float> floats(const std::string& name) const;

 private:
  struct Entry {
    std::string dtype;
    std::vector<int64_t> shape;
    size_t begin = 0, end = 0;  // bytes
  };

  const Entry& entry(const std::string& name, const std::string& dtype) const;

  std::map<std::string, Entry> entries_;
  std::vector<char> data_;
};

}  // namespace flexprefill::test
