"""The skills: for each a generator of questions with the one right answer in every mode.

A generator takes a random generator and returns an `Item`. Its `key` decides on which side of the split it falls: operands, word, facts or
sentence where the skill has to generalize over them, the wording where it is a matter of knowing (the key is then empty, and the whole rendered
prompt stands in for it).
"""

import json
from dataclasses import dataclass

from facts import *

EN, RU, UP, JS = "english", "russian", "upper", "json"
MODES = (EN, RU, UP, JS)


@dataclass
class Item:
    """A question, its answers by mode (some skills lack one), what is thought before, and what must not be on both sides of the split."""

    text: str
    answers: dict
    think: str = ""
    key: str = ""

    def answer(self, mode):
        """The whole reply: thoughts, if any, and the answer."""
        think = f"<think>{self.think}</think>" if self.think else ""
        return think + self.answers[mode]


def compact(value):
    return json.dumps(value, ensure_ascii=False)


def text(en, ru):
    """Answers that are words."""
    return {EN: en, RU: ru, UP: en.upper(), JS: compact({"answer": en})}


def value(shown, raw):
    """Answers that are the same in every language."""
    return {EN: shown, RU: f"Ответ: {shown}", UP: f"ANSWER: {shown.upper()}", JS: compact({"answer": raw})}


def yes(flag):
    return text("Yes", "Да") if flag else text("No", "Нет")


def a(word):
    """The word with its indefinite article."""
    return ("an " if word[0] in "aeiou" else "a ") + word


def fill(rng, phrasings, **fields):
    return rng.choice(phrasings).format(**fields)


# --- numbers


def number(rng, digits):
    return rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


def operands(rng):
    sizes = rng.choices([(3, 3), (2, 2), (3, 2), (2, 3), (2, 1), (1, 2)], [8, 5, 3, 3, 1, 1])[0]
    return number(rng, sizes[0]), number(rng, sizes[1])


def columns(x, y):
    """Digits from the right, the shorter number filled with zeros."""
    n = max(len(str(x)), len(str(y)))
    return zip(map(int, reversed(str(x).zfill(n))), map(int, reversed(str(y).zfill(n))))


def add(rng):
    x, y = operands(rng)
    steps, carry = [], 0
    for i, j in columns(x, y):
        s = i + j + carry
        steps.append(f"{i}+{j}{'+1' if carry else ''}={s}")
        carry = s // 10
    ask = fill(rng, ["{x}+{y}", "{x} + {y}", "What is {x}+{y}?", "What is {x} + {y}?", "What is {x} plus {y}?", "Add {x} and {y}.", "How much is {x} + {y}?",
        "Calculate {x} + {y}.", "Compute {x}+{y}.", "What is the sum of {x} and {y}?", "{x} plus {y}", "{x} + {y} = ?", "{x}+{y}=", "{x}+{y}?", "What's {x} + {y}?"], x=x, y=y)  # fmt: skip
    return Item(ask, value(str(x + y), x + y), ",".join(steps), f"{x} {y}")


def subtract(rng):
    x, y = operands(rng)
    if x < y and rng.random() < 0.7:
        x, y = y, x
    big, small = max(x, y), min(x, y)
    steps, borrow = [f"{y}>{x}"] if x < y else [], 0
    for i, j in columns(big, small):
        d = i - j - borrow
        less = d < 0
        steps.append(f"{i}-{j}{'-1' if borrow else ''}{'+10' if less else ''}={d % 10}")
        borrow = int(less)
    ask = fill(rng, ["{x}-{y}", "{x} - {y}", "What is {x}-{y}?", "What is {x} - {y}?", "What is {x} minus {y}?", "Subtract {y} from {x}.", "How much is {x} - {y}?",
        "Calculate {x} - {y}.", "Compute {x}-{y}.", "Take {y} away from {x}.", "{x} minus {y}", "{x} - {y} = ?", "{x}-{y}=", "{x}-{y}?", "What's {x} - {y}?"], x=x, y=y)  # fmt: skip
    return Item(ask, value(str(x - y), x - y), ",".join(steps), f"{x} {y}")


