#include "tests/support/safetensors.h"

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "numeric.h"

namespace flexprefill::test {
namespace {

template <typename T>
std::vector<T> copy(const std::vector<char>& data, size_t begin, size_t end) {
  std::vector<T> values((end - begin) / sizeof(T));
  std::memcpy(values.data(), data.data() + begin, end - begin);
  return values;
}

}  // namespace

Fixture::Fixture(const std::string& path) {
  const std::string full = std::string(FLEXPREFILL_ROOT) + "/tests/data/" + path;
  std::ifstream file(full, std::ios::binary);
  uint64_t header_bytes = 0;
  if (!file.read(reinterpret_cast<char*>(&header_bytes), sizeof(header_bytes))) {
    throw std::runtime_error(full + ": cannot be read");
  }
  std::string header(header_bytes, ' ');
  file.read(header.data(), static_cast<std::streamsize>(header.size()));
  const nlohmann::json entries = nlohmann::json::parse(header);
  for (const auto& [name, entry] : entries.items()) {
    if (name == "__metadata__") continue;
    entries_[name] = {entry["dtype"], entry["shape"], entry["data_offsets"][0],
                      entry["data_offsets"][1]};
  }
  data_.assign(std::istreambuf_iterator<char>(file), {});
}

std::vector<std::string> Fixture::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : entries_) names.push_back(name);
  return names;
}

Tensor Fixture::tensor(const std::string& name) const {
  const Entry& e = entry(name, "BF16");
  Tensor tensor(DType::kBF16, e.shape.at(0), static_cast<int32_t>(e.shape.at(1)),
                static_cast<int32_t>(e.shape.at(2)));
  const auto bits = copy<uint16_t>(data_, e.begin, e.end);
  size_t n = 0;
  tensor.fill([&] { return internal::bf16_to_float(bits[n++]); });
  return tensor;
}

std::vector<int32_t> Fixture::ints(const std::string& name) const {
  const Entry& e = entry(name, "I32");
  return copy<int32_t>(data_, e.begin, e.end);
}

std::vector<float> Fixture::floats(const std::string& name) const {
  const Entry& e = entry(name, "F32");
  return copy<float>(data_, e.begin, e.end);
}

const Fixture::Entry& Fixture::entry(const std::string& name, const std::string& dtype) const {
  const Entry& e = entries_.at(name);
  if (e.dtype != dtype) throw std::runtime_error(name + ": " + e.dtype + ", expected " + dtype);
  if (e.end > data_.size()) throw std::runtime_error(name + ": beyond the end of the file");
  return e;
}

}  // namespace flexprefill::test
