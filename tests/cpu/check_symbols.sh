#!/bin/sh
# check_symbols.sh NM ISA OBJECT...: fails if an object defines a global or weak symbol outside of
# flexprefill::internal::ISA. DW.ref.* is a pointer that exception tables use (under the sanitizers): data, no code.
set -eu
nm=$1
isa=$2
shift 2
outside=$("$nm" --defined-only --extern-only "$@" | awk 'NF == 3 { print $3 }' |
  grep -v "11flexprefill8internal${#isa}${isa}" | grep -v -e '^DW\.ref\.' -e '^__\(asan\|ubsan\|odr_asan\|sanitizer\|llvm\|gcov\)' || true)
if [ -n "$outside" ]; then
  echo "defined outside of flexprefill::internal::$isa:"
  echo "$outside"
  exit 1
fi
[ "$("$nm" --defined-only --extern-only "$@" | grep -c attend_f32)" -ge 1 ] || {
  echo "attend_f32 not found: is $nm reading these objects?"
  exit 1
}
