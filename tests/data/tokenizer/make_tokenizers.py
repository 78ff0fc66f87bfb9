#!/usr/bin/env python3
"""Writes the small tokenizers of this folder and what Hugging Face's tokenizers library does with them.

Each family's tokenizer.json is declared as that family's published files declare it (normalizer,
pre-tokenizer, post-processor, decoder, kinds of added tokens); only the vocabulary is tiny, trained
here on the sources of models/needle-14m/train and a few sentences. For each of them <family>_cases.json
holds texts with their ids, and random ids with their text.

  python3 make_tokenizers.py      (pip install tokenizers; the files were written with 0.23.3)
"""
import json
import pathlib
import random
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers as pre
from tokenizers import processors, trainers

HERE = pathlib.Path(__file__).resolve().parent
SOURCES = sorted((HERE.parents[2] / "models/needle-14m/train").glob("*.py"))
SENTENCES = """
Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Voix ambiguë d'un cœur qui, au zéphyr, préfère les jattes de kiwis.
Съешь же ещё этих мягких французских булок, да выпей чаю. Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. いろはにほへと ちりぬるを。東京で会いましょう。
天地玄黃，宇宙洪荒。日月盈昃，辰宿列張。 다람쥐 헌 쳇바퀴에 타고파. نص حكيم له سر قاطع وذو شأن عظيم. ऋषियों को सताने वाले दुष्ट राक्षसों के राजा।
The year 2024 had 366 days; I'll say it's 1,234,567.89 and we've done what they're sure I'd do. DON'T SHOUT, IT'S RUDE.
    if (x == 0x1F) {\n\t\treturn a[i] + b[j];\r\n    }\n\n\n# comment --- === *** ... !!! ???
""".split("\n")

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])


def split(pattern, behavior="isolated", invert=False):
    return pre.Sequence([pre.Split(Regex(pattern), behavior, invert),
                         pre.ByteLevel(add_prefix_space=False, use_regex=False)])


def special(text):
    return AddedToken(text, special=True, normalized=False)


def bos_template(text, token_id):
    return processors.TemplateProcessing(single=f"{text} $A", pair=f"{text} $A {text}:1 $B:1",
                                         special_tokens=[(text, token_id)])


def gpt2():
    return dict(pre_tokenizer=pre.ByteLevel(add_prefix_space=False), post=processors.ByteLevel(trim_offsets=False),
                added=[AddedToken("<|endoftext|>", special=True, normalized=True)], string_merges=True)


def llama3():
    text = "<|begin_of_text|>"
    return dict(pre_tokenizer=split(LLAMA3), added=[special(text), special("<|end_of_text|>"), special("<|eot_id|>"),
                                                    special("<|start_header_id|>"), special("<|end_header_id|>")],
                post=lambda t: processors.Sequence([processors.ByteLevel(trim_offsets=False),
                                                    bos_template(text, t.token_to_id(text))]), ignore_merges=True)


def qwen2():
    return dict(normalizer=normalizers.NFC(), pre_tokenizer=split(QWEN2), post=processors.ByteLevel(trim_offsets=False),
                added=[special("<|endoftext|>"), special("<|im_start|>"), special("<|im_end|>"),
                       AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])


def o200k():  # Llama 4's expression, and a template that also closes the text
    return dict(pre_tokenizer=split(O200K), added=[special("<|s|>"), special("<|e|>")],
                post=lambda t: processors.TemplateProcessing(
                    single="<|s|> $A <|e|>", pair="<|s|> $A $B", special_tokens=[(s, t.token_to_id(s)) for s in ("<|s|>", "<|e|>")]))


def digits():  # SmolLM
    return dict(pre_tokenizer=pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]),
                post=None, added=[special("<|endoftext|>"), special("<|im_start|>")])


def options():  # every option of added tokens at once, a prefix space, an inverted split
    return dict(normalizer=normalizers.Sequence([normalizers.NFC()]),
                pre_tokenizer=pre.Sequence([pre.Split(Regex(QWEN2), "removed", True), pre.ByteLevel(add_prefix_space=True)]),
                post=None,
                added=[special("<a>"), special("<a><b>"), AddedToken("<left>", lstrip=True, normalized=False),
                       AddedToken("<right>", rstrip=True, normalized=False), AddedToken("word", single_word=True),
                       AddedToken("<mask>", lstrip=True, rstrip=True, special=True, normalized=False),
                       AddedToken("cafe\u0301", normalized=True), AddedToken("  ", normalized=False), AddedToken("é", normalized=True)])


FAMILIES = dict(gpt2=gpt2, llama3=llama3, qwen2=qwen2, o200k=o200k, digits=digits, options=options)


def train(family):
    spec = FAMILIES[family]()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = spec["pre_tokenizer"]
    if "normalizer" in spec:
        tokenizer.normalizer = spec["normalizer"]
    lines = [line for path in SOURCES for line in path.read_text().splitlines(keepends=True)] + SENTENCES * 3
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=sorted(pre.ByteLevel.alphabet()), show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    for token in spec["added"]:
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    post = spec["post"](tokenizer) if callable(spec["post"]) and not hasattr(spec["post"], "num_special_tokens_to_add") else spec["post"]
    if post is not None:
        tokenizer.post_processor = post
    tokenizer.decoder = decoders.ByteLevel()

    root = json.loads(tokenizer.to_str())
    if spec.get("ignore_merges"):  # with some tokens that merges alone do not reach
        root["model"]["ignore_merges"] = True
        root["model"]["merges"] = [m for i, m in enumerate(root["model"]["merges"]) if i % 9 != 8]
    if spec.get("string_merges"):
        root["model"]["merges"] = [" ".join(m) for m in root["model"]["merges"]]
    path = HERE / f"{family}.json"
    path.write_text(json.dumps(root, ensure_ascii=False, separators=(",", ":")) + "\n")
    return Tokenizer.from_file(str(path))


