#!/usr/bin/env bash
# clang-format on every tracked C and C++ file; with --check it changes nothing and fails on a difference.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=(-i)
if [[ ${1:-} == --check ]]; then mode=(--dry-run --Werror); fi
git ls-files -z '*.h' '*.cc' '*.c' '*.cu' '*.cuh' | xargs -0 clang-format-14 "${mode[@]}"