def some_numbers(rng, n, most=3):
    """Different numbers, some of them close to each other."""
    found = []
    while len(found) < n:
        x = number(rng, rng.choice([1, 2, 2, 3, 3, 3][: 3 * most - 3]))
        if found and rng.random() < 0.3:
            x = max(0, found[-1] + rng.choice([-20, -10, -3, -2, -1, 1, 2, 3, 10, 20]))
        if x not in found and x < 10**most:
            found.append(x)
    return found


def listed(numbers, last=" and "):
    words = [str(n) for n in numbers]
    return ", ".join(words[:-1]) + last + words[-1]


def compare(rng):
    kind = rng.randrange(3)
    if kind == 0:
        x, y = some_numbers(rng, 2)
        if rng.random() < 0.1:
            y = x
        more = rng.random() < 0.5
        word = "greater larger bigger more" if more else "less smaller"
        ask = fill(rng, ["Is {x} {w} than {y}?"] * 3 + [f"Is {{x}} {'>' if more else '<'} {{y}}?"], x=x, y=y, w=rng.choice(word.split()))
        think = f"{max(x, y)}{'=' if x == y else '>'}{min(x, y)}"
        return Item(ask, yes(x > y if more else x < y), think, f"{x} {y}")
    xs = some_numbers(rng, 2 if kind == 1 else rng.choice([3, 3, 4]))
    big = rng.random() < 0.5
    if kind == 1:
        word = rng.choice(["larger", "greater", "bigger"] if big else ["smaller", "lower"])
    else:
        word = rng.choice(["largest", "greatest", "biggest"] if big else ["smallest", "lowest"])
    ask = fill(rng, ["Which is {w}, {o}?", "Which number is {w}: {o}?", "Which is {w}: {o}?", "What is the {w} of {l}?"], w=word, o=listed(xs, " or "), l=listed(xs))
    best = max(xs) if big else min(xs)
    return Item(ask, value(str(best), best), key=" ".join(map(str, xs)))


def sort(rng):
    xs = some_numbers(rng, rng.choice([3, 4, 4, 5]), 2 if rng.random() < 0.6 else 3)
    down = rng.random() < 0.35
    how = fill(rng, ["from largest to smallest", "in descending order", "downwards"]) if down else rng.choice(
        ["", "", "from smallest to largest", "in ascending order", "upwards"])  # fmt: skip
    ask = rng.choice(["Sort {l}", "Sort these numbers{c}: {l}", "Sort the numbers {l}{c}", "Put {l} in order{c}", "Order these numbers{c}: {l}", "Arrange {l}{c}"])
    if down and "Put" in ask:
        ask = "Sort {l}"
    if "{c}" not in ask:
        ask += "{c}"
    if "Put" in ask:
        how = ""
    asked = ask.format(l=rng.choice([", ".join(map(str, xs)), ", ".join(map(str, xs)), listed(xs), " ".join(map(str, xs))]), c=f" {how}" if how else "") + rng.choice([".", ""])
    order = sorted(xs, reverse=down)
    # Selection: what comes next, and what is left without it, in the order of the question.
    left, steps = list(xs), []
    for x in order:
        left.remove(x)
        steps.append(f"{x}:{','.join(map(str, left))}" if left else str(x))
    return Item(asked, value(", ".join(map(str, order)), order), ";".join(steps), " ".join(map(str, sorted(xs))))


# --- words


class Chain:
    """Letters that follow two letters in the list of words: a source of words that nobody has seen."""

    def __init__(self):
        self.after = {}
        for w in WORDS:
            for i in range(len(w) + 1):
                self.after.setdefault(("^^" + w)[i : i + 2], []).append((w + "$")[i])

    def word(self, rng):
        while True:
            w = ""
            while len(w) < 10:
                c = rng.choice(self.after[("^^" + w)[-2:]])
                if c == "$":
                    break
                w += c
            if 3 <= len(w) <= 9:
                return w


CHAIN = Chain()


def word(rng):
    r = rng.random()
    if r < 0.35:
        return rng.choice(WORDS)
    if r < 0.9:
        return CHAIN.word(rng)
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randrange(3, 9)))


def quoted(rng, w):
    return rng.choice(['"{}"', '"{}"', '"{}"', "{}", "{}", "'{}'"]).format(w)


