"""The vocabulary and its encoder: bytes, Cyrillic letters, and whole words for what the templates are made of.

A text is cut into words with the space before them, single signs and single white space. A piece that is in the vocabulary is one token (in terms
of tokenizer.json: `ignore_merges`), any other falls apart into letters: ASCII is its own byte, the two bytes of a Cyrillic letter merge. Digits are
thus single tokens, and so are the letters of all words that pocket may be asked to spell, because no such word is let into the vocabulary.
"""

import collections
import functools
import random
import re

import data
from facts import *
from skills import CHAIN

PIECE = r" ?\p{L}+| ?[^\s\p{L}]|\s"  # as tokenizer.json has it
PIECES = re.compile(r" ?[^\W\d_]+| ?[^\s]|\s")  # the same in terms of Python, for texts that occur here
MARKS = re.compile("(" + "|".join(re.escape(s) for s in data.SPECIALS + [data.THINK, data.UNTHINK]) + ")")

CYRILLIC = "АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯЁабвгдежзийклмнопрстуфхцчшщъыьэюяё"
SAMPLE = 80_000  # conversations whose pieces are counted
OFTEN = 30  # how often a piece must occur there to be a token


def byte_symbols():
    """The printable characters that stand for bytes in tokenizer.json (GPT-2's table)."""
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table, extra = {}, 0
    for b in range(256):
        if b in keep:
            table[b] = chr(b)
        else:
            table[b] = chr(256 + extra)
            extra += 1
    return table


SYMBOLS = byte_symbols()


def symbols(text):
    return "".join(SYMBOLS[b] for b in text.encode())


def is_word(piece, spelled):
    """Whether a piece may become a token: nothing that anybody asks to spell, no lower-case word without its space."""
    bare = piece.strip()
    if len(bare) < 2:
        return len(piece) == 2 and not bare.isdigit() and not bare.isalpha()
    if bare.lower() in spelled:
        return False
    return piece == "answer" or piece[0] == " " or piece[0].isupper() or not piece.isascii()


class Tokenizer:
    def __init__(self, words):
        self.words = words
        self.merges = [tuple(symbols(c)) for c in CYRILLIC]
        entries = [SYMBOLS[b] for b in range(256)] + [a + b for a, b in self.merges] + [symbols(w) for w in words]
        self.vocab = {s: i for i, s in enumerate(dict.fromkeys(entries))}
        self.marks = data.SPECIALS + [data.THINK, data.UNTHINK]
        self.special = {m: len(self.vocab) + i for i, m in enumerate(self.marks)}
        self.size = len(self.vocab) + len(self.marks)
        self.end = self.special[data.END]
        self.text_of = {i: s for s, i in self.vocab.items()}
        self.byte_of = {c: b for b, c in SYMBOLS.items()}
        self.mark_of = {i: m for m, i in self.special.items()}
        self.encode = functools.lru_cache(200_000)(self._piece)

    def _piece(self, piece):
        whole = self.vocab.get(symbols(piece))
        if whole is not None:
            return (whole,)
        ids = []
        for c in piece:
            s = symbols(c)
            ids.extend([self.vocab[s]] if s in self.vocab else [self.vocab[x] for x in s])
        return tuple(ids)

    def ids(self, text):
        """Tokens of a text in which special tokens are read as such."""
        out = []
        for part in MARKS.split(text):
            if part in self.special:
                out.append(self.special[part])
            elif part:
                for piece in PIECES.findall(part):
                    out.extend(self.encode(piece))
        return out

    def text(self, ids):
        out = b""
        for i in ids:
            out += self.mark_of[i].encode() if i in self.mark_of else bytes(self.byte_of[c] for c in self.text_of[i])
        return out.decode(errors="replace")


def build(seed=7):
    """The vocabulary is a function of the recipe: it counts the pieces of a fixed sample."""
    rng = random.Random(seed)
    spelled = {w for w in WORDS} | {data.many(w) for w in WORDS} | {w for pair in IRREGULAR for w in pair}
    for row in ANIMALS:
        spelled |= {row[0].split()[-1], row[5], *row[1:5]}
    spelled |= {t[0].split()[-1] for t in THINGS} | {h[0] for h in HEROES} | {t[0] for t in TREASURES} | {c for c, _ in COLOURS}
    spelled |= {w[::-1] for w in WORDS}
    counts = collections.Counter()
    weights = {s: 1.0 for s in data.SKILLS}
    for _ in range(SAMPLE):
        parts, _ = data.conversation(rng, weights)
        for part in MARKS.split("".join(p for p, _ in parts)):
            if part not in data.SPECIALS:
                counts.update(PIECES.findall(part))
    # Made-up words turn up by chance, and then a word that means something is rarer still.
    made_up = {CHAIN.word(rng) for _ in range(SAMPLE)}
    words = {p for p, n in counts.items() if n >= (400 if p.strip().lower() in made_up else OFTEN) and is_word(p, spelled)}
    words |= {p for name in named() for p in PIECES.findall(name) if is_word(p, spelled)}
    return Tokenizer(sorted(words))


def named():
    """Names that must be tokens however rarely they are asked for, as they stand at the beginning of an answer and within a sentence."""
    for row in CAPITALS:
        yield from (" " + row[0], row[0], row[0].upper(), " " + row[1], row[1], row[1].upper(), row[2])
    for row in DAYS + MONTHS:
        yield from (" " + row[0], row[0], row[0].upper(), row[1])
    yield from (ru for _, ru in COLOURS)
    yield from ANIMAL_WORDS.values()
    yield from (" " + n for n in NAMES)
    yield from NAMES
    for row in HEROES:
        yield from (row[1], " " + row[1], row[1].capitalize())
    for _, ru in TREASURES:
        yield " " + ru