def stable_codepoints():
    """Code points whose category has not changed since Unicode 3.2, so that no library's version matters."""
    old = unicodedata.ucd_3_2_0
    return [c for c in range(0x110000) if unicodedata.category(chr(c)) == old.category(chr(c)) not in ("Cn", "Cs")]


FIXED = [
    "", " ", "  ", "   x", "x   ", "\n", "\r\n\r\n", " \n \n", "\t\tx", "Hello world", "Hello, world!", "  leading and trailing  ",
    "don't I'll we've they're I'd it's I'm", "DON'T I'LL WE'VE THEY'RE I'D IT'S I'M", "don’t we’ve", "'s't're've'm'll'd", "'ſ 'ﬆ 'Ld 'K",
    "1 12 123 1234 12345 1234567890", "3.14159e-10 0xFFFF 1,000,000", "٣٤٥ ५६ Ⅷ ½ ² ①", "na\u00efve nai\u0308ve \u1e69 s\u0323\u0307 s\u0307\u0323",
    "\u1112\u1161\u11ab \ud55c\uae00 \u1100\u1161\u11a8", "\u212b \u2126 \u0958 \ufb1d \u0344", "中文字符和标点。日本語テキスト、カタカナ", "😀 👩‍👩‍👧 👍🏽 🇩🇪 ❤️", "e\u0301\u0301\u0327\u0323",
    "\u0301start", "a\u180eb c\u00a0d \u2003e\u3000f\u0085g\u2028h\u200bi\ufeffj", "\x00\x01\x07\x1b\x7f", "\ue000\uf8ff\U000f0000\ufffe\uffff", "\U0010ffff",
    "a" * 300, " " * 200, "\n" * 100, "ab" * 150, "!" * 120, "a\u0301" * 60, "1" * 100, "\u4e2d" * 80,
    "def f(x):\n    return x[0] + 1  # why\n", "int main() {\r\n\treturn 0;\r\n}\r\n", "https://example.org/a?b=c&d=%20", "a_b-c.d/e\\f|g~h`i^j",
    "<|endoftext|>", "x<|endoftext|>y", "<|im_start|>user\nhi<|im_end|>\n", "<|begin_of_text|><|begin_of_text|>", "<|eot_id|", "<think> hm </think>",
    "<a><b>", "<a> <b>", "x <left> y <right>  z", "<mask>", "  <mask>  \n", "word sword word.word words word", "caf\u00e9 cafe\u0301 CAF\u00c9 \u00e9",
    "a  <mask>  b  word  ", "<s><left><right><a>", "\u3000<mask>\u2003x", "éword wordé", "_word word_ 1word \u24b6word", "<|s|>x<|e|>", "İstanbul ǅ ʰ ª",
]
FRAGMENTS = ["the ", " quick", "Brown", " 's", "'LL", "'re", "\n", "\r\n", "  ", " ", "\t", "...", "!?", "123", "4", "x", "é", "e\u0301", "ß", "中", "文字", "한",
             "\u1112\u1161", "😀", "\u200d", "\ufe0f", "\u00a0", "\u3000", "\u2028", "\u0085", "\u180e", "\u200b", "\u0300", "\u0323", "\x00", "\x1f", "Ⅷ", "½", "٣",
             "<|endoftext|>", "<|im_start|>", "<think>", "<mask>", "<left>", "<right>", "word", "<a>", "<b>", "<", "|>", "_", "/", "{}", "return", "==", "ſ", "K"]


def texts(seed):
    rng = random.Random(seed)
    codepoints = stable_codepoints()
    out = list(FIXED)
    for _ in range(220):
        out.append("".join(rng.choice(FRAGMENTS) for _ in range(rng.randint(1, 16))))
    for _ in range(120):
        out.append("".join(chr(rng.choice(codepoints)) if rng.random() < .7 else rng.choice(" \n'a1\u0301") for _ in range(rng.randint(1, 10))))
    return out


def main():
    for number, family in enumerate(FAMILIES):
        tokenizer = train(family)
        rng = random.Random(number)
        encode = []
        for text in texts(number):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            encode.append(dict(text=text, ids=ids, decoded=tokenizer.decode(ids, skip_special_tokens=False)))
        size = tokenizer.get_vocab_size()
        decode = []
        for _ in range(80):
            ids = [rng.randrange(size + 3) if rng.random() < .5 else rng.randrange(256) for _ in range(rng.randint(1, 12))]
            decode.append(dict(ids=ids, text=tokenizer.decode(ids, skip_special_tokens=False),
                               skipped=tokenizer.decode(ids, skip_special_tokens=True)))
        around = [dict(text=text, ids=tokenizer.encode(text, add_special_tokens=True).ids) for text in ("", "Hello", "<|s|>")]
        cases = dict(encode=encode, decode=decode, with_special_tokens=around, vocab_size=size)
        (HERE / f"{family}_cases.json").write_text(json.dumps(cases, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