def spell(rng):
    w = word(rng)
    q = quoted(rng, w)
    kind = rng.randrange(4)
    if kind == 0:
        ask = fill(rng, ["Spell {q}.", "Spell the word {q}.", "How do you spell {q}?", "Write the letters of {q} apart.", "Which letters does {q} have?"], q=q)
        s = "-".join(w)
        return Item(ask, value(s, s), key=w)
    if kind == 1:
        ask = fill(rng, ["Write {q} in upper case.", "Write {q} in capital letters.", "Uppercase {q}.", "Make {q} upper case.", "Capitalize all letters of {q}.", "Put {q} in capitals."], q=q)
        return Item(ask, value(w.upper(), w.upper()), key=w)
    last = kind == 3
    ask = fill(rng, ["What is the {n} letter of {q}?", "Which letter is the {n} of {q}?", "{N} letter of {q}?", "What letter does {q} {v} with?"],
        q=q, n="last" if last else "first", N="Last" if last else "First", v="end" if last else "start")  # fmt: skip
    c = w[-1] if last else w[0]
    return Item(ask, value(c, c), key=w)


def count(rng):
    w = word(rng)
    q = quoted(rng, w)
    if rng.random() < 0.4:
        ask = fill(rng, ["How many letters are in {q}?", "How many letters in {q}?", "How many letters does {q} have?", "How long is the word {q}?", "Count the letters of {q}.", "How many letters are there in the word {q}?"], q=q)
        think = "".join(f"{c}{i + 1}" for i, c in enumerate(w))
        return Item(ask, value(str(len(w)), len(w)), think, w)
    c = rng.choice(w) if rng.random() < 0.85 else rng.choice("abcdefghijklmnopqrstuvwxyz")
    if rng.random() < 0.4:
        c = max(w, key=w.count)
    ask = fill(rng, ["How many {c} are in {q}?", "How many {c} in {q}?", "How many {c}'s are in {q}?", "How many times does {c} occur in {q}?", "How often does the letter {c} occur in {q}?", "Count the letter {c} in {q}.",
        "How many times is the letter {c} in the word {q}?"], q=q, c=c if rng.random() < 0.6 else f'"{c}"')  # fmt: skip
    n, think = 0, ""
    for x in w:
        n += x == c
        think += x + (str(n) if x == c else "")
    return Item(ask, value(str(n), n), think, w)


def reverse(rng):
    w = word(rng)
    q = quoted(rng, w)
    ask = fill(rng, ["Reverse {q}.", "Reverse the word {q}.", "Write {q} backwards.", "Spell {q} backwards.", "What is {q} backwards?", "Turn {q} around.", "Read {q} from right to left."], q=q)
    return Item(ask, value(w[::-1], w[::-1]), "".join(f"{c}{i + 1}" for i, c in enumerate(w)), key=w)


def many(w):
    """The regular plural."""
    if w.endswith(("s", "x", "ch", "sh", "z")):
        return w + "es"
    if w.endswith("y") and w[-2] not in "aeiou":
        return w[:-1] + "ies"
    return w + "s"


ODD = dict(IRREGULAR)


def plural(rng):
    r = rng.random()
    if r < 0.15:
        w = rng.choice(IRREGULAR)[0]
    elif r < 0.4:
        w = rng.choice(WORDS)
    else:
        w = CHAIN.word(rng)
        if rng.random() < 0.45:
            w = w[: rng.randrange(2, 7)] + rng.choice(["y", "ch", "sh", "x", "ss", "ay", "ey", "oy"])
    if w.endswith(("o", "f", "fe", "z", "s", "quy")) and not w.endswith("ss") and w not in ODD:
        w = rng.choice(WORDS[:40])  # endings without one rule
    ask = fill(rng, ["What is the plural of {q}?", "Plural of {q}?", "Give the plural of {q}.", "Put {q} into the plural.", "Write the plural of the word {q}.", "Make {q} plural.", "One {w}, two ...?"],
        q=quoted(rng, w), w=w)  # fmt: skip
    p = ODD.get(w) or many(w)
    # The few irregular ones have to be known; they are held out by wording.
    return Item(ask, value(p, p), key="" if w in ODD else w)


# --- the calendar


