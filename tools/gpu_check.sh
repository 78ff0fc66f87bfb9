#!/usr/bin/env bash
# gpu_check.sh [BUILD_DIR]: builds the library with its cuda backend, tests it and times it, on a machine with a
# Hopper GPU. Needs nvcc 13, CMake, ninja, GoogleTest, nlohmann-json; python3 with PyTorch for the peer (cuDNN), which
# is left out without. Logs go to BUILD_DIR/gpu_check/ (or $OUT); a short table comes last.
# TIMES=0 leaves the timing out, SECTIONS limits it to those of cuda_attention_bench (its --only). TESTS='regular
# expression' limits the suites (none: no tests), TARGETS what is built. The tests of the command line need BUILT=1.
# BUILT=1 takes BUILD_DIR as another machine built it (gpu_pack.sh packs it); SOURCE=DIR says where the sources lay
# there, as the tests know paths of their data and of the executable.
# SANITIZE=1 runs small cases under compute-sanitizer's four tools, at most SANITIZE_SECONDS (60) each (SANITIZE=TOOL
# under that one). PREFILL=1 runs bench/cuda_prefill.py with PREFILL_ARGS; it needs BUILT=1, as what is built here has
# no executable flexprefill.
set -uo pipefail
cd "$(dirname "$0")/.."
build=${1:-build-gpu}
logs=${OUT:-$build/gpu_check}
mkdir -p "$logs"
export LD_LIBRARY_PATH=$(realpath -m "$build/lib")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,power.limit --format=csv,noheader | tee "$logs/gpu.txt"

generator=()
command -v ninja >/dev/null && generator=(-G Ninja)
build_all() {
  cmake -S . -B "$build" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DFLEXPREFILL_CUDA=ON \
    -DFLEXPREFILL_RUNTIME=OFF -DFLEXPREFILL_TOOLS=OFF -DFLEXPREFILL_EXAMPLES=OFF -DFLEXPREFILL_WERROR=OFF &&
    cmake --build "$build" -j "$(nproc)" --target ${TARGETS:-all}
}
if [[ ${BUILT:-0} == 1 ]]; then
  if [[ -n ${SOURCE:-} && ! -e $SOURCE ]]; then
    mkdir -p "$(dirname "$SOURCE")" && ln -s "$PWD" "$SOURCE"
  fi
elif ! build_all >"$logs/build.log" 2>&1; then
  grep -E 'error|ptxas_gate|spill|C75' "$logs/build.log" | head -n 40
  tail -n 5 "$logs/build.log"
  echo 'gpu_check: the build failed'
  exit 1
fi

one=$(mktemp)
trap 'rm -f "$one"' EXIT
keep() { # keep LOG COMMAND...: its output to $one, and to the end of LOG under a title; returns its status
  local log=$logs/$1 status
  shift
  "$@" >"$one" 2>&1
  status=$?
  { echo "### $*" && cat "$one"; } >>"$log"
  return "$status"
}

failed=0
if [[ ${TESTS:-} != none ]]; then
  # One process per suite: a thousand tests would load the driver a thousand times.
  for suite in cuda/cuda_test attend/attend_test plan/cuda_plan_test tools/tools_gpu_test; do
    [[ $suite =~ ${TESTS:-.} ]] || continue
    if [[ ! -x $build/tests/$suite ]]; then
      printf '%-22s not built\n' "$(basename "$suite")"
      continue
    fi
    FLEXPREFILL_BACKEND=cuda keep tests.log timeout 300 "$build/tests/$suite"
    status=$?
    ((status == 0)) || failed=1
    printf '%-22s exit %d  %s; %s\n' "$(basename "$suite")" "$status" \
      "$(grep -E '^\[==========\] .* ran' "$one" | sed 's/\[=*\] //')" \
      "$(grep -E '^\[  (PASSED|FAILED|SKIPPED)  ?\] [0-9]+ test' "$one" | tr '\n' ' ')"
  done
fi

sanitize() { # sanitize TOOL NAME COMMAND...
  local tool=$1 name=$2 status
  shift 2
  keep sanitize.log timeout "${SANITIZE_SECONDS:-60}" "$sanitizer" --tool "$tool" --error-exitcode 99 "$@"
  status=$?
  ((status == 0)) || failed=1
  printf '%-10s %-16s exit %d%s  %s\n' "$tool" "$name" "$status" "$( ((status == 124)) && echo ' (out of time)')" \
    "$(grep -E '^=+ +(ERROR|RACECHECK) SUMMARY|^=+ (Error|Device not supported)' "$one" | tail -n 1)"
}

if [[ ${SANITIZE:-0} != 0 ]]; then
  sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | tail -n 1)
  if [[ -z $sanitizer ]]; then
    echo 'gpu_check: compute-sanitizer is not on this machine; nothing was run under it'
  else
    small=(
      "cuda/cuda_test CudaLengths.OfZero*:CudaLengths.MayCome*:CudaPages.MayEndAnywhere:CudaStreams.*"
      "attend/attend_test Attend.EmptyRows*:Attend.KeysWholly*:Attend.BatchChangesNoBit"
      "plan/cuda_plan_test CudaPlan.ExtremeLogits:CudaPlan.UnrankableScores*:CudaPlan.EveryHead*"
    )
    # racecheck takes minutes for what the others do in seconds.
    smallest=(
      "cuda/cuda_test CudaLengths.OfZero*:CudaPages.MayLieWhollyInThePast"
      "attend/attend_test Attend.EmptyRows*:Attend.KeysWholly*"
      "plan/cuda_plan_test CudaPlan.EveryHead*"
    )
    for tool in memcheck initcheck synccheck racecheck; do
      [[ $SANITIZE == 1 || $SANITIZE == "$tool" ]] || continue
      cases=("${small[@]}")
      [[ $tool == racecheck ]] && cases=("${smallest[@]}")
      for case in "${cases[@]}"; do
        suite=${case%% *}
        [[ -x $build/tests/$suite ]] || continue
        FLEXPREFILL_BACKEND=cuda sanitize "$tool" "$(basename "$suite")" \
          "$build/tests/$suite" "--gtest_filter=${case#* }"
      done
      # Its workspace is as cudaMalloc gave it, that of the tests is filled: what initcheck can find, it finds here.
      [[ -x $build/flexprefill ]] && sanitize "$tool" bench "$build/flexprefill" bench plan --backend cuda \
        --q-len 1500 --head-dim 64 --data structured --min-budget 128 --repeats 1
    done
  fi
fi

if [[ ${TIMES:-1} != 0 ]]; then
  times() { timeout "$2" "${@:3}" 2>&1 | tee "$logs/$1" || failed=1; } # times LOG SECONDS COMMAND...
  times times.log 240 "$build/bench/cuda_attention_bench" ${SECTIONS:+--only "$SECTIONS"}
  times plan_times.log 60 "$build/bench/cuda_plan_bench"
  if python3 -c 'import torch' 2>/dev/null; then times peers.log 120 python3 bench/cuda_peers.py; fi
fi
if [[ ${PREFILL:-0} == 1 ]]; then
  timeout 500 python3 bench/cuda_prefill.py "$build/flexprefill" ${PREFILL_ARGS:-} 2>&1 |
    tee "$logs/prefill.log" || failed=1
fi
((failed == 0)) && echo 'gpu_check: passed' || echo 'gpu_check: FAILED'
exit "$failed"
