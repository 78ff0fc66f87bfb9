# The file layer: JSON, safetensors, tokenizer.
target_sources(
  flexprefill_runtime
  PRIVATE added_tokens.cc
          bpe.cc
          byte_level.cc
          json_file.cc
          mapped_file.cc
          normalizer.cc
          postprocessor.cc
          pretokenizer.cc
          regex.cc
          regex_translate.cc
          safetensors.cc
          safetensors_model.cc
          safetensors_write.cc
          tokenizer.cc
          utf8.cc)
target_link_libraries(flexprefill_runtime PRIVATE PkgConfig::pcre2 PkgConfig::utf8proc)