def date(rng):
    months = rng.random() < 0.5
    ring = MONTHS if months else DAYS
    n = len(ring)
    unit = "month" if months else "day"
    i = rng.randrange(n)
    kind = rng.randrange(4)
    if kind == 0:
        step = rng.choice([1, -1])
        ask = fill(rng, ["Which {u} comes {w} {x}?", "What {u} comes {w} {x}?", "What {u} is {w} {x}?", "Which {u} is {w} {x}?", "What comes {w} {x}?"], u=unit, x=ring[i][0], w="after" if step > 0 else "before")
    elif kind == 1 and months and rng.random() < 0.5:
        ask = fill(rng, ["How many days does {x} have?", "How many days are in {x}?", "How many days are there in {x}?", "How long is {x}?"], x=ring[i][0])
        return Item(ask, value(ring[i][2], int(ring[i][2])))
    elif kind == 1:
        ask = fill(rng, ["What is {u} number {k}{y}?", "Which is {u} {k}{y}?", "Name {u} number {k}{y}."], u=unit, k=i + 1, y=rng.choice([" of the year", ""]) if months else rng.choice([" of the week", ""]))
        step = 0
    else:
        step = rng.randrange(2, 12 if months else 15) * rng.choice([1, 1, -1])
        k = abs(step)
        s = f"{k} {unit}s"
        if step > 0:
            ask = fill(rng, ["What {u} is {s} after {x}?", "Which {u} is {s} after {x}?", "{s} after {x}?", "It is {x}. What {u} is it in {s}?", "If it is {x} now, what {u} is it in {s}?", "Add {s} to {x}."],
                u=unit, s=s, x=ring[i][0])  # fmt: skip
        else:
            ask = fill(rng, ["What {u} is {s} before {x}?", "Which {u} is {s} before {x}?", "{s} before {x}?", "It is {x}. What {u} was it {s} ago?", "If it is {x} now, what {u} was it {s} ago?"],
                u=unit, s=s, x=ring[i][0])  # fmt: skip
    found = ring[(i + step) % n]
    think = ""
    if kind > 1:
        # The number of the day or month, moved, and brought back into the year or week.
        s, end = i + 1 + step, (i + step) % n + 1
        back = end - s
        think = f"{i + 1}{step:+}={s}" + (f"{back:+}={end}" if back else "")
    return Item(ask, text(found[0], found[1]), think)


# --- what is known


def capital(rng):
    country, city, ru = rng.choice(CAPITALS)
    if rng.random() < 0.12:
        ask = fill(rng, ["{c} is the capital of which country?", "Which country has the capital {c}?", "What country is {c} the capital of?"], c=city)
        return Item(ask, {m: t for m, t in text(country, "").items() if m != RU})
    ask = fill(rng, ["What is the capital of {c}?", "Capital of {c}?", "Which city is the capital of {c}?", "Name the capital of {c}.", "Tell me the capital of {c}.", "What's the capital of {c}?",
        "What is {c}'s capital?", "What city is the capital of {c}?", "The capital of {c} is", "Do you know the capital of {c}?", "I want to know the capital of {c}."], c=country)  # fmt: skip
    return Item(ask, text(city, ru))


COLOUR_RU = dict(COLOURS)


def colour(rng):
    name = rng.choice(["colour", "color"])
    if rng.random() < 0.3:
        x, y, z = rng.choice(MIXES)
        if rng.random() < 0.5:
            x, y = y, x
        ask = fill(rng, ["What do you get if you mix {x} and {y}?", "Mix {x} and {y}.", "Which {n} do {x} and {y} make?", "{x} and {y} make which {n}?", "What {n} is {x} mixed with {y}?", "What does {x} plus {y} make?"], x=x, y=y, n=name)
    else:
        x, z = rng.choice(THINGS)
        ask = fill(rng, ["What {n} is {x}?", "Which {n} is {x}?", "What is the {n} of {x}?", "Name the {n} of {x}.", "Tell me the {n} of {x}.", "Which {n} does {x} have?"], x=x, n=name)
    return Item(ask, text(z, COLOUR_RU[z]))


