# The transformer: configuration, weights, operations, session, generation.
target_sources(
  flexprefill_runtime
  PRIVATE buffer.cc
          config.cc
          generate.cc
          kv_cache.cc
          matmul.cc
          ops.cc
          prompt_masks.cc
          rope.cc
          sampler.cc
          session.cc
          transformer.cc
          weights.cc
          widest_vectors.cc)
