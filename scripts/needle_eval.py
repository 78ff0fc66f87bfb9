#!/usr/bin/env python3
"""Asks a model about facts planted in long prompts, dense and with FlexPrefill, and counts the answers.

For developers; needs `pip install tokenizers`. Each prompt is a stretch of the text with planted facts at
random places and one question; both policies read the same prompt in one process (`run --compare`).
  scripts/needle_eval.py --text TEXT --lengths 4096 8192 16384 --prompts 8 --facts 16 --gamma 0.95
"""
import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile

from make_prompt import FACT, QUESTION
from tokenizers import Tokenizer

ADJECTIVES = "amber bold calm early gentle hidden ivory jolly lunar misty noble quiet rapid silver tiny vivid".split()
NOUNS = "anchor bridge candle desert ember falcon garden harbor island kettle lantern meadow otter pebble river willow".split()


def planted_prompt(tokenizer, text, tokens, facts, rng):
    """A prompt of `tokens` tokens or up to 16 fewer, its question's answer, and where the fact stands (0 to 1)."""
    names = rng.sample([f"{a}-{n}" for a in ADJECTIVES for n in NOUNS], facts)
    pairs = [(name, "".join(rng.choices("0123456789", k=7))) for name in names]
    asked = rng.randrange(facts)
    question = QUESTION.format(key=pairs[asked][0])
    lines = text[rng.randrange(len(text) - 8 * tokens):].splitlines(keepends=True)[1:]
    places = sorted(rng.random() for _ in range(facts))

    def build(count):
        body = lines[:count]
        for place, (key, value) in reversed(list(zip(places, pairs))):
            body.insert(int(place * count), FACT.format(key=key, value=value))
        return "".join(body) + question

    low, high = 0, len(lines)
    while high - low > 1:
        middle = (low + high) // 2
        if len(tokenizer.encode(build(middle)).ids) <= tokens:
            low = middle
        else:
            high = middle
    return build(low), pairs[asked][1], places[asked]


def ask(args, prompt):
    """What `flexprefill run --compare` says of one prompt."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(prompt)
        file.flush()
        command = [args.binary, "run", "--model", args.model, "--prompt-file", file.name, "--compare",
                   "--gamma", str(args.gamma), "--rule", args.rule, "--max-new-tokens", "12",
                   "--stop", "\n", "--json", "-"]
        if args.chunk:
            command += ["--chunk", str(args.chunk)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True, help="file with the text to read")
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 8192, 16384], help="tokens of a prompt")
    parser.add_argument("--prompts", type=int, default=8, help="prompts of each length")
    parser.add_argument("--facts", type=int, default=16, help="planted facts of a prompt")
    parser.add_argument("--gamma", type=float, default=0.95)
    parser.add_argument("--rule", default="coverage", choices=["coverage", "official"])
    parser.add_argument("--chunk", type=int, default=0, help="tokens of a prefill chunk; 0 = the default")
    parser.add_argument("--model", default="models/needle-14m")
    parser.add_argument("--binary", default="build/flexprefill")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with open(args.text, encoding="utf-8") as file:
        text = file.read()
    tokenizer = Tokenizer.from_file(args.model + "/tokenizer.json")
    print("| tokens | policy | right | prefill s | plan s | attend s | computed share | lowest coverage |")
    print("|---|---|---|---|---|---|---|---|")
    for length in args.lengths:
        rng = random.Random(args.seed * 1000003 + length)
        right, rows = {"dense": 0, "flex": 0}, {"dense": [], "flex": []}
        for n in range(args.prompts):
            prompt, answer, place = planted_prompt(tokenizer, text, length, args.facts, rng)
            result = ask(args, prompt)
            said = {policy: result[policy]["text"].strip() for policy in rows}
            for policy in rows:
                right[policy] += said[policy] == answer
                rows[policy].append(result[policy])
            print(f"{length} #{n}: {result['dense']['prompt_tokens']} tokens, fact at {place:.2f}, expected {answer}, "
                  f"dense {said['dense']!r}, flex {said['flex']!r}", file=sys.stderr, flush=True)
        for policy, runs in rows.items():
            median = lambda field: statistics.median(run[field] for run in runs)
            print(f"| {length} | {policy} | {right[policy]}/{len(runs)} | {median('prefill_seconds'):.2f} | "
                  f"{median('plan_seconds'):.2f} | {median('attend_seconds'):.2f} | {median('computed_share'):.3f} | "
                  f"{min(run['coverage_min'] for run in runs):.3f} |", flush=True)


if __name__ == "__main__":
    main()
