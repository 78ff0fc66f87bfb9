# The cpu backend. The kernels are compiled once per instruction set, each time into its own namespace;
# everything else is compiled for the base instruction set of the target.
target_sources(flexprefill PRIVATE cpu/backend.cc cpu/head_scores.cc cpu/isa.cc cpu/plan.cc)

set(FLEXPREFILL_CPU_ISAS portable)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  list(APPEND FLEXPREFILL_CPU_ISAS avx2 avx512 avx512bf16)
endif()
set(FLEXPREFILL_CPU_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(FLEXPREFILL_CPU_FLAGS_avx512 ${FLEXPREFILL_CPU_FLAGS_avx2} -mavx512f -mavx512bw -mavx512vl
    -mavx512dq)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # The _mm512_undefined_* of GCC 12's own headers trips them in every function that is inlined here.
  list(APPEND FLEXPREFILL_CPU_FLAGS_avx512 -Wno-uninitialized -Wno-maybe-uninitialized)
endif()
set(FLEXPREFILL_CPU_FLAGS_avx512bf16 ${FLEXPREFILL_CPU_FLAGS_avx512} -mavx512bf16)

set(level 0)  # as simd.h numbers them
foreach(isa IN LISTS FLEXPREFILL_CPU_ISAS)
  set(FLEXPREFILL_CPU_DEFINITIONS_${isa} FLEXPREFILL_ISA=${isa} FLEXPREFILL_SIMD=${level})
  math(EXPR level "${level} + 1")
  set(target flexprefill_cpu_${isa})
  add_library(${target} OBJECT cpu/attend.cc cpu/mean.cc cpu/score_coverage.cc cpu/score_official.cc)
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
  target_compile_definitions(${target} PRIVATE ${FLEXPREFILL_CPU_DEFINITIONS_${isa}})
  target_compile_options(${target} PRIVATE ${FLEXPREFILL_CPU_FLAGS_${isa}})
  target_link_libraries(${target} PRIVATE flexprefill_warnings)
  set_target_properties(${target} PROPERTIES CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  target_sources(flexprefill PRIVATE $<TARGET_OBJECTS:${target}>)

  # For the tests and benchmarks, which compile against simd.h as well.
  foreach(name FLAGS DEFINITIONS)
    set(FLEXPREFILL_CPU_${name}_${isa} ${FLEXPREFILL_CPU_${name}_${isa}} PARENT_SCOPE)
  endforeach()
endforeach()
set(FLEXPREFILL_CPU_ISAS ${FLEXPREFILL_CPU_ISAS} PARENT_SCOPE)
