#!/usr/bin/env bash
# clang-tidy on host code; warnings are errors (.clang-tidy). Arguments: regular expressions of files,
# default the library, the runtime, the tools and the examples.
set -euo pipefail
cd "$(dirname "$0")/.."
cmake --preset tidy >/dev/null
root=$(pwd)
if (($# == 0)); then set -- "$root/(src|runtime|tools|examples)/.*"; fi
run-clang-tidy-14 -p build-tidy -j "$(nproc)" -quiet "$@"
