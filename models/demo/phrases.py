"""Says things about scenes in English and Chinese: noun phrases, lists, captions. One fixed wording for
each.
"""

from collections.abc import Sequence

from models.demo import words
from models.demo.palette import (
    BACKGROUNDS,
    COLOURS,
    NUMBERS_EN,
    NUMBERS_ZH,
    PLACES_EN,
    PLACES_ZH,
    SHAPES,
    Language,
)
from models.demo.scenes import Item, Scene

KINDS_ZH = {"word": "单词", "number": "数字", "text": "文字"}
UNKNOWN = {
    "en": "I can't tell what this is: I only know simple shapes and short words.",
    "zh": "我看不出这是什么：我只认识简单的图形和短单词。",
}


def article(word: str) -> str:
    """The English indefinite article and the word."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def join(parts: Sequence[str], language: Language) -> str:
    """Enumerate: "a, b and c"; in Chinese "a、b和c"."""
    comma, last = (", ", " and ") if language == "en" else ("、", "和")
    if len(parts) < 2:
        return "".join(parts)
    return comma.join(parts[:-1]) + last + parts[-1]


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def colour(name: str, language: Language) -> str:
    """The name of a colour or of a background."""
    if name == "gradient":
        return "a gradient" if language == "en" else "渐变色"
    if name not in BACKGROUNDS:
        return "unknown" if language == "en" else "未知"
    return BACKGROUNDS[name].en if language == "en" else BACKGROUNDS[name].zh


def shape(name: str, language: Language) -> str:
    """The name of a shape, without article."""
    return SHAPES[name].en if language == "en" else SHAPES[name].zh


def place(cell: int, language: Language) -> str:
    """The name of a cell of the grid: "at the top left", "左上角"."""
    return PLACES_EN[cell] if language == "en" else PLACES_ZH[cell]


def number(count: int, language: Language) -> str:
    """A count in words."""
    return NUMBERS_EN[count] if language == "en" else NUMBERS_ZH[count]


def quoted(text: str, language: Language) -> str:
    """A drawn text in the language's quotation marks."""
    return f'"{text}"' if language == "en" else f"“{text}”"


def text_noun(item: Item, language: Language) -> str:
    """What a drawn text is: ``the word "HELLO" in red``."""
    kind = words.kind_of(item.text)
    if language == "en":
        return f"the {kind} {quoted(item.text, 'en')} in {item.colour}"
    return f"{COLOURS[item.colour].zh}的{KINDS_ZH[kind]}{quoted(item.text, 'zh')}"


def noun(item: Item, language: Language, with_size: bool = True) -> str:
    """An item with an indefinite article: "a large red circle", "一个大的红色圆形"."""
    if item.shape == "text":
        return text_noun(item, language)
    if language == "en":
        return article(f"{item.size + ' ' if with_size else ''}{item.colour} {item.shape}")
    size = {"large": "大的", "small": "小的"}[item.size] if with_size else ""
    return f"一个{size}{COLOURS[item.colour].zh}{SHAPES[item.shape].zh}"


def placed(item: Item, language: Language) -> str:
    """An item and its place: "a large red circle at the top left", "左上角有一个大的红色圆形"."""
    if language == "en":
        return f"{noun(item, 'en')} {PLACES_EN[item.cell]}"
    return f"{PLACES_ZH[item.cell]}有{noun(item, 'zh')}"


def caption(scene: Scene, language: Language) -> str:
    """The whole description of a picture, in reading order, with its background."""
    if not scene.known:
        return UNKNOWN[language]
    gradient = scene.background == "gradient"
    if language == "en":
        ground = (
            "a gradient background" if gradient else f"{article(BACKGROUNDS[scene.background].en)} background"
        )
        if not scene.items:
            return f"The picture is empty: there is only {ground}."
        return capital(join([placed(item, "en") for item in scene.items], "en")) + f", on {ground}."
    name = colour(scene.background, "zh")
    if not scene.items:
        return f"图片是空的，只有{name}的背景。"
    return "，".join(placed(item, "zh") for item in scene.items) + f"，背景是{name}。"


def brief(scene: Scene, language: Language) -> str:
    """What a picture shows without sizes, places and background: "a red circle and a blue square"."""
    if not scene.items:
        return "nothing" if language == "en" else "空白"
    return join([noun(item, language, with_size=False) for item in scene.items], language)


def pick(scene: Scene, shape_name: str = "", colour_name: str = "") -> list[Item]:
    """The objects of a shape and a colour, in reading order; an empty name fits all."""
    return [
        item for item in scene.objects if shape_name in ("", item.shape) and colour_name in ("", item.colour)
    ]


def kind(shape_name: str, colour_name: str, language: Language, plural: bool = False) -> str:
    """What was asked for, without article: "red circle", "circles", "red objects"; in Chinese "红色圆形"."""
    if language == "en":
        word = "object" if not shape_name else SHAPES[shape_name].en
        if plural:
            word = "objects" if not shape_name else SHAPES[shape_name].plural
        return f"{colour_name} {word}" if colour_name else word
    tint = COLOURS[colour_name].zh if colour_name else ""
    if not shape_name:
        return f"{tint}的物体" if tint else "物体"
    return f"{tint}{SHAPES[shape_name].zh}"
