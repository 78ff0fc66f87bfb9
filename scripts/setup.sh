#!/usr/bin/env bash
# Installs what is missing for the groups named: build (default), test, check. Looks for each tool and
# header itself, so it does nothing, and needs no network, where all is present, however it came there.
set -euo pipefail

missing=()  # Debian packages
absent=()   # what was looked for

need() { # need PACKAGE WHAT: the last command's status says whether WHAT is there
  missing+=("$1")
  absent+=("$2")
}
command_of() { command -v "$2" >/dev/null 2>&1 || need "$1" "command $2"; }
header_of() {
  printf '#if !__has_include(<%s>)\n#error\n#endif\n' "$2" |
    "${CXX:-c++}" -x c++ -E - >/dev/null 2>&1 || need "$1" "header <$2>"
}
file_of() { compgen -G "$2" >/dev/null || need "$1" "file $2"; }

group_build() {
  command_of g++ "${CXX:-c++}"
  command_of cmake cmake
  command_of ninja-build ninja
  command_of pkg-config pkg-config
  header_of libdnnl-dev dnnl.hpp
  header_of nlohmann-json3-dev nlohmann/json.hpp
  header_of libcli11-dev CLI/CLI.hpp
  header_of libpcre2-dev pcre2.h
  header_of libutf8proc-dev utf8proc.h
}
group_test() {
  group_build
  header_of libgtest-dev gtest/gtest.h
  header_of libgmock-dev gmock/gmock.h
}
group_check() { # thread sanitizer, fuzzers, format, tidy
  group_test
  command_of clang-14 clang++-14
  command_of clang-format-14 clang-format-14
  command_of clang-tidy-14 clang-tidy-14
  file_of libclang-rt-14-dev '/usr/lib/llvm-14/lib/clang/14*/lib/linux/libclang_rt.tsan*'
  file_of libomp-14-dev '/usr/lib/llvm-14/lib/libomp.so'
}

for group in "${@:-build}"; do
  case "$group" in
    build | test | check) "group_$group" ;;
    *) echo "setup.sh: unknown group '$group', expected build, test or check" >&2; exit 2 ;;
  esac
done

if ((${#missing[@]} > 0)); then
  mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
  echo "Missing: $(printf '%s, ' "${absent[@]}" | sed 's/, $//')"
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "There is no apt-get here. Install what Debian calls: ${missing[*]}; then try again." >&2
    exit 1
  fi
  sudo=()
  if [[ $(id -u) -ne 0 ]]; then
    if ! command -v sudo >/dev/null 2>&1; then
      echo "Run as root: apt-get install ${missing[*]}; then try again." >&2
      exit 1
    fi
    sudo=(sudo)
  fi
  echo "Installing with apt-get: ${missing[*]}"
  "${sudo[@]}" apt-get update -q
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "${missing[@]}"
fi

version=$(cmake --version | sed -n '1s/[^0-9]*//p')
if [[ $(printf '%s\n' 3.25 "$version" | sort -V | head -n 1) != 3.25 ]]; then
  echo "cmake $version is too old: 3.25 or newer is needed." >&2
  exit 1
fi
