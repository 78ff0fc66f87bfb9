#!/usr/bin/env bash
# ptxas_gate.sh COMMAND...: runs a compilation and fails it if ptxas (-v) reports register spills, or one of the
# C75xx messages: wgmma serialised, setmaxnreg ignored, a wait or an arrive injected. They are no errors to ptxas,
# but cost a kernel a third of its speed or more.
set -uo pipefail
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"$@" 2>"$log"
status=$?
if grep -E '\(C75(0[4-9]|1[0-9])\)|[1-9][0-9]* bytes spill' "$log" >&2; then
  echo "ptxas_gate.sh: the lines above are not accepted (cmake/ptxas_gate.sh says why)" >&2
  ((status == 0)) && status=1
fi
# What -v adds is for the gate alone.
grep -vE '^ptxas info|^ +[0-9]+ bytes stack frame|^nvcc (info|warning : The .-arch)' "$log" >&2
exit "$status"
