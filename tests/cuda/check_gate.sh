#!/usr/bin/env bash
# check_gate.sh GATE: what cmake/ptxas_gate.sh lets through, and what it does not.
set -uo pipefail
gate=$1 failures=0

expect() { # expect STATUS WHAT: stdin is what the compilation prints
  "$gate" bash -c "cat >&2" >/dev/null 2>&1
  local status=$?
  if [[ $status != "$1" ]]; then
    echo "$2: status $status, expected $1"
    failures=1
  fi
}
expect 0 'no spills' <<<'    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads'
expect 1 'spill stores' <<<'    8 bytes stack frame, 8 bytes spill stores, 0 bytes spill loads'
expect 1 'spill loads' <<<'    8 bytes stack frame, 0 bytes spill stores, 12 bytes spill loads'
expect 1 'serialised wgmma' <<<'ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized'
expect 1 'ignored setmaxnreg' <<<'ptxas warning : (C7508) setmaxnreg ignored'
expect 0 'another message' <<<'ptxas info    : Used 168 registers, used 16 barriers'
"$gate" bash -c 'exit 7'
[[ $? == 7 ]] || { echo 'the status of the compilation is lost'; failures=1; }
exit "$failures"