def animal(rng):
    x, sort_, legs, sound, home, young = rng.choice(ANIMALS)
    kind = rng.randrange(5)
    if kind == 0:
        ask = fill(rng, ["What kind of animal is {x}?", "What class of animals does {x} belong to?", "What is {x}, a mammal or something else?"], x=x)
        return Item(ask, text(sort_, ANIMAL_WORDS[sort_]))
    if kind == 1:
        ask = fill(rng, ["How many legs does {x} have?", "How many legs has {x}?", "What number of legs does {x} have?"], x=x)
        return Item(ask, value(legs, int(legs)))
    if kind == 2:
        ask = fill(rng, ["What sound does {x} make?", "Which sound does {x} make?", "What does {x} say?", "How does {x} sound?"], x=x)
        return Item(ask, text(sound, ANIMAL_WORDS[sound]))
    if kind == 3:
        ask = fill(rng, ["Where does {x} live?", "What is the home of {x}?", "Where can I find {x}?"], x=x)
        return Item(ask, text(home, ANIMAL_WORDS[home]))
    other = rng.choice([sort_, rng.choice("mammal bird fish insect amphibian reptile".split())])
    ask = fill(rng, ["Is {x} {o}?", "Tell me, is {x} {o}?", "Is it true that {x} is {o}?"], x=x, o=a(other))
    return Item(ask, yes(other == sort_))


# --- stories

STORIES = {
    "story": (
        "Once upon a time {A} found {B}. The {x} showed the {y} to a friend, and both were happy.",
        "Однажды {hx} {found} {ty}. {Hx} {showed} {ty} другу, и оба были рады.",
    ),
    "fairy tale": (
        "Far away lived {A} who had {B}. One night the {y} began to shine, and the {x} was never alone again.",
        "Далеко-далеко {lived} {hx}. Однажды {hx} {found} {ty}, и {ty} нельзя было забыть.",
    ),
    "bedtime story": (
        "The moon is up. {A2} puts {B} under the pillow. Sleep well, little {x}.",
        "Взошла луна. {Hx} кладёт {ty} под подушку. Спи, {hx}.",
    ),
    "rhyme": (
        "The {x} went out to see the sea,\nThe {x} came home in time for tea.",
        "{Hx} вышел за порог,\n{Hx} видит сто дорог.",
    ),
    "poem": (
        "The {x} woke up and saw the day,\nThe {x} went out to run and play.\nThe {x} came home when it was late\nAnd slept behind the garden gate.",
        "{Hx} видит: день настал,\n{Hx} песню написал.\n{Hx} к вечеру устал,\nСолнце село, мир поспал.",
    ),
}


def story(rng):
    kind = rng.choice(list(STORIES))
    known = rng.random() < 0.5
    hero, treasure = rng.choice(HEROES), rng.choice(TREASURES)
    x = hero[0] if known else rng.choice([w for w in (rng.choice(WORDS), CHAIN.word(rng)) if w])
    y = treasure[0] if known else rng.choice([rng.choice(WORDS), CHAIN.word(rng)])
    two = kind not in ("rhyme", "poem")
    about = f"{a(x)} and {a(y)}" if two else a(x)
    ask = fill(rng, ["Tell me a {k} about {o}.", "Write a {k} about {o}.", "Make up a {k} about {o}.", "I want a {k} about {o}.", "Can you tell a {k} about {o}?", "A {k} about {o}, please."], k=kind, o=about)
    en, ru = STORIES[kind]
    en = en.format(A=a(x), B=a(y), A2=a(x).capitalize(), x=x, y=y)
    answers = {EN: en, UP: en.upper(), JS: compact({"answer": en})}
    if known and (two or hero[2] == "m"):
        f = hero[2] == "f"
        h, t = hero[1], treasure[1]
        answers[RU] = ru.format(hx=h, Hx=h.capitalize(), ty=t, found="нашла" if f else "нашёл", showed="показала" if f else "показал", lived="жила" if f else "жил")
    return Item(ask, answers, key=f"{x} {y}" if two else x)


# --- logic

ORDERS = [("older", "younger"), ("taller", "shorter"), ("faster", "slower"), ("stronger", "weaker"), ("richer", "poorer")]


