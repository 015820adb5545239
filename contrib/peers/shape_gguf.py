"""Writes a GGUF with the shape of a known model and random weights, for measurements side by side with other programs.

Speed does not depend on the values: codes are random bits, scales such that activations keep their size. The file is written from a pool of blocks that repeats, so a
gigabyte takes seconds, and it needs nothing but Python. Without a vocabulary the model has ids alone, which is all that a benchmark uses.
"""

import json
import math
import os
import random
import struct

# Type number, values per block, bytes per block.
TYPES = {"f32": (0, 1, 4), "f16": (1, 1, 2), "q4_0": (2, 32, 18), "q8_0": (8, 32, 34), "q4_k": (12, 256, 144), "q6_k": (14, 256, 210)}
# llama.cpp's number for "mostly this type".
FILE_TYPES = {"f16": 1, "q4_0": 2, "q8_0": 7, "q4_k_m": 15}
ALIGNMENT = 32
POOL_VALUES = 1 << 20
U32, F32, STRING = 4, 6, 8


def half(value):
    return struct.pack("<e", value)


def pool(kind, cols):
    """Blocks of random weights with a variance of about 1 / cols, whole rows of them."""
    _, per_block, size = TYPES[kind]
    # Gaussian numbers are slow to make here.
    rows = max(1, (POOL_VALUES if kind not in ("f32", "f16") else 1 << 17) // cols)
    blocks = rows * cols // per_block
    unit = 1 / math.sqrt(cols)
    if kind in ("f32", "f16"):
        rng = random.Random(cols)
        letter = "f" if kind == "f32" else "e"
        return struct.pack(f"<{blocks}{letter}", *(rng.gauss(0, unit) for _ in range(blocks)))
    data = bytearray(random.Random(cols).randbytes(blocks * size))

    def put(offset, value):
        for i, byte in enumerate(half(value)):
            data[offset + i :: size] = bytes([byte]) * blocks

    # Uniform codes of b bits have a standard deviation of 2^b / sqrt(12).
    if kind == "q4_0":
        put(0, unit / 4.6)
    elif kind == "q8_0":
        put(0, unit / 74)
    elif kind == "q4_k":
        put(0, unit / (4.6 * 36))
        put(2, 7.5 * unit / (4.6 * 36))
    elif kind == "q6_k":
        put(208, unit / (18.5 * 74))
    return bytes(data)


def more_bits(layer, layers):
    """The layers in which the usual 4-bit mix keeps some tensors at 6 bits."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def tensors(c, kind):
    """Name, shape with the innermost dimension last, type."""
    d, f, layers, vocab = c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"], c["vocab_size"]
    head = c.get("head_dim") or d // c["num_attention_heads"]
    q, kv = head * c["num_attention_heads"], head * c["num_key_value_heads"]
    experts = c.get("num_local_experts")
    mix = kind == "q4_k_m"
    usual, fine = ("q4_k", "q6_k") if mix else (kind, kind)
    out = [("token_embd.weight", (vocab, d), fine if c["tie_word_embeddings"] else usual)]
    for i in range(layers):
        better = fine if more_bits(i, layers) else usual
        p = f"blk.{i}."
        out += [
            (p + "attn_norm.weight", (d,), "f32"),
            (p + "attn_q.weight", (q, d), usual),
            (p + "attn_k.weight", (kv, d), usual),
            (p + "attn_v.weight", (kv, d), better),
            (p + "attn_output.weight", (d, q), usual),
            (p + "ffn_norm.weight", (d,), "f32"),
        ]
        if experts:
            out += [
                (p + "ffn_gate_inp.weight", (experts, d), "f32"),
                (p + "ffn_gate_exps.weight", (experts, f, d), usual),
                (p + "ffn_up_exps.weight", (experts, f, d), usual),
                (p + "ffn_down_exps.weight", (experts, d, f), better),
            ]
        else:
            out += [
                (p + "ffn_gate.weight", (f, d), usual),
                (p + "ffn_up.weight", (f, d), usual),
                (p + "ffn_down.weight", (d, f), better),
            ]
    out.append(("output_norm.weight", (d,), "f32"))
    if not c["tie_word_embeddings"]:
        out.append(("output.weight", (vocab, d), fine))
    return out


def string(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(kind, v):
    packed = string(v) if kind == STRING else struct.pack("<I" if kind == U32 else "<f", v)
    return struct.pack("<I", kind) + packed


def skip_value(data, at, kind):
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    if kind == STRING:
        (n,) = struct.unpack_from("<Q", data, at)
        return at + 8 + n
    if kind == 9:
        inner, n = struct.unpack_from("<IQ", data, at)
        at += 12
        if inner in sizes:
            return at + n * sizes[inner]
        for _ in range(n):
            at = skip_value(data, at, inner)
        return at
    return at + sizes[kind]


def tokenizer_of(path):
    """The tokenizer's keys of another GGUF, as bytes, and how many tokens it has."""
    with open(path, "rb") as file:
        data = file.read()
    if data[:4] != b"GGUF":
        raise SystemExit(f"{path} is no GGUF, expected one with a vocabulary")
    (keys,) = struct.unpack_from("<Q", data, 16)
    at, kept, count = 24, [], 0
    for _ in range(keys):
        start = at
        (n,) = struct.unpack_from("<Q", data, at)
        name = data[at + 8 : at + 8 + n].decode()
        at += 8 + n
        (kind,) = struct.unpack_from("<I", data, at)
        if name == "tokenizer.ggml.tokens":
            (count,) = struct.unpack_from("<Q", data, at + 8)
        at = skip_value(data, at + 4, kind)
        if name.startswith("tokenizer."):
            kept.append(data[start:at])
    if not count:
        raise SystemExit(f"{path} has no tokenizer.ggml.tokens, expected a vocabulary")
    return kept, count


def write(config, kind, vocabulary, out):
    """Writes the file; the configuration is a config.json of a plain or a mixture-of-experts decoder."""
    with open(config) as file:
        c = json.load(file)
    if c["model_type"] not in ("llama", "mistral", "mixtral"):
        raise SystemExit(f"{config}: a GGUF can be made of llama, mistral and mixtral, not of {c['model_type']}")
    tokenizer = [string("tokenizer.ggml.model") + value(STRING, "none")]
    if vocabulary:
        tokenizer, c["vocab_size"] = tokenizer_of(vocabulary)
    head = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    keys = [
        ("general.architecture", STRING, "llama"),
        ("general.name", STRING, os.path.splitext(os.path.basename(config))[0]),
        ("general.file_type", U32, FILE_TYPES[kind]),
        ("llama.context_length", U32, c["max_position_embeddings"]),
        ("llama.embedding_length", U32, c["hidden_size"]),
        ("llama.block_count", U32, c["num_hidden_layers"]),
        ("llama.feed_forward_length", U32, c["intermediate_size"]),
        ("llama.attention.head_count", U32, c["num_attention_heads"]),
        ("llama.attention.head_count_kv", U32, c["num_key_value_heads"]),
        ("llama.attention.key_length", U32, head),
        ("llama.attention.value_length", U32, head),
        ("llama.attention.layer_norm_rms_epsilon", F32, c["rms_norm_eps"]),
        ("llama.rope.dimension_count", U32, head),
        ("llama.rope.freq_base", F32, c["rope_theta"]),
        ("llama.vocab_size", U32, c["vocab_size"]),
    ]
    if c.get("num_local_experts"):
        keys += [("llama.expert_count", U32, c["num_local_experts"]), ("llama.expert_used_count", U32, c["num_experts_per_tok"])]
    metadata = [string(name) + value(t, v) for name, t, v in keys] + tokenizer
    listed = tensors(c, kind)
    header = struct.pack("<4sIQQ", b"GGUF", 3, len(listed), len(metadata)) + b"".join(metadata)
    offset, sizes = 0, []
    for name, shape, t in listed:
        number, per_block, size = TYPES[t]
        values = math.prod(shape)
        if shape[-1] % per_block:
            raise SystemExit(f"{name}: {shape[-1]} columns are no multiple of {per_block}, the block of {t}")
        header += string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), number, offset)
        sizes.append(values // per_block * size)
        offset += -(-sizes[-1] // ALIGNMENT) * ALIGNMENT
    pools = {}
    part = f"{out}.part"
    with open(part, "wb") as file:
        file.write(header + bytes(-len(header) % ALIGNMENT))
        for (name, shape, t), size in zip(listed, sizes):
            if len(shape) == 1:
                file.write(struct.pack("<f", 1.0) * shape[0])
            else:
                key = (t, shape[-1])
                if key not in pools:
                    pools[key] = pool(*key)
                blocks = pools[key]
                for at in range(0, size, len(blocks)):
                    file.write(blocks[: size - at])
            file.write(bytes(-size % ALIGNMENT))
    os.replace(part, out)
