#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace flexprefill::runtime {

/// The "model" of a tokenizer.json: byte-level byte pair encoding. A word begins as one symbol per
/// byte; then the pair with the lowest rank is merged, the leftmost first, until none is left.
class Bpe {
 public:
  static Bpe from_json(const nlohmann::json& json, const std::string& where);

  /// Token text as written in the file (byte-level alphabet) to id.
  const std::unordered_map<std::string, int32_t>& vocab() const { return vocab_; }

  /// Appends the ids of one word, in O(n log n) for n bytes.
  void encode(std::string_view word, std::vector<int32_t>& ids) const;

 private:
  struct Merge {
    int32_t rank, id;
  };
  void parse_vocab(const nlohmann::json& json, const std::string& where);
  void parse_merges(const nlohmann::json& json, const std::string& where);
  const Merge* find_merge(int32_t left, int32_t right) const;
  size_t slot_of(uint64_t pair) const;

  std::unordered_map<std::string, int32_t> vocab_;
  int32_t byte_ids_[256] =
      {};  // -1: the vocabulary lacks that byte, text loses it (as in `tokenizers`)
  bool ignore_merges_ = false;

  // Open addressing, at most half full: pair of ids -> merge.
  struct Slot {
    uint64_t pair;
    Merge merge;
  };
  std::vector<Slot> slots_;
  std::vector<int32_t> merged_ids_;  // [merges] by rank
};

}  // namespace flexprefill::runtime
