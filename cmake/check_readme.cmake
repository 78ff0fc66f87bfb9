# Fails unless the C++ program in README is examples/quickstart.cc, which the build compiles and a test runs.
file(READ ${README} readme)
file(READ ${PROGRAM} program)
string(FIND "${readme}" "```cpp\n${program}```\n" at)
if(at EQUAL -1)
  message(FATAL_ERROR "README.md: the C++ quick start differs from ${PROGRAM}; copy the file there")
endif()