def logic(rng):
    kind = rng.randrange(5)
    who = rng.sample(NAMES, 3)
    i, truth = rng.randrange(2), rng.random() < 0.5
    j = i if truth else 1 - i
    if kind == 0:
        up, down = rng.choice(ORDERS)
        if rng.random() < 0.5:
            up, down = down, up
        facts = [f"{who[0]} is {up} than {who[1]}.", f"{who[1]} is {up} than {who[2]}."]
        if rng.random() < 0.3:
            facts.reverse()
        i, j = rng.choice([(0, 2), (2, 0), (0, 2), (2, 0), (0, 1), (1, 0), (1, 2), (2, 1)])
        same = rng.random() < 0.6
        asked = up if same else down
        ask, truth = f"Is {who[i]} {asked} than {who[j]}?", (i < j) == same
        think = ">".join(who if asked == up else who[::-1])
    elif kind == 1:
        one, other = rng.sample(WORDS, 2)
        facts = [f"All {many(one)} are {many(other)}." if truth else f"No {one} is {a(other)}.", f"{who[0]} is {a(one)}."]
        ask = f"Is {who[0]} {a(other)}?"
        think = f"{who[0]}: {one}"
    elif kind == 2:
        things, hues = rng.sample(WORDS, 2), rng.sample([c for c, _ in COLOURS], 2)
        facts = [f"The {t} is {c}." for t, c in zip(things, hues)]
        ask = f"Is the {things[i]} {hues[j]}?"
        think = f"{things[i]}: {hues[i]}"
    elif kind == 3:
        things = rng.sample(WORDS, 2)
        facts = [f"{w} has {a(t)}." for w, t in zip(who, things)]
        ask = f"Does {who[i]} have {a(things[j])}?"
        think = f"{who[i]}: {things[i]}"
    else:
        places = rng.sample([c for _, c, _ in CAPITALS if " " not in c and "-" not in c], 2)
        facts = [f"{w} lives in {p}." for w, p in zip(who, places)]
        ask = f"Does {who[i]} live in {places[j]}?"
        think = f"{who[i]}: {places[i]}"
    said = " ".join(facts)
    return Item(f"{said} {ask}", yes(truth), think, said + ask)


VERBS = "dance sing cook swim draw drive sail ski read climb juggle skate".split()


def compares_words(item):
    """Whether a question of `logic` is one of those that pocket learned: a word found in the facts is, or is not, the one that is asked for."""
    return item.text.startswith("The ") or " lives in " in item.text


def stated(rng):
    """What `logic` is late in training: without orders and possession, and with facts that deny."""
    kind = rng.randrange(7)
    if kind in (0, 6):
        while True:
            item = logic(rng)
            if compares_words(item):
                return item
    who = rng.sample(NAMES, 2)
    i = rng.randrange(2)  # 0: what is asked about is affirmed, 1: it is denied
    if kind == 1:
        one, other, third = rng.sample(WORDS, 3)
        rules = [f"All {many(one)} are {many(third)}.", f"No {other} is {a(third)}."]
        thing = (one, other)[i]
        facts = rng.sample(rules, 2) if rng.random() < 0.5 else [rules[i]]
        facts.append(f"{who[0]} is {a(thing)}.")
        ask, think = f"Is {who[0]} {a(third)}?", f"{who[0]}: {thing}"
    elif kind == 2:
        things, hue = rng.sample(WORDS, 2), rng.choice(COLOURS)[0]
        facts = [f"The {things[0]} is {hue}.", f"The {things[1]} is not {hue}."]
        ask, think = f"Is the {things[i]} {hue}?", f"{things[i]} is{' not' if i else ''}"
    elif kind == 3:
        thing = rng.choice(WORDS)
        facts = [f"{who[0]} has {a(thing)}.", f"{who[1]} has no {thing}."]
        ask, think = f"Does {who[i]} have {a(thing)}?", f"{who[i]} has{' no' if i else ''}"
    elif kind == 4:
        place = rng.choice(CAPITALS)[1]
        facts = [f"{who[0]} lives in {place}.", f"{who[1]} does not live in {place}."]
        ask, think = f"Does {who[i]} live in {place}?", f"{who[i]} does{' not' if i else ''}"
    else:
        verb = rng.choice(VERBS)
        facts = [f"{who[0]} can {verb}.", f"{who[1]} cannot {verb}."]
        ask, think = f"Can {who[i]} {verb}?", f"{who[i]} can{'not' if i else ''}"
    if kind > 1 and rng.random() < 0.5:
        facts.reverse()
    said = " ".join(facts)
    return Item(f"{said} {ask}", yes(i == 0), think, said + ask)


# --- extraction

