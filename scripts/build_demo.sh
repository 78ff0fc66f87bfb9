#!/usr/bin/env bash
# Configures and builds what the demonstration needs: the command line, without the tests unless an
# earlier configuration of build/ has them. Argument: number of jobs.
set -euo pipefail
cd "$(dirname "$0")/.."
options=()
if [[ ! -f build/CMakeCache.txt ]]; then options+=(-DFLEXPREFILL_TESTS=OFF -DFLEXPREFILL_EXAMPLES=OFF); fi
cmake --preset release "${options[@]}"
cmake --build build -j "${1:-2}" --target flexprefill_cli
