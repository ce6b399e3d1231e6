"""The words and numbers that are drawn into pictures: at most six capital letters and digits, from disjoint
lists and at random.
"""

import random
import string

from models.demo import wording

MAX_LENGTH = 6
LISTED = 0.12  # share of real words: with many, they are guessed and not read

TRAINING_WORDS = wording.listed("training_words.txt")
HELD_OUT_WORDS = wording.listed("held_out_words.txt")

CODE_CHARACTERS = "ABCDEFGHJKLMNPRSTUVWXYZ23456789"  # without 0, 1, I, O and Q


def _length(rng: random.Random) -> int:
    return rng.choices((1, 2, 3, 4, 5, 6), (1, 3, 5, 6, 6, 6))[0]


def _random_text(rng: random.Random) -> str:
    length = _length(rng)
    kind = rng.random()
    if kind < 0.55:
        return "".join(rng.choice(string.ascii_uppercase) for _ in range(length))
    if kind < 0.9:
        digits = "".join(rng.choice(string.digits) for _ in range(length))
        return digits if length == 1 or digits[0] != "0" else "4" + digits[1:]
    return "".join(rng.choice(CODE_CHARACTERS) for _ in range(max(2, length)))


def sample_text(rng: random.Random, held_out: bool = False) -> str:
    """Choose a word, a number or a random string of one to six characters."""
    while True:
        if rng.random() < LISTED:
            word = rng.choice(HELD_OUT_WORDS if held_out else TRAINING_WORDS).upper()
        else:
            word = _random_text(rng)
        if len(word) <= MAX_LENGTH and (held_out or word.lower() not in HELD_OUT_WORDS):
            return word


def kind_of(text: str) -> str:
    """Say what a drawn text is: "number", "word" or (letters and digits mixed) "text"."""
    if text.isdigit():
        return "number"
    return "word" if text.isalpha() else "text"
