#!/usr/bin/env bash
# gpu_check.sh [BUILD_DIR]: builds the library with its cuda backend, tests it and times it, on a machine with a
# Hopper GPU. Needs nvcc 13, CMake, ninja, GoogleTest, nlohmann-json; python3 with PyTorch for the peer (cuDNN), which
# is left out without. Logs go to BUILD_DIR/gpu_check/ (or $OUT); a short table comes last.
# TIMES=0 leaves the timing out, TESTS='regular expression' limits the tests.
set -uo pipefail
cd "$(dirname "$0")/.."
build=${1:-build-gpu}
logs=${OUT:-$build/gpu_check}
mkdir -p "$logs"

nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,power.limit --format=csv,noheader | tee "$logs/gpu.txt"

generator=()
command -v ninja >/dev/null && generator=(-G Ninja)
{
  cmake -S . -B "$build" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DFLEXPREFILL_CUDA=ON \
    -DFLEXPREFILL_RUNTIME=OFF -DFLEXPREFILL_TOOLS=OFF -DFLEXPREFILL_EXAMPLES=OFF -DFLEXPREFILL_WERROR=OFF &&
    cmake --build "$build" -j "$(nproc)" --target ${TARGETS:-all}
} >"$logs/build.log" 2>&1 || {
  grep -E 'error|ptxas_gate|spill|C75' "$logs/build.log" | head -n 40
  tail -n 5 "$logs/build.log"
  echo 'gpu_check: the build failed'
  exit 1
}

failed=0
if [[ ${TESTS:-} != none ]]; then
  # One process per suite: a thousand tests would load the driver a thousand times.
  for suite in cuda/cuda_test attend/attend_test plan/cuda_plan_test; do
    [[ -x $build/tests/$suite && $suite =~ ${TESTS:-.} ]] || continue
    log=$logs/$(basename "$suite").log
    FLEXPREFILL_BACKEND=cuda timeout 300 "$build/tests/$suite" >"$log" 2>&1
    status=$?
    ((status == 0)) || failed=1
    printf '%-22s exit %d  %s; %s\n' "$(basename "$suite")" "$status" \
      "$(grep -E '^\[==========\] .* ran' "$log" | sed 's/\[=*\] //')" \
      "$(grep -E '^\[  (PASSED|FAILED)  \] [0-9]+ test' "$log" | tr '\n' ' ')"
  done
fi

if [[ ${TIMES:-1} != 0 ]]; then
  timeout 240 "$build/bench/cuda_attention_bench" ${SECTIONS:+--only "$SECTIONS"} 2>&1 | tee "$logs/times.log"
  timeout 60 "$build/bench/cuda_plan_bench" 2>&1 | tee "$logs/plan_times.log"
  if python3 -c 'import torch' 2>/dev/null; then
    timeout 120 python3 bench/cuda_peers.py 2>&1 | tee "$logs/peers.log"
  fi
fi
((failed == 0)) && echo 'gpu_check: all tests passed' || echo 'gpu_check: tests FAILED'
exit "$failed"
