#!/usr/bin/env python3
"""Writes the tiny random models of tests/model and what Hugging Face computes with them.

Each folder holds config.json, safetensors and expected.json: token ids, the logits of the last
token, the mean loss and a greedy continuation, in fp32 on the CPU from the stored (rounded)
weights. Made with transformers 5.23 and torch 2.13:

    python3 tests/data/model/make_tiny_models.py
"""

import json
import pathlib
import shutil

import torch
import transformers
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
NUM_TOKENS = 150  # more than one 128-token block
NUM_GREEDY = 8

COMMON = dict(
    vocab_size=160,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=None,
)
LLAMA3_ROPE = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)

# name: (transformers class prefix, config changes, stored type, number of files)
MODELS = {
    "llama-llama3-tied": (
        "Llama",
        dict(rope_theta=500.0, rope_scaling=dict(LLAMA3_ROPE), tie_word_embeddings=True, head_dim=16),
        torch.bfloat16,
        1,
    ),
    "llama-llama3-bias": (
        "Llama",
        dict(rope_theta=500.0, rope_scaling=dict(LLAMA3_ROPE), attention_bias=True, mlp_bias=True),
        torch.float32,
        1,
    ),
    "mistral": ("Mistral", dict(sliding_window=None, head_dim=20), torch.float16, 2),
    "qwen2": ("Qwen2", dict(num_key_value_heads=1, tie_word_embeddings=True), torch.float16, 1),
    "qwen3": ("Qwen3", dict(head_dim=24, rms_norm_eps=1e-5), torch.bfloat16, 1),
}


def old_style(config, changes):
    """The keys as files of before transformers 5 write them, which most published models use."""
    config.pop("rope_parameters", None)
    for key in ("rope_theta", "rope_scaling"):
        if key in changes:
            config[key] = changes[key]
    return config


def save_weights(folder, tensors, num_files):
    if num_files == 1:
        save_file(tensors, folder / "model.safetensors")
        return
    names = sorted(tensors)
    weight_map = {}
    for n in range(num_files):
        file = f"model-{n + 1:05}-of-{num_files:05}.safetensors"
        part = {name: tensors[name] for name in names[n::num_files]}
        weight_map.update({name: file for name in part})
        save_file(part, folder / file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def make(name, prefix, changes, dtype, num_files):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    config = getattr(transformers, prefix + "Config")(**{**COMMON, **changes})
    config._attn_implementation = "eager"
    model = getattr(transformers, prefix + "ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            # Large enough that attention is peaked and every bias and norm shows in the logits.
            is_norm = "norm" in parameter_name
            values = torch.randn_like(parameter) * (0.2 if is_norm else 0.25) + float(is_norm)
            parameter.copy_(values.to(dtype).float())
    tied = config.tie_word_embeddings
    tensors = {
        key: value.to(dtype).contiguous()
        for key, value in model.state_dict().items()
        if not (tied and key == "lm_head.weight")
    }
    save_weights(folder, tensors, num_files)
    saved = json.loads(config.to_json_string(use_diff=False))
    keep = set(COMMON) | set(changes) | {"architectures", "rms_norm_eps", "rope_parameters"}
    saved = {key: value for key, value in saved.items() if key in keep and value is not None}
    saved["architectures"] = [prefix + "ForCausalLM"]
    if prefix == "Mistral":
        saved["sliding_window"] = None  # its absence means 4096
    if name != "qwen3":  # one model keeps the new form
        saved = old_style(saved, changes)
    (folder / "config.json").write_text(json.dumps(saved, indent=1) + "\n")

    ids = [0] + torch.randint(2, config.vocab_size, (NUM_TOKENS - 1,)).tolist()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
        loss = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]))
        sequence = list(ids)
        for _ in range(NUM_GREEDY):
            sequence.append(int(model(torch.tensor([sequence])).logits[0, -1].argmax()))
    expected = {
        "ids": ids,
        "mean_loss": round(float(loss), 6),
        "last_logits": [round(float(x), 5) for x in logits[-1]],
        "greedy": sequence[len(ids) :],
    }
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")
    print(name, "mean loss", expected["mean_loss"], "greedy", expected["greedy"])


def main():
    for number, (name, (prefix, changes, dtype, num_files)) in enumerate(MODELS.items()):
        torch.manual_seed(number)
        make(name, prefix, changes, dtype, num_files)


if __name__ == "__main__":
    main()
