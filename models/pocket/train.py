"""Trains pocket: plain texts first, then instructions. One command, seeded, and it goes on where it was stopped.

    python3 models/pocket/train.py [--out target/pocket] [--steps N]

The skills that the model is worst at are asked for more: every `LOOK` steps the held-out accuracy is measured and the mixture follows it.
"""

import argparse
import json
import random
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import data
import tokenizer
from model import Pocket

SEED = 1
STEPS = 7600
MAIN = 7200  # steps until the rate has fallen to 0; what follows is a short second rise for the skills that are weakest then
FINISH_RATE = 0.15
FINISH = {"logic": 4.0, "sort": 1.5, "subtract": 2.0, "capital": 1.0, "story": 1.0}  # their weights in that time; of all others 0.5
PLAIN = 0.08  # share of the first stage
TOKENS = 3072  # per step, padding included
POOL = 24  # batches that are made at a time and cut by length
LOOK = 400  # steps between looks at the held-out accuracy, after each of which a checkpoint is written
SHOWN = 96  # held-out prompts per skill and look
MUON_RATE, ADAM_RATE, WARM, DECAY = 0.02, 4e-3, 100, 0.6  # DECAY: the last share of the steps, in which the rate falls to 0
BASE = {"talk": 0.3}
CAP, LATE_CAP, LATE = 2.5, 4.0, 4000  # what errors add to the weight of a skill at most, and from which step it may be more
CHANGE = 4800  # the step from which `LATER` replaces skills


