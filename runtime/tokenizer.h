#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace flexprefill::runtime {

/// A Hugging Face tokenizer.json with a byte-level BPE model (the GPT-2, Llama 3, Qwen2 families).
/// Gives the same ids and text as the `tokenizers` library. Anything in the file that is not
/// implemented is refused by name when it is loaded. Immutable: threads may share one.
class Tokenizer {
 public:
  /// `path` is a model folder or a tokenizer.json; tokenizer_config.json beside it gives the
  /// beginning and end tokens, if it exists.
  static Tokenizer load(const std::filesystem::path& path);
  /// `where` starts the messages of errors. `config` is tokenizer_config.json's content, or null.
  static Tokenizer from_json(const nlohmann::json& tokenizer, const nlohmann::json& config,
                             const std::string& where);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  /// Text to ids. Bytes that are not UTF-8 are read as U+FFFD. With `add_special_tokens` the
  /// tokenizer's post-processor adds its own, or tokenizer_config.json's add_bos_token /
  /// add_eos_token do if it has none that adds any.
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const;
  /// Ids to text, always valid UTF-8 (incomplete characters become U+FFFD). Ids without a token are
  /// left out.
  std::string decode(std::span<const int32_t> ids, bool skip_special) const;

  /// One more than the largest id.
  int32_t vocab_size() const;
  std::optional<int32_t> token_id(std::string_view token) const;
  /// As written in tokenizer.json (byte-level alphabet), empty if the id has no token.
  std::string_view token(int32_t id) const;
  bool is_special(int32_t id) const;
  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;

 private:
  friend class StreamDecoder;
  struct Impl;
  explicit Tokenizer(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

/// Decodes ids as they come. The pieces concatenate to what decode() gives for all of them; a piece
/// ends between characters.
class StreamDecoder {
 public:
  /// Keeps a reference: the tokenizer must outlive it.
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special);
  /// Text that is complete after this id; may be empty.
  std::string push(int32_t id);
  /// What is left, incomplete characters as U+FFFD.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::string pending_;  // bytes of a character that is not complete yet
};

}  // namespace flexprefill::runtime