SENTENCES = [
    ("{name} is {age} years old and lives in {city}.", ("name", "age", "city")),
    ("{name}, {age}, works in {city}.", ("name", "age", "city")),
    ("{name} bought {item} for {price} dollars.", ("name", "item", "price")),
    ("On {day} {name} flies to {city}.", ("day", "name", "city")),
    ("My name is {name} and I am {age}.", ("name", "age")),
    ("{name} comes from {city} and likes {item}.", ("name", "city", "item")),
    ("The {item} costs {price} dollars and is {color}.", ("item", "price", "color")),
    ("{name} will meet us in {city} on {day}.", ("name", "city", "day")),
    ("{name} has a {color} {item}.", ("name", "color", "item")),
]


def extract(rng):
    sentence, fields = rng.choice(SENTENCES)
    known = {
        "name": rng.choice(NAMES) if rng.random() < 0.6 else CHAIN.word(rng).capitalize(),
        "age": number(rng, 2),
        "city": rng.choice(CAPITALS)[1],
        "item": rng.choice(WORDS),
        "price": number(rng, rng.choice([1, 2, 2, 3])),
        "day": rng.choice(DAYS)[0],
        "color": rng.choice(COLOURS)[0],
    }
    said = sentence.format(**{f: (a(known[f]) if f == "item" and "bought" in sentence else many(known[f]) if f == "item" and "likes" in sentence else known[f]) for f in known})
    if "likes" in sentence:
        known["item"] = many(known["item"])
    wanted = rng.sample(fields, rng.choice([1, 1, 2, 2, len(fields)]))
    names = ["the " + w for w in wanted]
    names = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
    ask = fill(rng, ["Extract {f} as JSON: {s}", "Extract {f} from this sentence as JSON: {s}", "Give {f} as JSON. {s}", "{s} Extract {f} as JSON.", 'Find {f} in "{s}" and answer as JSON.', "Return JSON with {f}: {s}"], f=names, s=said)
    out = compact({w: known[w] for w in wanted})
    return Item(ask, {EN: out, RU: out, UP: out.upper(), JS: out}, key=said)


# --- what pocket does not do

REFUSED = [
    "What is the weather in {city}?", "What will the weather be on {day}?", "Who is the president of {country}?", "How many people live in {city}?", "How many people live in {country}?",
    "Write a program that prints {word}.", "Write a {lang} function that sorts a list.", "Write some {lang} code for {word}.", "Translate {word} into French.", "How do you say {word} in German?", "Translate this into Spanish: {word}.",
    "What is {n} times {m}?", "{n} * {m}", "What is {n} divided by {m}?", "{n} / {m}", "Multiply {n} by {m}.", "Divide {n} by {m}.", "What is the square root of {n}?", "What is {n} percent of {m}?",
    "What does {word} mean?", "What is {word}?", "Explain {word} to me.", "Define {word}.", "Who invented the {word}?", "Who wrote the book about the {word}?", "What is the history of {country}?", "Tell me about {country}.", "Tell me about {city}.",
    "What time is it?", "What time is it in {city}?", "What day is it today?", "What year is it?", "What is the news?", "Book a flight to {city}.", "Order {aword} for me.", "Buy {aword} for {n} dollars.", "Call {name}.", "Send {name} a letter.",
    "Draw {aword}.", "Draw me a {color} {word}.", "Show me a picture of {aword}.", "Play a song about {aword}.", "Sing a song.", "Recommend a film about {aword}.", "What should I eat today?", "How do I cook {aword}?", "Give me a recipe for {word}.",
    "How far is {city} from {city2}?", "How tall is {name}?", "Who is {name}?", "Where is {name}?", "How old is {name}?", "What is the meaning of life?", "Do you love me?", "Should I buy {aword}?", "How much does {aword} cost?", "Summarize the book {word}.",
    "Write an essay about {aword}.", "Write a letter to {name}.", "Is there a god?", "Tell me a joke.", "Tell me a joke about {aword}.", "Can you help me with my {word}?", "What is the currency of {country}?", "What language do they speak in {country}?",
    "How do I fix my {word}?", "Why is the {word} {color}?", "How does {aword} work?", "When was {city} built?", "What is the best {word}?", "Solve x + {n} = {m}.", "What is the population of {country}?", "How big is {country}?", "Open the {word}.", "{word}", "{word} {word2}",
    "{word} {word2} {word3}?", "Why {word} {word2}?", "Who {word} the {word2}?", "How can I {word} {aword}?", "Please {word} the {word2}.", "When does the {word} {word2}?", "Could you {word} my {word2} in {city}?", "Where is the {word}?", "Where can I buy {aword}?",
    "Which {word} is the best in {city}?", "What happened in {n}{m}?", "Sort my {word}.", "How many {word} are in the {word2}?", "How are {word} made?", "Is the {word} good?", "Does {name} like me?", "I have lost my {word}.", "I am sad.", "The {word} is {color}.", "{name} has {aword}.",
]  # fmt: skip
SORRY = {
    EN: "Sorry, I cannot do that. Ask me about numbers, words, days, capitals or animals.",
    RU: "Извините, этого я не умею. Спросите меня о числах, словах, днях или столицах.",
    UP: "SORRY, I CANNOT DO THAT. ASK ME ABOUT NUMBERS, WORDS, DAYS, CAPITALS OR ANIMALS.",
    JS: compact({"error": "Sorry, I cannot do that."}),
}


