#!/usr/bin/env bash
# install_and_use.sh static|shared SOURCE BUILD WORK: installs the library under WORK and uses it from there.
set -euo pipefail
kind=$1 source=$2 build=$3 work=$4
rm -rf "$work/prefix" "$work/consumer"

if [[ $kind == shared ]]; then # a build of the library alone; BUILD has the static one
  build=$work/build
  cmake -S "$source" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
    -DFLEXPREFILL_RUNTIME=OFF -DFLEXPREFILL_EXAMPLES=OFF >/dev/null
  cmake --build "$build"
fi
cmake --install "$build" --prefix "$work/prefix" >/dev/null
libdir=$(dirname "$(find "$work/prefix" -name 'libflexprefill.*' | head -n 1)")
for file in include/flexprefill/flexprefill.h include/flexprefill/c_api.h; do
  [[ -f $work/prefix/$file ]] || { echo "not installed: $file"; exit 1; }
done

echo "-- find_package"
cmake -S "$source/tests/package/consumer" -B "$work/consumer" -G Ninja \
  -DCMAKE_PREFIX_PATH="$work/prefix" >/dev/null
cmake --build "$work/consumer"
"$work/consumer/consumer"

echo "-- pkg-config"
export PKG_CONFIG_PATH=$libdir/pkgconfig
static=()
if [[ $kind == static ]]; then static=(--static); fi
# shellcheck disable=SC2046  # the flags are words
"$CXX" -std=c++20 "$source/tests/package/consumer/main.cc" -o "$work/consumer/by_pkg_config" \
  $(pkg-config --cflags --libs "${static[@]}" flexprefill)
LD_LIBRARY_PATH=$libdir "$work/consumer/by_pkg_config"

if [[ $kind == static ]]; then
  [[ -x $work/prefix/bin/flexprefill ]] || { echo "not installed: bin/flexprefill"; exit 1; }
  "$work/prefix/bin/flexprefill" --version
else
  echo "-- exported symbols are ours alone"
  if nm -D --defined-only -C "$libdir/libflexprefill.so" | grep -vE 'flexprefill|std::|__gnu|operator'; then
    exit 1
  fi
fi
