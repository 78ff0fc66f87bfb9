# Warnings for our own targets only; link `flexprefill_warnings` privately.
add_library(flexprefill_warnings INTERFACE)
target_compile_options(flexprefill_warnings INTERFACE -Wall -Wextra)
if(FLEXPREFILL_WERROR)
  target_compile_options(flexprefill_warnings INTERFACE -Werror)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # g++ 12 warns of values inside an empty std::optional that nobody reads.
  target_compile_options(flexprefill_warnings INTERFACE -Wno-maybe-uninitialized)
endif()
