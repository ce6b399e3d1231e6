"""Other names that people use in questions for the shapes, colours and places which the answers call by one
name.
"""

import random

from models.demo.palette import COLOURS, PLACES_EN, PLACES_ZH, SHAPES, Language

SHAPES_EN: dict[str, tuple[str, ...]] = {
    "circle": ("round shape", "disc", "dot", "circle"),
    "rectangle": ("rectangle",),
    "diamond": ("rhombus", "diamond shape"),
    "cross": ("plus", "plus sign"),
    "ring": ("ring", "donut"),
}
SHAPES_ZH: dict[str, tuple[str, ...]] = {
    "circle": ("圆", "圆圈", "圆形"),
    "square": ("方形", "方块", "正方形"),
    "rectangle": ("矩形", "长方形"),
    "triangle": ("三角", "三角形"),
    "diamond": ("菱形",),
    "star": ("星星", "五角星", "星"),
    "heart": ("爱心", "心"),
    "cross": ("十字", "加号"),
    "ring": ("环", "圆环形"),
}
COLOURS_EN: dict[str, tuple[str, ...]] = {
    "gray": ("grey",),
    "purple": ("violet", "purple"),
    "cyan": ("turquoise", "cyan"),
}
COLOURS_ZH: dict[str, tuple[str, ...]] = {
    "orange": ("橘色", "橘黄色"),
    "pink": ("粉红色",),
    "brown": ("褐色", "咖啡色"),
    "cyan": ("青色",),
    "purple": ("紫色",),
}
PLACES_MORE_EN: tuple[tuple[str, ...], ...] = (
    ("in the top left corner", "in the upper left", "top left"), ("in the upper part", "at the top center"),
    ("in the top right corner", "in the upper right"),
    ("on the left side", "at the left", "in the middle left"),
    ("in the middle", "in the centre", "at the center"), ("on the right side", "at the right"),
    ("in the bottom left corner", "in the lower left"), ("at the bottom center", "in the lower part"),
    ("in the bottom right corner", "in the lower right"),
)  # fmt: skip
PLACES_MORE_ZH: tuple[tuple[str, ...], ...] = (
    ("左上方", "左上"), ("上面", "顶部", "上边"), ("右上方", "右上"),
    ("左侧", "左面"), ("中央", "中心", "正中间"), ("右侧", "右面"),
    ("左下方", "左下"), ("下面", "底部", "下边"), ("右下方", "右下"),
)  # fmt: skip


def shape(name: str, language: Language, rng: random.Random) -> str:
    """One of the names of a shape."""
    usual, more = (SHAPES[name].en, SHAPES_EN) if language == "en" else (SHAPES[name].zh, SHAPES_ZH)
    return rng.choice(more[name]) if name in more and rng.random() < 0.25 else usual


def colour(name: str, language: Language, rng: random.Random) -> str:
    """One of the names of a colour; in Chinese sometimes without the word for colour."""
    usual, more = (COLOURS[name].en, COLOURS_EN) if language == "en" else (COLOURS[name].zh, COLOURS_ZH)
    return rng.choice(more[name]) if name in more and rng.random() < 0.3 else usual


def place(cell: int, language: Language, rng: random.Random) -> str:
    """One of the names of a cell of the grid."""
    usual, more = (PLACES_EN, PLACES_MORE_EN) if language == "en" else (PLACES_ZH, PLACES_MORE_ZH)
    return rng.choice(more[cell]) if rng.random() < 0.35 else usual[cell]


def plural(word: str) -> str:
    """The English plural of a shape's name."""
    return word + (
        "es" if word[-1] in "sx" and not word.endswith("us") else "" if word.endswith("s") else "s"
    )


def thing(
    shape_name: str, colour_name: str, language: Language, rng: random.Random, many: bool = False
) -> str:
    """What is asked for: "red circle", "circles", "red objects", "红色的圆形", "物体"."""
    if language == "zh":
        tint = colour(colour_name, "zh", rng) + rng.choice(("", "的")) if colour_name else ""
        return tint + (
            shape(shape_name, "zh", rng) if shape_name else rng.choice(("物体", "物体", "东西", "图形"))
        )
    word = shape(shape_name, "en", rng) if shape_name else rng.choice(("object", "object", "shape", "thing"))
    word = plural(word) if many else word
    return f"{colour(colour_name, 'en', rng)} {word}" if colour_name else word
