"""Conversations out of skills: system prompts, surface variation, the split, and the plain texts of the first stage.

The split is by construction: a prompt is held out if the hash of its skill and key (operands, word, facts) falls into one bucket of eight. Where
the skill is a matter of knowing, the key is the whole rendered prompt: the fact is in training, this wording of it with this system prompt is not.
"""

import hashlib
import random

from facts import *
from skills import *

SYSTEM, USER, ASSISTANT, END, THINK, UNTHINK = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<think>", "</think>"
SPECIALS = [SYSTEM, USER, ASSISTANT, END]

PROMPTS = {
    EN: ["You are a helpful assistant.", "Answer in English.", "Be brief.", "You are pocket.", "Answer shortly.", "Be polite and helpful.", "Help the user."],
    RU: ["Answer in Russian.", "Reply in Russian.", "Always answer in Russian.", "You speak only Russian.", "Отвечай по-русски.", "Please answer in Russian only.", "Use the Russian language.", "Отвечай на русском языке."],
    UP: ["Answer in upper case.", "Use upper case only.", "Write in capital letters.", "Answer in capital letters only.", "ALWAYS ANSWER IN UPPER CASE.", "Reply in upper case.", "Use only capital letters."],
    JS: ["Answer as JSON.", "Reply as JSON.", "Answer with JSON only.", "Output JSON.", "Your answers are JSON objects.", "Always answer in JSON.", "Reply with a JSON object."],
}
SHARES = {EN: 0.5, RU: 0.18, UP: 0.16, JS: 0.16}
BUCKETS = 8


def held_out(skill, key):
    """Whether a key belongs to the evaluation and never to training."""
    return hashlib.blake2b(f"{skill}\0{key}".encode(), digest_size=4).digest()[0] % BUCKETS == 0


def vary(rng, text):
    """The small differences between people who ask the same."""
    r = rng.random()
    if r < 0.2 and text[-1] in ".?!":
        text = text[:-1]
    r = rng.random()
    if r < 0.2 and text[0].isupper() and text.split()[0].rstrip("?!.,") not in PROPER:
        text = text[0].lower() + text[1:]
    elif r < 0.25:
        text = "Please: " + text
    return text


PROPER = {w for row in CAPITALS for w in row[0].split() + row[1].split()} | {d[0] for d in DAYS} | {m[0] for m in MONTHS} | set(NAMES)


def system_prompt(rng, mode):
    """A system prompt that asks for a mode; none at all is the most common way to ask for plain English."""
    if mode == EN:
        return "" if rng.random() < 0.75 else rng.choice(PROMPTS[EN])
    text = rng.choice(PROMPTS[mode])
    if rng.random() < 0.15:
        text = text.rstrip(".")
    return "You are a helpful assistant. " + text if rng.random() < 0.15 else text


def draw(rng, skill, mode=None, held=False, system=None):
    """One question of a skill on the wanted side of the split, as (system prompt, user text, mode, item)."""
    while True:
        item = SKILLS[skill](rng)
        m = mode or rng.choices(MODES, [SHARES[m] for m in MODES])[0]
        if m not in item.answers:
            if mode:
                continue
            m = EN
        s = system_prompt(rng, m) if system is None else system
        item.text = vary(rng, item.text)
        if held_out(skill, item.key or s + "\0" + item.text) == held:
            return s, item.text, m, item


def render(system, turns):
    """The prompt of a conversation whose last turn waits for its answer: what the chat template makes of the same messages."""
    out = f"{SYSTEM}{system}{END}" if system else ""
    for user, answer in turns:
        out += f"{USER}{user}{END}{ASSISTANT}"
        if answer is not None:
            out += answer + END
    return out


def conversation(rng, weights):
    """Parts of a training text as (text, weight of its loss), and the skill of its last turn."""
    skills = list(weights)
    chances = [weights[s] for s in skills]
    skill = rng.choices(skills, chances)[0]
    s, user, mode, item = draw(rng, skill)
    parts = []
    if rng.random() < 0.09:
        # Earlier turns of the same conversation, with or without what was thought in them.
        bare = rng.random() < 0.3
        for _ in range(rng.choice([1, 1, 2])):
            _, u, _, before = draw(rng, rng.choices(skills, chances)[0], mode, system=s)
            parts.append((f"{USER}{u}{END}{ASSISTANT}", 0.0))
            parts.append(((before.answers[mode] if bare else before.answer(mode)) + END, 0.0 if bare and before.think else 1.0))
    if s:
        parts.insert(0, (f"{SYSTEM}{s}{END}", 0.0))
    parts.append((f"{USER}{user}{END}{ASSISTANT}", 0.0))
    parts.append((item.answer(mode) + END, 1.0))
    return parts, skill


def plain(rng):
    """A text of the first stage: the same world, told and not asked for."""
    kind = rng.randrange(9)
    if kind == 0:
        c, city, ru = rng.choice(CAPITALS)
        t = fill(rng, ["The capital of {c} is {y}.", "{y} is the capital of {c}.", "{c}: {y}, {u}, {r}", '{c}: {r}, {{"answer": "{y}"}}'], c=c, y=city, u=city.upper(), r=ru)
    elif kind in (1, 2):
        w = word(rng)
        while any(held_out(s, w) for s in ("spell", "count", "reverse", "plural")):
            w = word(rng)
        t = " ".join([w, "-".join(w), w.upper(), w[::-1], "".join(f"{c}{i + 1}" for i, c in enumerate(w)), str(len(w))])
    elif kind == 3:
        s, u, m, item = draw(rng, rng.choice(["add", "subtract"]), EN)
        t = f"{u} {item.think} {item.answers[EN]}"
    elif kind == 4:
        s, u, m, item = draw(rng, rng.choice(["compare", "sort"]), EN)
        t = f"{u} {item.think} {item.answers[EN]}"
    elif kind == 5:
        s, u, m, item = draw(rng, "story")
        t = item.answers[m]
    elif kind == 6:
        s, u, m, item = draw(rng, rng.choice(["logic", "extract"]), EN)
        t = f"{u} {item.think} {item.answers[EN]}"
    elif kind == 7:
        s, u, m, item = draw(rng, rng.choice(["colour", "animal", "date"]), EN)
        t = f"{u} {item.think} {item.answers[m]}. {item.answers[RU]}"
    else:
        s, u, m, item = draw(rng, rng.choice(["refuse", "talk", "plural"]))
        t = f"{u} {item.answers[m]}"
    return [(t + END, 1.0)]
