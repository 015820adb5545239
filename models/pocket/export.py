"""Writes a checkpoint as a folder that `quern import` reads: config.json, model.safetensors, tokenizer.json and what belongs to them.

    python3 models/pocket/export.py [--from target/pocket/checkpoint.pt] [--out target/pocket/pocket]
"""

import argparse
import json
from pathlib import Path

import torch
from jinja2.sandbox import ImmutableSandboxedEnvironment
from safetensors.torch import save_file

import data
import model as shape
import tokenizer

TEMPLATE = """{%- for message in messages %}
{%- if message.role not in ['system', 'user', 'assistant'] %}{{ raise_exception('pocket knows the roles system, user and assistant') }}{% endif %}
{{- '<|' + message.role + '|>' + message.content + '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""


def config(tok):
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": tok.size,
        "hidden_size": shape.HIDDEN,
        "intermediate_size": shape.FFN,
        "num_hidden_layers": shape.LAYERS,
        "num_attention_heads": shape.HEADS,
        "num_key_value_heads": shape.KV_HEADS,
        "head_dim": shape.HEAD_DIM,
        "hidden_act": "silu",
        "rms_norm_eps": shape.EPS,
        "rope_theta": shape.THETA,
        "max_position_embeddings": shape.CONTEXT,
        "attention_bias": False,
        "tie_word_embeddings": True,
        "use_sliding_window": True,
        "sliding_window": shape.WINDOW,
        "layer_types": ["full_attention" if i in shape.FULL else "sliding_attention" for i in range(shape.LAYERS)],
        "eos_token_id": tok.end,
        "pad_token_id": tok.end,
        "torch_dtype": "float32",
    }


def tokenizer_json(tok):
    added = [
        {"id": i, "content": m, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": m in data.SPECIALS}
        for m, i in tok.special.items()
    ]
    split = {"type": "Split", "pattern": {"Regex": tokenizer.PIECE}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": None,
        "decoder": {**level},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": tok.vocab,
            "merges": [list(m) for m in tok.merges],
        },
    }


def check_template():
    """The template says what `data.render` trained the model on."""
    template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE)
    for system in ("", "Answer in Russian."):
        messages = [{"role": "system", "content": system}] if system else []
        messages += [{"role": "user", "content": "2 + 2\n"}, {"role": "assistant", "content": "<think>2+2=4</think>4"}]
        turns = [("2 + 2\n", "<think>2+2=4</think>4")]
        assert template.render(messages=messages) == data.render(system, turns)
        messages.append({"role": "user", "content": "Hello"})
        assert template.render(messages=messages, add_generation_prompt=True) == data.render(system, turns + [("Hello", None)])


def write(model, tok, folder):
    check_template()
    folder.mkdir(parents=True, exist_ok=True)

    def put(name, value):
        (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n")

    put("config.json", config(tok))
    put("tokenizer.json", tokenizer_json(tok))
    put("tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer", "model_max_length": shape.CONTEXT, "eos_token": data.END, "pad_token": data.END, "chat_template": TEMPLATE})
    # Temperature 0 is greedy; without `do_sample` it would not be stored, and the program's default would apply.
    put("generation_config.json", {"do_sample": True, "temperature": 0.0, "eos_token_id": tok.end, "pad_token_id": tok.end})
    save_file({n: p.detach().contiguous() for n, p in model.state_dict().items()}, folder / "model.safetensors", metadata={"format": "pt"})


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--from", dest="source", type=Path, default=Path("target/pocket/checkpoint.pt"))
    args.add_argument("--out", type=Path, default=Path("target/pocket/pocket"))
    args = args.parse_args()
    tok = tokenizer.build()
    model = shape.Pocket(tok.size)
    model.load_state_dict(torch.load(args.source)["model"])
    write(model, tok, args.out)


if __name__ == "__main__":
    main()
