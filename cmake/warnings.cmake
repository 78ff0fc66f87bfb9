# Warnings for our own targets only; link `flexprefill_warnings` privately.
add_library(flexprefill_warnings INTERFACE)
target_compile_options(flexprefill_warnings INTERFACE -Wall -Wextra)
if(FLEXPREFILL_WERROR)
  target_compile_options(flexprefill_warnings INTERFACE -Werror)
endif()
