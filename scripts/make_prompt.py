#!/usr/bin/env python3
"""Writes a prompt of an exact number of tokens: text, one planted fact half-way, a question.

For developers; needs `pip install tokenizers`. The committed prompt was made by
  scripts/make_prompt.py --text examples/data/rust-book.txt --tokens 32768 > examples/data/demo_prompt.txt
"""
import argparse
import sys

from tokenizers import Tokenizer

FACT = "One of the special magic numbers for {key} is: {value}.\n"
QUESTION = "\nQuestion: What is the special magic number for {key} mentioned in the text?\nAnswer: "


def make_prompt(tokenizer, text, tokens, key, value):
    """The longest prompt that ends in the question and has at most `tokens` tokens, BOS included."""
    fact, question = FACT.format(key=key, value=value), QUESTION.format(key=key)
    lines = text.splitlines(keepends=True)

    def build(chars):
        used, size = [], 0
        for line in lines:
            if size + len(line) > chars:
                used.append(line[: chars - size])
                break
            used.append(line)
            size += len(line)
        half = len(used) // 2
        return "".join(used[:half]) + fact + "".join(used[half:]) + question

    def count(chars):
        return len(tokenizer.encode(build(chars)).ids)

    low, high = 0, len(text)
    if count(high) < tokens:
        sys.exit(f"make_prompt.py: the text gives {count(high)} tokens, expected {tokens} or more")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= tokens else (low, middle)
    for chars in range(low, max(0, low - 200), -1):  # a cut may merge two tokens into one
        if count(chars) == tokens:
            return build(chars)
    sys.exit(f"make_prompt.py: no cut of the text gives exactly {tokens} tokens")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", required=True, help="file with the text to read")
    parser.add_argument("--tokens", type=int, required=True, help="tokens of the prompt, BOS included")
    parser.add_argument("--tokenizer", default="models/needle-14m/tokenizer.json")
    parser.add_argument("--key", default="amber-anchor")
    parser.add_argument("--value", default="7294161")
    args = parser.parse_args()
    with open(args.text, encoding="utf-8") as file:
        text = file.read()
    sys.stdout.write(
        make_prompt(Tokenizer.from_file(args.tokenizer), text, args.tokens, args.key, args.value))


if __name__ == "__main__":
    main()
