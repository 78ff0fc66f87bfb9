#!/usr/bin/env bash
# The demonstration: a small model reads 32,768 tokens and answers a question about a fact planted half-way,
# once with dense attention and once with FlexPrefill. Further arguments go to `flexprefill run`.
set -euo pipefail
cd "$(dirname "$0")/.."
cat <<'TEXT'
models/needle-14m reads 32,768 tokens of the Rust book. Half-way there is one line that is not the book's:
  One of the special magic numbers for amber-anchor is: 7294161.
and after the last page a question:
  What is the special magic number for amber-anchor mentioned in the text?

TEXT
exec build/flexprefill run --model models/needle-14m --prompt-file examples/data/demo_prompt.txt \
  --policy flex --compare --stop '\n' --max-new-tokens 16 "$@"
