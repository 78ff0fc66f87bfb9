# The cuda backend: Hopper (sm_90a). Its objects join the library, so that linking stays plain C++.
find_package(Threads REQUIRED)
add_library(flexprefill_cuda OBJECT cuda/attend.cu cuda/attend_prepare.cu cuda/attend_sm90.cu cuda/backend.cu cuda/finish.cu
            cuda/mean_queries.cu cuda/plan.cu cuda/score_coverage.cu cuda/score_official.cu cuda/select_coverage.cu
            cuda/select_official.cu cuda/tensor_map.cu cuda/write_rows.cu)
target_include_directories(flexprefill_cuda PRIVATE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
target_compile_options(
  flexprefill_cuda
  PRIVATE -lineinfo -Xptxas=-v -Xcompiler=-Wall,-Wextra$<$<BOOL:${FLEXPREFILL_WERROR}>:,-Werror>)
set_target_properties(
  flexprefill_cuda PROPERTIES CUDA_SEPARABLE_COMPILATION OFF  # relocatable code serialises wgmma (C7509)
                              CUDA_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
target_sources(flexprefill PRIVATE $<TARGET_OBJECTS:flexprefill_cuda>)
target_compile_definitions(flexprefill PRIVATE FLEXPREFILL_WITH_CUDA)
# Static, and no libcuda: a program built here starts on a machine without a driver.
target_link_libraries(flexprefill PRIVATE CUDA::cudart_static)
target_link_options(flexprefill PRIVATE $<$<STREQUAL:$<TARGET_PROPERTY:TYPE>,SHARED_LIBRARY>:-Wl,--exclude-libs,ALL>)
