// The pipeline of a tokenizer.json: added tokens, normalizer, pre-tokenizer, model, post-processor;
// and back. Each step is a file of its own; this one puts them together.
#include "runtime/tokenizer.h"

#include <nlohmann/json.hpp>
#include <unordered_map>

#include "runtime/added_tokens.h"
#include "runtime/bpe.h"
#include "runtime/byte_level.h"
#include "runtime/json_fields.h"
#include "runtime/json_file.h"
#include "runtime/normalizer.h"
#include "runtime/postprocessor.h"
#include "runtime/pretokenizer.h"
#include "runtime/utf8.h"

namespace flexprefill::runtime {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr size_t kMaxTextBytes = size_t{1} << 30;  // BPE counts a word's bytes in 31 bits
// Longer words are rarely repeated and would make the cache as large as the text.
constexpr size_t kMaxCachedWord = 48;

// The ids of words that one call has met already. Most words of a text are repeated.
class WordCache {
 public:
  explicit WordCache(const Bpe& bpe) : bpe_(bpe) {}

  void encode(std::string_view word, std::vector<int32_t>& ids) {
    if (word.size() > kMaxCachedWord) return bpe_.encode(word, ids);
    const auto [it, is_new] = known_.try_emplace(word);
    if (is_new) {
      it->second.begin = encoded_.size();
      bpe_.encode(word, encoded_);
      it->second.end = encoded_.size();
    }
    for (size_t i = it->second.begin; i < it->second.end; ++i) ids.push_back(encoded_[i]);
  }

 private:
  struct Range {
    size_t begin = 0, end = 0;
  };
  const Bpe& bpe_;
  std::unordered_map<std::string_view, Range> known_;  // words point into the caller's text
  std::vector<int32_t> encoded_;
};

void require_byte_level_decoder(const json* node, const std::string& where) {
  if (node == nullptr) throw Error(where + ": missing; expected ByteLevel");
  require_object(*node, where);
  const std::string& type = string_field(*node, "type", where);
  if (type == "Sequence") {
    const json& parts = array_field(*node, "decoders", where);
    if (parts.size() == 1) return require_byte_level_decoder(&parts[0], where + ".decoders");
    throw Error(where + ": a Sequence of " + std::to_string(parts.size()) +
                " decoders is not supported; expected ByteLevel alone");
  }
  if (type != "ByteLevel")
    throw Error(where + ": decoder \"" + shorten(type) + "\" is not supported; expected ByteLevel");
}

}  // namespace

struct Tokenizer::Impl {
  struct Entry {
    std::string token;  // as written in the file
    std::string bytes;  // what it decodes to
    bool special = false;
  };

  std::vector<AddedToken> added;
  Normalizer normalizer;
  Pretokenizer pretokenizer;
  Bpe bpe;
  Postprocessor postprocessor;
  AddedTokenFinder raw_finder, normalized_finder;
  std::unordered_map<int32_t, Entry> entries;               // not dense: a file may declare any id
  std::unordered_map<std::string_view, int32_t> added_ids;  // keys point into `added`
  std::optional<int32_t> bos, eos;
  int32_t vocab_size = 0;

  std::optional<int32_t> id_of(std::string_view token) const {
    if (const auto it = added_ids.find(token); it != added_ids.end()) return it->second;
    const auto it = bpe.vocab().find(std::string(token));
    return it == bpe.vocab().end() ? std::nullopt : std::optional(it->second);
  }

  Entry& add_entry(int32_t id, const std::string& token, const std::string& where) {
    const auto [it, is_new] = entries.try_emplace(id);
    Entry& entry = it->second;
    if (!is_new && entry.token != token)
      throw Error(where + ": \"" + shorten(entry.token) + "\" and \"" + shorten(token) +
                  "\" have the same id " + std::to_string(id));
    entry.token = token;
    entry.bytes = from_byte_level(token).value_or(token);
    vocab_size = std::max(vocab_size, id + 1);
    return entry;
  }

  void index_tokens(const std::string& where) {
    for (const auto& [token, id] : bpe.vocab()) add_entry(id, token, where + ": model.vocab");
    for (const AddedToken& token : added) {
      const std::string at = where + ": added_tokens";
      const auto known = bpe.vocab().find(token.content);
      if (known != bpe.vocab().end() && known->second != token.id)
        throw Error(at + ": \"" + shorten(token.content) + "\" has id " + std::to_string(token.id) +
                    ", but " + std::to_string(known->second) + " in model.vocab");
      const auto [it, is_new] = added_ids.emplace(token.content, token.id);
      if (!is_new && it->second != token.id)
        throw Error(at + ": \"" + shorten(token.content) + "\" has two ids");
      Entry& entry = add_entry(token.id, token.content, at);
      entry.special |= token.special;
      // `tokenizers` decodes these to the text it looks for, through the alphabet like any other.
      if (token.normalized) {
        const std::string normal = normalizer.apply(token.content);
        entry.bytes = from_byte_level(normal).value_or(normal);
      }
    }
    raw_finder = AddedTokenFinder(added, /*normalized=*/false, normalizer);
    normalized_finder = AddedTokenFinder(added, /*normalized=*/true, normalizer);
    for (const auto* ids : {&postprocessor.before, &postprocessor.after})
      for (const int32_t id : *ids)
        if (!entries.contains(id))
          throw Error(where + ": post_processor adds id " + std::to_string(id) +
                      ", which has no token");
  }

