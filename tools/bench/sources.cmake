# The subcommand `bench`.
target_sources(
  flexprefill_cli
  PRIVATE bench/accuracy.cc
          bench/attention.cc
          bench/bench.cc
          bench/bench_accuracy.cc
          bench/bench_attention.cc
          bench/bench_model.cc
          bench/bench_options.cc
          bench/bench_peak.cc
          bench/bench_suite.cc
          bench/inputs.cc
          bench/isa_process.cc
          bench/machine.cc
          bench/measure.cc
          bench/memory.cc
          bench/model_layers.cc
          bench/model_prefill.cc
          bench/model_report.cc
          bench/peak.cc
          bench/products.cc
          bench/row.cc
          bench/suite.cc
          bench/suite_attention.cc
          bench/suite_policy.cc)
target_link_libraries(flexprefill_cli PRIVATE OpenMP::OpenMP_CXX)

# The machine's limits with each instruction set, through the same simd.h as the kernels.
foreach(isa IN LISTS FLEXPREFILL_CPU_ISAS)
  add_library(flexprefill_peak_${isa} OBJECT bench/peak_kernel.cc)
  target_include_directories(flexprefill_peak_${isa} PRIVATE ${PROJECT_SOURCE_DIR}/include
                                                             ${PROJECT_SOURCE_DIR}/src)
  target_compile_options(flexprefill_peak_${isa} PRIVATE ${FLEXPREFILL_CPU_FLAGS_${isa}})
  target_compile_definitions(flexprefill_peak_${isa} PRIVATE ${FLEXPREFILL_CPU_DEFINITIONS_${isa}})
  target_link_libraries(flexprefill_peak_${isa} PRIVATE flexprefill_warnings)
  target_sources(flexprefill_cli PRIVATE $<TARGET_OBJECTS:flexprefill_peak_${isa}>)
endforeach()
