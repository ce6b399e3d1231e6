"""How people ask about pictures: patterns with alternatives in braces and slots in angle brackets, in two
languages.

``{a|b|}`` chooses one alternative (nesting is allowed), ``<shape>`` is filled by the caller.
"""

import random
import re

from models.demo import wording
from models.demo.palette import Language

_BRACES = re.compile(r"\{([^{}]*)\}")
_SLOT = re.compile(r"<(\w+)>")

PICTURE_EN = "{this|the} {picture|picture|image|image|photo|drawing|scene|pic}"
PICTURE_ZH = "{这张|这幅|}{图|图片|图像|画|照片|图里|图片里|图中}"

PATTERNS = wording.patterns("questions.txt")


def expand(pattern: str, rng: random.Random, slots: dict[str, str] | None = None) -> str:
    """Choose among the alternatives of a pattern and fill its slots."""
    filled = {"picture": PICTURE_EN} | (slots or {})
    while True:
        pattern = _SLOT.sub(lambda match: filled[match[1]], pattern)
        changed = _BRACES.sub(lambda match: rng.choice(match[1].split("|")), pattern)
        if changed == pattern:
            return pattern
        pattern = changed


def _spoken_en(text: str, rng: random.Random) -> str:
    """Vary politeness, case and punctuation, as people type."""
    roll = rng.random()
    bare = text[:-1] if text[-1:] in ".?" else text
    if roll < 0.08:
        text = f"{rng.choice(('please', 'hey,', 'hi,', 'ok,', 'so,', 'now', 'hello,', 'well,'))} {text}"
    elif roll < 0.16:
        wish = rng.choice((" please", ", please", " please?", ", thanks", " thanks", " pls"))
        text = f"{bare}{wish}{text[len(bare) :]}"
    case = rng.random()
    text = text if case < 0.22 else text.upper() if case < 0.24 else text[:1].upper() + text[1:]
    ending = rng.random()
    if ending < 0.2:
        return text.rstrip(".?")
    return text + rng.choice(("!", " ", "?", "..")) if ending < 0.24 else text


def _spoken_zh(text: str, rng: random.Random) -> str:
    roll = rng.random()
    if roll < 0.08:
        text = rng.choice(("请问", "请问，", "你好，", "请", "你知道", "那么")) + text
    elif roll < 0.12:
        text = text.rstrip("？。") + rng.choice(("，谢谢", "，谢谢！", "呢？", "啊？"))
    ending = rng.random()
    if ending < 0.2:
        return text.rstrip("？。")
    return text.replace("？", "?").replace("。", ".") if ending < 0.4 else text


def spoken(text: str, language: Language, rng: random.Random) -> str:
    """Vary a question as people do when they type."""
    return _spoken_en(text, rng) if language == "en" else _spoken_zh(text, rng)


def ask(skill: str, language: Language, rng: random.Random, **slots: str) -> str:
    """Draw a question of a kind, with its slots filled."""
    picture = PICTURE_EN if language == "en" else PICTURE_ZH
    pattern = rng.choice(PATTERNS[skill][language])
    return spoken(expand(pattern, rng, {"picture": picture} | slots), language, rng)
