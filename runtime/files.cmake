# The file layer: JSON, safetensors, tokenizer.
target_sources(flexprefill_runtime PRIVATE json_file.cc mapped_file.cc safetensors.cc
                                           safetensors_model.cc safetensors_write.cc)
target_link_libraries(flexprefill_runtime PRIVATE PkgConfig::pcre2 PkgConfig::utf8proc)
