#include "runtime/bpe.h"

#include <algorithm>
#include <bit>
#include <queue>
#include <utility>

#include "runtime/byte_level.h"
#include "runtime/json_fields.h"

namespace flexprefill::runtime {
namespace {

using nlohmann::json;

constexpr uint64_t kEmpty = ~uint64_t{0};  // ids have 31 bits, so no pair looks like this

uint64_t pair_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// Options of the BPE model that change ids and that no byte-level family uses.
void refuse_options(const json& node, const std::string& where) {
  if (const json* dropout = find_field(node, "dropout"))
    if (!dropout->is_number() || dropout->get<double>() != 0.0)
      throw Error(where + ".dropout is set: encoding would be random; expected null");
  if (bool_field(node, "byte_fallback", false, where))
    throw Error(where + ".byte_fallback = true is not supported; only byte-level BPE is");
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (const json* text = find_field(node, affix))
      if (!string_value(*text, where + "." + affix).empty())
        throw Error(where + "." + affix + " is not supported; expected null or \"\"");
}

// The two halves of a merge, written "a b" or ["a", "b"].
std::pair<std::string, std::string> halves(const json& merge, const std::string& where) {
  if (merge.is_array() && merge.size() == 2)
    return {string_value(merge[0], where), string_value(merge[1], where)};
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos)
      return {text.substr(0, space), text.substr(space + 1)};
  }
  throw Error(where + ": expected \"left right\" or [\"left\", \"right\"]");
}

}  // namespace

void Bpe::parse_vocab(const json& node, const std::string& where) {
  require_object(node, where);
  vocab_.reserve(node.size());
  for (const auto& [token, id] : node.items())
    vocab_.emplace(token, id_value(id, where + "[\"" + shorten(token) + "\"]"));
  for (int byte = 0; byte < 256; ++byte) {
    const auto it = vocab_.find(to_byte_level(std::string(1, static_cast<char>(byte))));
    byte_ids_[byte] = it == vocab_.end() ? -1 : it->second;
  }
}

void Bpe::parse_merges(const json& node, const std::string& where) {
  slots_.assign(std::bit_ceil(2 * node.size() + 1), Slot{kEmpty, {0, 0}});
  const auto id_of = [&](const std::string& token, const std::string& at) {
    const auto it = vocab_.find(token);
    if (it == vocab_.end())
      throw Error(at + ": \"" + shorten(token) + "\" is not in the vocabulary");
    return it->second;
  };
  int32_t rank = 0;
  for (const json& merge : node) {
    // Files made from merges.txt may begin with its version line.
    if (merge.is_string() && merge.get_ref<const std::string&>().starts_with("#version")) continue;
    const std::string at = where + "[" + std::to_string(rank) + "]";
    const auto [left, right] = halves(merge, at);
    const uint64_t pair = pair_of(id_of(left, at), id_of(right, at));
    const int32_t merged = id_of(left + right, at);
    slots_[slot_of(pair)] = {pair, {rank, merged}};  // of a repeated pair the last counts
    merged_ids_.push_back(merged);
    ++rank;
  }
}

Bpe Bpe::from_json(const json& node, const std::string& where) {
  require_object(node, where);
  // Files older than the field "type" are BPE when they have merges.
  const json* type = find_field(node, "type");
  const std::string name = type != nullptr
                               ? string_value(*type, where + ".type")
                               : (find_field(node, "merges") != nullptr ? "BPE" : "unknown");
  if (name != "BPE")
    throw Error(where + ": a tokenizer of type \"" + shorten(name) +
                "\" is not supported; expected BPE");
  refuse_options(node, where);
  Bpe bpe;
  bpe.ignore_merges_ = bool_field(node, "ignore_merges", false, where);
  bpe.parse_vocab(require_field(node, "vocab", where), where + ".vocab");
  bpe.parse_merges(array_field(node, "merges", where), where + ".merges");
  const bool all_bytes = std::none_of(std::begin(bpe.byte_ids_), std::end(bpe.byte_ids_),
                                      [](int id) { return id < 0; });
  if (find_field(node, "unk_token") != nullptr && !all_bytes)
    throw Error(where + ".unk_token is set and the vocabulary lacks some of the 256 bytes, which " +
                "is not supported; expected a byte-level vocabulary");
  return bpe;
}

size_t Bpe::slot_of(uint64_t pair) const {
  uint64_t hash = pair;  // the finaliser of splitmix64
  hash = (hash ^ hash >> 30) * 0xBF58476D1CE4E5B9u;
  hash = (hash ^ hash >> 27) * 0x94D049BB133111EBu;
  const size_t mask = slots_.size() - 1;
  size_t slot = (hash ^ hash >> 31) & mask;
  while (slots_[slot].pair != pair && slots_[slot].pair != kEmpty) slot = (slot + 1) & mask;
  return slot;
}

const Bpe::Merge* Bpe::find_merge(int32_t left, int32_t right) const {
  const Slot& slot = slots_[slot_of(pair_of(left, right))];
  return slot.pair == kEmpty ? nullptr : &slot.merge;
}

void Bpe::encode(std::string_view word, std::vector<int32_t>& ids) const {
  if (ignore_merges_) {
    if (const auto it = vocab_.find(to_byte_level(word)); it != vocab_.end()) {
      ids.push_back(it->second);
      return;
    }
  }
  struct Symbol {
    int32_t id;        // -1: merged into its left neighbour
    int32_t previous;  // -1: none
    int32_t next;      // symbols.size(): none
  };
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  for (const char byte : word) {
    const int32_t id = byte_ids_[static_cast<unsigned char>(byte)];
    const auto at = static_cast<int32_t>(symbols.size());
    if (id >= 0) symbols.push_back({id, at - 1, at + 1});
  }
  const auto size = static_cast<int32_t>(symbols.size());

  // Rank above position in one number, so that the queue is ordered by both.
  const auto candidate = [](int32_t rank, int32_t position) { return pair_of(rank, position); };
  std::vector<uint64_t> first;
  first.reserve(symbols.size());
  for (int32_t i = 0; i + 1 < size; ++i)
    if (const Merge* merge = find_merge(symbols[i].id, symbols[i + 1].id))
      first.push_back(candidate(merge->rank, i));
  std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> queue(std::greater<>(),
                                                                             std::move(first));
  const auto offer = [&](int32_t left, int32_t right) {
    if (left < 0 || right >= size) return;
    if (const Merge* merge = find_merge(symbols[left].id, symbols[right].id))
      queue.push(candidate(merge->rank, left));
  };
  while (!queue.empty()) {
    const auto position = static_cast<int32_t>(queue.top() & 0xFFFFFFFF);
    const int32_t merged = merged_ids_[queue.top() >> 32];
    queue.pop();
    Symbol& left = symbols[position];
    if (left.id < 0 || left.next >= size) continue;
    const Symbol right = symbols[left.next];
    // The neighbours may have changed since the candidate was queued. What counts is that they
    // still merge to the same token, at whatever rank: this is how `tokenizers` decides.
    const Merge* merge = find_merge(left.id, right.id);
    if (merge == nullptr || merge->id != merged) continue;
    symbols[left.next].id = -1;
    left.id = merged;
    left.next = right.next;
    if (right.next < size) symbols[right.next].previous = position;
    offer(left.previous, position);
    offer(position, left.next);
  }
  for (int32_t i = 0; i < size; i = symbols[i].next) ids.push_back(symbols[i].id);
}

}  // namespace flexprefill::runtime