  // A special token that tokenizer_config.json names, as text or as {"content": text}.
  std::optional<int32_t> configured_token(const json& config, const char* key,
                                          const std::string& where) const {
    const json* value = find_field(config, key);
    if (value == nullptr) return std::nullopt;
    const std::string at = where + "." + key;
    const std::string& text =
        value->is_object() ? string_field(*value, "content", at) : string_value(*value, at);
    const std::optional<int32_t> id = id_of(text);
    if (!id) throw Error(at + " = \"" + shorten(text) + "\" is not a token of tokenizer.json");
    return id;
  }

  void apply_config(const json& config, const std::string& where) {
    require_object(config, where);
    bos = configured_token(config, "bos_token", where);
    eos = configured_token(config, "eos_token", where);
    if (!postprocessor.before.empty() || !postprocessor.after.empty()) return;
    const auto add = [&](const char* key, std::optional<int32_t> id, std::vector<int32_t>& side) {
      if (!bool_field(config, key, false, where)) return;
      if (!id) throw Error(where + "." + key + " = true, but the token is not named");
      side.push_back(*id);
    };
    add("add_bos_token", bos, postprocessor.before);
    add("add_eos_token", eos, postprocessor.after);
  }

  void append_bytes(int32_t id, bool skip_special, std::string& bytes) const {
    const auto it = entries.find(id);
    if (it != entries.end() && !(skip_special && it->second.special)) bytes += it->second.bytes;
  }
};

Tokenizer::Tokenizer(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::from_json(const json& root, const json& config, const std::string& where) {
  require_object(root, where);
  auto impl = std::make_unique<Impl>();
  impl->added = parse_added_tokens(find_field(root, "added_tokens"), where + ": added_tokens");
  impl->normalizer = Normalizer::from_json(find_field(root, "normalizer"), where + ": normalizer");
  impl->bpe = Bpe::from_json(require_field(root, "model", where), where + ": model");
  impl->pretokenizer = Pretokenizer::from_json(require_field(root, "pre_tokenizer", where),
                                               where + ": pre_tokenizer");
  impl->postprocessor =
      Postprocessor::from_json(find_field(root, "post_processor"), where + ": post_processor");
  require_byte_level_decoder(find_field(root, "decoder"), where + ": decoder");
  impl->index_tokens(where);
  if (!config.is_null()) impl->apply_config(config, where + " with tokenizer_config.json");
  return Tokenizer(std::move(impl));
}

Tokenizer Tokenizer::load(const fs::path& path) {
  std::error_code ignored;
  const bool folder = fs::is_directory(path, ignored);
  const fs::path file = folder ? path / "tokenizer.json" : path;
  if (folder && !fs::exists(file, ignored))
    throw Error(path.string() + ": no tokenizer.json in it" +
                (fs::exists(path / "tokenizer.model", ignored)
                     ? "; a SentencePiece tokenizer.model is not supported"
                     : "; expected the folder of a Hugging Face model"));
  const fs::path config_file = file.parent_path() / "tokenizer_config.json";
  const json config = fs::exists(config_file, ignored) ? read_json_file(config_file) : json();
  return from_json(read_json_file(file), config, file.string());
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  if (text.size() > kMaxTextBytes)
    throw Error("text of " + std::to_string(text.size()) + " bytes, expected at most " +
                std::to_string(kMaxTextBytes));
  const std::string valid = to_valid_utf8(text);
  std::deque<std::string> storage;  // text that steps make; the words' cache points into it
  WordCache words(impl_->bpe);
  std::vector<int32_t> ids;
  if (add_special_tokens) ids = impl_->postprocessor.before;
  for (const auto& outer : impl_->raw_finder.split(valid)) {
    if (outer.id >= 0) {
      ids.push_back(outer.id);
      continue;
    }
    const std::string& normal = storage.emplace_back(impl_->normalizer.apply(outer.text));
    for (const auto& inner : impl_->normalized_finder.split(normal)) {
      if (inner.id >= 0) {
        ids.push_back(inner.id);
        continue;
      }
      for (const std::string_view word : impl_->pretokenizer.split(inner.text, storage))
        words.encode(word, ids);
    }
  }
  if (add_special_tokens)
    ids.insert(ids.end(), impl_->postprocessor.after.begin(), impl_->postprocessor.after.end());
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) impl_->append_bytes(id, skip_special, bytes);
  return to_valid_utf8(bytes);
}

int32_t Tokenizer::vocab_size() const { return impl_->vocab_size; }

std::optional<int32_t> Tokenizer::token_id(std::string_view token) const {
  return impl_->id_of(token);
}

std::string_view Tokenizer::token(int32_t id) const {
  const auto it = impl_->entries.find(id);
  return it == impl_->entries.end() ? std::string_view() : it->second.token;
}

bool Tokenizer::is_special(int32_t id) const {
  const auto it = impl_->entries.find(id);
  return it != impl_->entries.end() && it->second.special;
}

std::optional<int32_t> Tokenizer::bos_id() const { return impl_->bos; }

std::optional<int32_t> Tokenizer::eos_id() const { return impl_->eos; }

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(tokenizer), skip_special_(skip_special) {}

std::string StreamDecoder::push(int32_t id) {
  tokenizer_.impl_->append_bytes(id, skip_special_, pending_);
  std::string text;
  move_complete_utf8(pending_, text);
  return text;
}

std::string StreamDecoder::finish() {
  std::string text = to_valid_utf8(pending_);
  pending_.clear();
  return text;
}

}  // namespace flexprefill::runtime
