#!/usr/bin/env bash
# gpu_pack.sh BUILD_DIR FILE.tar.xz: packs what gpu_check.sh needs with BUILT=1, for a machine that has a GPU but not
# what building takes: the executables, and the shared libraries that are not part of every system.
# There: tar -C BUILD_DIR -xJf FILE.tar.xz
set -euo pipefail
build=$1 file=$(realpath -m "$2")
programs=(flexprefill tests/cuda/cuda_test tests/attend/attend_test tests/plan/cuda_plan_test
  tests/tools/tools_gpu_test bench/cuda_attention_bench bench/cuda_plan_bench)
cd "$build"
mkdir -p lib
ldd flexprefill | awk '/=> \// { print $3 }' | grep -vE '/(libc|libm|libstdc\+\+|libgcc_s|libgomp|ld-linux)[-.]' |
  xargs -I{} cp -L {} lib/
# -9: its window spans the kernels, which every executable holds once.
tar -cf - lib "${programs[@]}" | xz -9 >"$file"
ls -l "$file"
