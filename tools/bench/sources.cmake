# The subcommand `bench`.
target_sources(
  flexprefill_cli
  PRIVATE bench/bench.cc bench/bench_options.cc bench/attention.cc bench/inputs.cc bench/machine.cc
          bench/measure.cc bench/memory.cc bench/peak.cc bench/row.cc)
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
