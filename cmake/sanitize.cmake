# FLEXPREFILL_SANITIZE (address, undefined, thread; comma separated) for everything in the build.
set(FLEXPREFILL_SANITIZE "" CACHE STRING "Sanitizers: address, undefined, thread")
set(CMAKE_C_FLAGS_SANITIZE "-O1 -g" CACHE STRING "Flags of the build type Sanitize")
set(CMAKE_CXX_FLAGS_SANITIZE "-O1 -g" CACHE STRING "Flags of the build type Sanitize")
if(FLEXPREFILL_SANITIZE)
  add_compile_options(-fsanitize=${FLEXPREFILL_SANITIZE} -fno-omit-frame-pointer
                      -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${FLEXPREFILL_SANITIZE})
  # Sanitizer checks confuse the flow analysis of g++ (maybe-uninitialized and friends).
  set(FLEXPREFILL_WERROR OFF)
endif()
if(FLEXPREFILL_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