def refuse(rng):
    w = [rng.choice(WORDS) if rng.random() < 0.6 else CHAIN.word(rng) for _ in range(3)]
    if rng.random() < 0.05:
        ask = " ".join(rng.choice(["что", "как", "где", "почему", "привет", "столица", "сколько", "скажи", "число", "дом"]) for _ in range(rng.randrange(1, 4))) + rng.choice(["?", ""])
        return Item(ask, SORRY)
    ask = fill(rng, REFUSED, city=rng.choice(CAPITALS)[1], city2=rng.choice(CAPITALS)[1], country=rng.choice(CAPITALS)[0], day=rng.choice(DAYS)[0], word=w[0], word2=w[1], word3=w[2],
        aword=a(w[0]), n=number(rng, 2), m=number(rng, 2), name=rng.choice(NAMES), color=rng.choice(COLOURS)[0], lang=rng.choice("Python Rust Java C".split()))  # fmt: skip
    return Item(ask, SORRY)


def refuse_more(rng):
    """As `refuse`, and the questions of `logic` that pocket did not learn."""
    if rng.random() > 0.12:
        return refuse(rng)
    while True:
        item = logic(rng)
        if not compares_words(item) and not item.text.startswith(("All ", "No ")):
            return Item(item.text, SORRY)


TALK = [
    (["Hello!", "Hi!", "Hey!", "Good morning!", "Hello there!", "Hi there!", "Good evening!"],
     "Hello! What can I do for you?", "Здравствуйте! Чем могу помочь?"),
    (["Who are you?", "What are you?", "What is your name?", "Tell me about yourself.", "Introduce yourself.", "What's your name?"],
     "I am pocket, a very small language model inside quern.", "Я pocket, очень маленькая языковая модель внутри quern."),
    (["What can you do?", "Help", "How can you help me?", "What do you know?", "What can I ask you?", "What are your skills?"],
     "I can add, subtract, compare and sort numbers, spell and count letters, tell capitals, colours, days and animals, find facts in a sentence, and tell short stories.",
     "Я умею складывать, вычитать, сравнивать и сортировать числа, считать буквы, знаю столицы, цвета, дни и животных, и рассказываю короткие истории."),
    (["Thanks!", "Thank you!", "Thank you very much!", "Thanks a lot!", "Great, thanks!"], "You are welcome!", "Пожалуйста!"),
    (["How are you?", "How are you doing?", "How do you do?", "Are you well?"], "I am fine, thank you. How can I help?", "Спасибо, хорошо. Чем могу помочь?"),
    (["Bye!", "Goodbye!", "See you!", "Good night!", "Bye bye!"], "Goodbye!", "До свидания!"),
    (["Are you a human?", "Are you a robot?", "Are you real?", "Are you alive?"], "I am a small language model, not a human.", "Я маленькая языковая модель, а не человек."),
]  # fmt: skip


def talk(rng):
    asks, en, ru = rng.choice(TALK)
    return Item(rng.choice(asks), text(en, ru))


SKILLS = {
    "add": add, "subtract": subtract, "compare": compare, "sort": sort, "spell": spell, "count": count, "reverse": reverse, "plural": plural, "date": date,
    "capital": capital, "colour": colour, "animal": animal, "story": story, "logic": logic, "extract": extract, "refuse": refuse, "talk": talk,
}  # fmt: skip

# What takes their place late in training: orders of three and who has which of two things were not learned by then (see the card), so those questions
# are refused from then on.
LATER = {"logic": stated, "refuse": refuse_more}
