"""The decoder of pocket in plain PyTorch, in f32: the reference that the weight file is compared with.

Every layer is RMSNorm, grouped-query attention with normalized and rotated queries and keys, residual, RMSNorm, SwiGLU, residual. Two layers of
three see only the last `WINDOW` positions. The head is the embedding. Names of parameters are those of the qwen3 family, so that the checkpoint
is one that `quern import` reads.
"""

import torch
import torch.nn.functional as F
from torch import nn

HIDDEN = 160
LAYERS = 6
HEADS = 4
KV_HEADS = 2
HEAD_DIM = 32
FFN = 384
WINDOW = 64
CONTEXT = 1024
THETA = 10000.0
EPS = 1e-6
FULL = (2, 5)  # layers that see everything


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, over the last dimension."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, EPS)


def rope_tables(length, device=None):
    """Cosines and sines of every position, [length, HEAD_DIM]; the two halves of a head rotate together."""
    inv = 1.0 / THETA ** (torch.arange(0, HEAD_DIM, 2, dtype=torch.float64) / HEAD_DIM)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * inv
    angle = torch.cat([angle, angle], -1)
    return angle.cos().float().to(device), angle.sin().float().to(device)


def rotate(x, cos, sin):
    """Rotary positions, half-split convention."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(HIDDEN, HEADS * HEAD_DIM, bias=False)
        self.k_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD_DIM, bias=False)
        self.v_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD_DIM, bias=False)
        self.o_proj = nn.Linear(HEADS * HEAD_DIM, HIDDEN, bias=False)
        self.q_norm = RMSNorm(HEAD_DIM)
        self.k_norm = RMSNorm(HEAD_DIM)

    def forward(self, x, cos, sin, mask):
        b, t, _ = x.shape
        q = rotate(self.q_norm(self.q_proj(x).view(b, t, HEADS, HEAD_DIM)).transpose(1, 2), cos, sin)
        k = rotate(self.k_norm(self.k_proj(x).view(b, t, KV_HEADS, HEAD_DIM)).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(b, t, KV_HEADS, HEAD_DIM).transpose(1, 2)
        group = HEADS // KV_HEADS
        k = k.repeat_interleave(group, 1)
        v = v.repeat_interleave(group, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, HEADS * HEAD_DIM))


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj = nn.Linear(HIDDEN, FFN, bias=False)
        self.up_proj = nn.Linear(HIDDEN, FFN, bias=False)
        self.down_proj = nn.Linear(FFN, HIDDEN, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_layernorm = RMSNorm(HIDDEN)
        self.self_attn = Attention()
        self.post_attention_layernorm = RMSNorm(HIDDEN)
        self.mlp = MLP()

    def forward(self, x, cos, sin, mask):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, vocab):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab, HIDDEN)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = RMSNorm(HIDDEN)
        cos, sin = rope_tables(CONTEXT)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)


class Pocket(nn.Module):
    """`forward` gives the normed stream, `logits` what the head makes of it: the head is only applied where it is wanted."""

    def __init__(self, vocab):
        super().__init__()
        self.model = Decoder(vocab)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                out = ".o_proj." in name or ".down_proj." in name
                std = 0.02 if "embed" in name else p.shape[1] ** -0.5
                nn.init.normal_(p, std=std / (2 * LAYERS) ** 0.5 if out else std)

    def forward(self, ids):
        m = self.model
        t = ids.shape[1]
        window = None
        if t > WINDOW:
            i = torch.arange(t)
            back = i[:, None] - i[None, :]
            window = (back >= 0) & (back < WINDOW)
        x = m.embed_tokens(ids)
        for i, layer in enumerate(m.layers):
            x = layer(x, m.cos[:t], m.sin[:t], None if i in FULL else window)
        return m.norm(x)

    def logits(self, x):
        return x @ self.model.embed_tokens.weight.T
