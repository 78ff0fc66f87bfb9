# The cuda backend (Hopper). FLEXPREFILL_CUDA: AUTO builds it where nvcc is found, ON requires it, OFF leaves it out.
# FLEXPREFILL_WITH_CUDA says what was decided.
set(FLEXPREFILL_CUDA AUTO CACHE STRING "Build the cuda backend: AUTO (where nvcc is found), ON, OFF")
set_property(CACHE FLEXPREFILL_CUDA PROPERTY STRINGS AUTO ON OFF)
set(FLEXPREFILL_WITH_CUDA OFF)
if(FLEXPREFILL_CUDA STREQUAL "AUTO")
  if(NOT FLEXPREFILL_SANITIZE AND NOT FLEXPREFILL_FUZZ) # nvcc has no sanitizers
    include(CheckLanguage)
    check_language(CUDA)
    if(CMAKE_CUDA_COMPILER)
      set(FLEXPREFILL_WITH_CUDA ON)
    endif()
  endif()
elseif(FLEXPREFILL_CUDA)
  set(FLEXPREFILL_WITH_CUDA ON)
endif()

if(FLEXPREFILL_WITH_CUDA)
  # wgmma and setmaxnreg exist for sm_90a alone; machine code only, because nothing else could run it.
  set(CMAKE_CUDA_ARCHITECTURES 90a-real)
  enable_language(CUDA)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION) # CMake 3.25 does not know that nvcc 13 has it
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  endif()
  find_package(CUDAToolkit 13.0 REQUIRED)
  # Fails the compilation on register spills and on what makes ptxas serialise wgmma.
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${PROJECT_SOURCE_DIR}/cmake/ptxas_gate.sh)
  if(FLEXPREFILL_CCACHE)
    list(APPEND CMAKE_CUDA_COMPILER_LAUNCHER ${FLEXPREFILL_CCACHE})
  endif()
endif()
message(STATUS "cuda backend: ${FLEXPREFILL_WITH_CUDA}")