def orthogonal(g, steps=5):
    """The nearest orthogonal matrix of each of a stack, roughly: Newton-Schulz with the quintic of the Muon optimizer."""
    x = g / (g.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        s = x @ x.mT
        x = 3.4445 * x + (-4.7750 * s + 2.0315 * s @ s) @ x
    return x


class Muon:
    """Momentum whose updates are made orthogonal, for the matrices of the layers; those of one shape go together."""

    def __init__(self, matrices):
        self.groups = {}
        for p in matrices:
            self.groups.setdefault(tuple(sorted(p.shape)), []).append(p)
        self.momentum = {s: torch.zeros(len(ps), *s) for s, ps in self.groups.items()}

    @torch.no_grad()
    def step(self, rate, beta=0.95, decay=0.02):
        for shape, ps in self.groups.items():
            flip = [p.shape != shape for p in ps]
            g = torch.stack([p.grad.T if f else p.grad for p, f in zip(ps, flip)])
            m = self.momentum[shape]
            m.lerp_(g, 1 - beta)
            u = orthogonal(g.lerp(m, beta))
            for p, f, x in zip(ps, flip, u):
                x = x.T if f else x
                p.mul_(1 - rate * decay).add_(x, alpha=-rate * max(1, p.shape[0] / p.shape[1]) ** 0.5)


def encode(tok, parts):
    """Ids of a text and the weight of each as a target. Long answers weigh more than short ones, but not by their length."""
    ids, weights = [], []
    for text, weight in parts:
        part = tok.ids(text)
        ids += part
        weights += [weight * len(part) ** -0.5] * len(part)
    return ids, weights


def batches(tok, make, rng, count):
    """`count` batches of texts of about the same length."""
    pool, total = [], 0
    while total < TOKENS * count:
        pool.append(encode(tok, make(rng)))
        total += len(pool[-1][0])
    pool.sort(key=lambda e: len(e[0]))
    out, start = [], 0
    for i in range(len(pool) + 1):
        if i == len(pool) or len(pool[i][0]) * (i + 1 - start) > TOKENS:
            out.append(pack(pool[start:i]))
            start = i
    rng.shuffle(out)
    return out[:count]


def pack(examples):
    n = max(len(ids) for ids, _ in examples)
    ids = torch.zeros(len(examples), n, dtype=torch.long)
    weights = torch.zeros(len(examples), n)
    for row, (i, w) in enumerate(examples):
        ids[row, : len(i)] = torch.tensor(i)
        weights[row, : len(w)] = torch.tensor(w)
    return ids, weights


def loss_of(model, ids, weights):
    hidden = model(ids[:, :-1])
    wanted = weights[:, 1:] > 0
    w = weights[:, 1:][wanted]
    return (F.cross_entropy(model.logits(hidden[wanted]), ids[:, 1:][wanted], reduction="none") * w).sum() / w.sum()


@torch.no_grad()
def accuracy(model, tok, examples):
    """Share of texts in which every answer token is the most probable one: what greedy decoding would get exactly right."""
    right, order = {}, sorted(examples, key=lambda e: len(e[1]))
    for at in range(0, len(order), 64):
        part = order[at : at + 64]
        ids, weights = pack([(i, w) for _, i, w in part])
        best = model.logits(model(ids[:, :-1])).argmax(-1)
        good = ((best == ids[:, 1:]) | (weights[:, 1:] == 0)).all(1)
        for (skill, *_), ok in zip(part, good.tolist()):
            right.setdefault(skill, []).append(ok)
    return {s: sum(v) / len(v) for s, v in right.items()}


def exam(tok, n):
    """`n` held-out prompts of each skill."""
    rng, out = random.Random(SEED + 1), []
    for skill in data.SKILLS:
        for _ in range(n):
            s, user, mode, item = data.draw(rng, skill, held=True)
            parts = [(data.render(s, [(user, None)]), 0.0), (item.answer(mode) + data.END, 1.0)]
            out.append((skill, *encode(tok, parts)))
    return out


def rate_at(step, steps):
    main = min(steps, MAIN)
    if step >= main:
        return FINISH_RATE * min(1.0, (step - main + 1) / 20, (steps - step) / (steps - main))
    return min(1.0, (step + 1) / WARM, (main - step) / (main * DECAY))


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--out", type=Path, default=Path("target/pocket"))
    args.add_argument("--steps", type=int, default=STEPS)
    args = args.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    tok = tokenizer.build()
    model = Pocket(tok.size)
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() != 2 or "embed" in n]
    muon = Muon(matrices)
    adam = torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    weights = {s: BASE.get(s, 1.0) for s in data.SKILLS}
    saved, step, spent = args.out / "checkpoint.pt", 0, 0.0
    if saved.exists():
        state = torch.load(saved)
        model.load_state_dict(state["model"])
        adam.load_state_dict(state["adam"])
        muon.momentum, weights, step, spent = state["muon"], state["weights"], state["step"], state["spent"]
    if step >= CHANGE:
        data.SKILLS.update(data.LATER)
    test = exam(tok, SHOWN)
    count = sum(p.numel() for p in model.parameters())
    print(f"{count} parameters, {tok.size} tokens, from step {step} of {args.steps}", flush=True)
    first = int(min(args.steps, MAIN) * PLAIN)
    ready, seen, began, mean = [], 0, time.time(), None
    while step < args.steps:
        if step >= MAIN:
            weights = {s: FINISH.get(s, 0.5) for s in data.SKILLS}
        if not ready:
            # What a pool holds depends on its step and the mixture only, so that a stopped run goes on as it would have.
            rng = random.Random(f"{SEED} {step}")
            make = data.plain if step < first else lambda r: data.conversation(r, weights)[0]
            upto = min(args.steps, (step // LOOK + 1) * LOOK, first if step < first else args.steps)
            ready = batches(tok, make, rng, min(POOL, upto - step))
        ids, w = ready.pop()
        loss = loss_of(model, ids, w)
        loss.backward()
        rate = rate_at(step, args.steps)
        for g in adam.param_groups:
            g["lr"] = ADAM_RATE * rate
        muon.step(MUON_RATE * rate)
        adam.step()
        model.zero_grad()
        mean = loss.item() if mean is None else 0.97 * mean + 0.03 * loss.item()
        step += 1
        seen += ids.numel()
        if step % 50 == 0:
            pace = (time.time() - began) / max(1, seen / TOKENS)
            print(f"step {step} loss {mean:.4f} {seen / (time.time() - began):.0f} tokens/s, {(args.steps - step) * pace / 60:.0f} min to go", flush=True)
        if step % LOOK == 0 or step == args.steps:
            score = accuracy(model, tok, test)
            print(" ".join(f"{s} {100 * v:.0f}" for s, v in score.items()), flush=True)
            if step >= first:
                cap = CAP if step < LATE else LATE_CAP
                # Half of the old weight, half of what the errors ask for: a skill that is known keeps a share that keeps it known.
                weights = {s: 0.5 * weights[s] + 0.5 * BASE.get(s, 1.0) * (0.25 + min(cap, 8 * (1 - score[s]))) for s in weights}
            if step == CHANGE:
                data.SKILLS.update(data.LATER)
                test = exam(tok, SHOWN)
            state = {"model": model.state_dict(), "adam": adam.state_dict(), "muon": muon.momentum, "weights": weights, "step": step, "spent": spent + time.time() - began}
            torch.save(state, saved.with_suffix(".new"))
            saved.with_suffix(".new").replace(saved)
    (args.out / "trained.json").write_text(json.dumps({"steps": step, "seconds": round(spent + time.time() - began), "accuracy": accuracy(model, tok, test)}))


if __name__ == "__main__":
    sys.exit(main())
