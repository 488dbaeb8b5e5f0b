"""Captions that other implementations must read as Python does: awkward ones, and many generated ones."""

import random

from t2i_engine.tokenizer import Tokenizer

AWKWARD = (
    "",
    " \t\n",
    "...!?",
    "A Red BIRD",
    "a red-and-blue bird's wings, yellow_belly",
    "a réd bïrd with ﬁns and ⅷ wings ٣ ²",
    "İSTANBUL ΣΑΣ Kelvin ſ bird",
    "bird\ufffd\ufffdbird a\ufffdbird",
    "red\u200bbird red\u00a0bird red\u0301bird 👩‍🎨 bird",
    "constructor __proto__ toString hasOwnProperty bird",
    "yelow yelow bird xylophone xylophone birdd brid bbird",
    "ocean crimson oceans <end> end",
    "鳥 птица طائر bird",
    "a bird " * 1500,
)


def made_captions(tokenizer: Tokenizer, count: int) -> list[str]:
    """Captions of known, near, misspelt and odd words."""
    chance = random.Random(0)
    known, near = tokenizer.words[1:], [*(tokenizer.near or {})]

    def word() -> str:
        text = chance.choice(chance.choice((known, near)))
        for _ in range(chance.choice((0, 0, 1, 1, 2))):
            place = chance.randrange(len(text) + 1)
            other = chance.choice(("", "", "s", chance.choice("abcdefghijklmnopqrstuvwxyz"), chance.choice("é9_'ß")))
            text = text[:place] + other + text[place + chance.randrange(2) :]
        return chance.choice((text, text, text.upper(), text.title()))

    def caption() -> str:  # its first word is known: otherwise, Python looks for near ones, for long
        words = (chance.choice(known), *(word() for _ in range(chance.randint(1, 8))))
        return chance.choice((" ", ", ", "-")).join(words)

    return [caption() for _ in range(count)]
