#include "runtime/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>

#include "flexprefill/error.h"
#include "runtime/utf8.h"

namespace flexprefill::runtime {
namespace {

// Longer than any tokenizer's (Llama 4's has 400), short enough to compile at once.
constexpr size_t kMaxPatternBytes = 16 << 10;
// Backtracking steps a match may take beyond a few for each byte of the text. Patterns that
// backtrack without end reach it in milliseconds; sensible ones take a handful per match, or one
// per character of a run.
constexpr size_t kMinMatchLimit = 1'000'000;
constexpr size_t kMatchLimitPerByte = 8;
constexpr uint32_t kHeapLimitKib = 64 << 10;
constexpr size_t kJitStackMin = 32 << 10, kJitStackMax = 8 << 20;

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using CodePtr = std::unique_ptr<pcre2_code, Deleter<pcre2_code_free>>;
using CompileContextPtr =
    std::unique_ptr<pcre2_compile_context, Deleter<pcre2_compile_context_free>>;
using MatchContextPtr = std::unique_ptr<pcre2_match_context, Deleter<pcre2_match_context_free>>;
using MatchDataPtr = std::unique_ptr<pcre2_match_data, Deleter<pcre2_match_data_free>>;
using JitStackPtr = std::unique_ptr<pcre2_jit_stack, Deleter<pcre2_jit_stack_free>>;

std::string message_of(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

template <typename T>
T require_memory(T pointer) {
  if (!pointer) throw std::bad_alloc();
  return pointer;
}

}  // namespace

struct Regex::Compiled {
  CodePtr code;
  std::string where;

  static std::unique_ptr<const Compiled> compile(const std::string& pattern, uint32_t options,
                                                 const std::string& where) {
    if (pattern.size() > kMaxPatternBytes)
      throw Error(where + ": a regular expression of " + std::to_string(pattern.size()) +
                  " bytes, expected at most " + std::to_string(kMaxPatternBytes));
    const auto context = require_memory(CompileContextPtr(pcre2_compile_context_create(nullptr)));
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    int error = 0;
    size_t offset = 0;
    auto compiled = std::make_unique<Compiled>();
    compiled->where = where;
    compiled->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                       PCRE2_UTF | options, &error, &offset, context.get()));
    if (!compiled->code)
      throw Error(where + ": the regular expression does not compile (" + message_of(error) +
                  ", near byte " + std::to_string(offset) + ")");
    // Where the system forbids it, matching is interpreted: slower, same result.
    pcre2_jit_compile(compiled->code.get(), PCRE2_JIT_COMPLETE);
    return compiled;
  }
};

Regex::Regex(std::unique_ptr<const Compiled> compiled) : compiled_(std::move(compiled)) {}
Regex::Regex(std::string_view pattern, const std::string& where)
    : Regex(Compiled::compile(to_pcre2(pattern, where), PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C,
                              where)) {}
Regex Regex::literal(std::string_view pattern, const std::string& where) {
  return Regex(Compiled::compile(std::string(pattern), PCRE2_LITERAL, where));
}
Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

std::vector<Regex::Span> Regex::find_all(std::string_view text) const {
  const pcre2_code* code = compiled_->code.get();
  const auto match =
      require_memory(MatchDataPtr(pcre2_match_data_create_from_pattern(code, nullptr)));
  const auto context = require_memory(MatchContextPtr(pcre2_match_context_create(nullptr)));
  const size_t limit = kMinMatchLimit + kMatchLimitPerByte * text.size();
  pcre2_set_match_limit(context.get(), static_cast<uint32_t>(std::min<size_t>(limit, UINT32_MAX)));
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());

  JitStackPtr stack;
  std::vector<Span> spans;
  size_t start = 0;
  while (start <= text.size()) {
    // The text is known to be valid; checking it again for every match would be quadratic.
    const auto run = [&] {
      return pcre2_match(code, subject, text.size(), start, PCRE2_NO_UTF_CHECK, match.get(),
                         context.get());
    };
    int result = run();
    if (result == PCRE2_ERROR_JIT_STACKLIMIT && !stack) {  // 32 KiB of the thread's own by default
      stack =
          require_memory(JitStackPtr(pcre2_jit_stack_create(kJitStackMin, kJitStackMax, nullptr)));
      pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
      result = run();
    }
    if (result == PCRE2_ERROR_NOMATCH) break;
    if (result < 0)
      throw Error(compiled_->where + ": the regular expression gives up on the text at byte " +
                  std::to_string(start) + " (" + message_of(result) + ")");
    const size_t* offsets = pcre2_get_ovector_pointer(match.get());
    const Span span = {offsets[0], offsets[1]};
    const bool touches_last = !spans.empty() && spans.back().end == span.begin;
    if (span.begin == span.end && touches_last) {
      if (start == text.size()) break;
      start += utf8_step(text.substr(start)).bytes;
      continue;
    }
    spans.push_back(span);
    start = span.end;
  }
  return spans;
}

}  // namespace flexprefill::runtime
