# Short names for what CMake, CTest and the scripts do. `make help` lists them.
JOBS ?= $(shell nproc)
export CTEST_PARALLEL_LEVEL ?= $(JOBS)

help:
	@echo 'make demo     install what is missing, build, and ask a model about a 32,768-token document'
	@echo 'make test     install what is missing, build, and run every test'
	@echo 'make asan     unit and fuzz tests under the address sanitizer (also: ubsan, asan-ubsan, tsan)'
	@echo 'make format   clang-format on every source file'
	@echo 'make tidy     clang-tidy on the library, the runtime, the tools and the examples'
	@echo 'make clean    remove every build folder'

demo:
	@scripts/setup.sh build
	cmake --preset release $(if $(wildcard build/CMakeCache.txt),,-DFLEXPREFILL_TESTS=OFF)
	cmake --build build -j $(JOBS) --target flexprefill_cli
	@scripts/demo.sh

test:
	@scripts/setup.sh test
	cmake --preset release -DFLEXPREFILL_TESTS=ON
	cmake --build build -j $(JOBS)
	ctest --preset release

asan ubsan asan-ubsan: setup-test
	cmake --preset $@
	cmake --build --preset $@ -j $(JOBS)
	ctest --preset $@

tsan: setup-check
	cmake --preset tsan
	cmake --build --preset tsan -j $(JOBS)
	ctest --preset tsan

format: setup-check
	scripts/format.sh

tidy: setup-check
	scripts/tidy.sh

setup-%:
	@scripts/setup.sh $*

clean:
	rm -rf build build-*

.DEFAULT_GOAL := help
.PHONY: help demo test asan ubsan asan-ubsan tsan format tidy clean
