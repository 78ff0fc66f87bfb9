# flexprefill_test(NAME LABEL SOURCES... [LIBS...]): one GoogleTest executable, each of its tests known
# to CTest under LABEL (unit, model or fuzz).
function(flexprefill_test name label)
  cmake_parse_arguments(arg "" "" "SOURCES;LIBS;ENVIRONMENT" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(${name} PRIVATE flexprefill flexprefill_warnings GTest::gmock GTest::gtest_main
                                        ${arg_LIBS})
  target_compile_definitions(${name} PRIVATE FLEXPREFILL_ROOT="${PROJECT_SOURCE_DIR}")
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60
                       PROPERTIES LABELS ${label} TIMEOUT 600 ENVIRONMENT "${arg_ENVIRONMENT}")
endfunction()
