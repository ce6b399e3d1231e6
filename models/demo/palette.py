"""The words of the demo world: colours, shapes, sizes, places and numbers, in English and in Chinese."""

from dataclasses import dataclass
from typing import Literal

Language = Literal["en", "zh"]
Rgb = tuple[int, int, int]
LANGUAGES: tuple[Language, Language] = ("en", "zh")


@dataclass(frozen=True)
class Name:
    """What a thing is called: English singular and plural, Chinese."""

    en: str
    plural: str
    zh: str


@dataclass(frozen=True)
class Colour:
    """A colour's names and the RGB values (0..255) around which it is drawn."""

    en: str
    zh: str
    prototypes: tuple[Rgb, ...]
    jitter: int = 14


# Colours of objects, letters and backgrounds.
COLOURS: dict[str, Colour] = {
    "red": Colour("red", "红色", ((255, 0, 0), (255, 0, 0), (220, 20, 40), (200, 10, 10), (230, 50, 45))),
    "green": Colour(
        "green",
        "绿色",
        ((0, 128, 0), (0, 128, 0), (0, 255, 0), (34, 139, 34), (50, 205, 50), (0, 180, 60), (46, 204, 113)),
    ),
    "blue": Colour(
        "blue",
        "蓝色",
        ((0, 0, 255), (0, 0, 255), (30, 60, 220), (65, 105, 225), (20, 20, 170), (30, 130, 250)),
    ),
    "yellow": Colour("yellow", "黄色", ((255, 255, 0), (255, 255, 0), (250, 225, 30), (255, 215, 0))),
    "orange": Colour("orange", "橙色", ((255, 165, 0), (255, 165, 0), (255, 140, 0), (243, 130, 30))),
    "purple": Colour(
        "purple", "紫色", ((128, 0, 128), (128, 0, 128), (148, 0, 211), (138, 43, 226), (110, 30, 160))
    ),
    "pink": Colour("pink", "粉色", ((255, 192, 203), (255, 192, 203), (255, 105, 180), (250, 150, 190))),
    "brown": Colour("brown", "棕色", ((165, 42, 42), (139, 69, 19), (150, 85, 45), (121, 72, 50)), 9),
    "black": Colour("black", "黑色", ((0, 0, 0), (0, 0, 0), (20, 20, 20))),
    "white": Colour("white", "白色", ((255, 255, 255), (255, 255, 255), (248, 248, 248)), 7),
    "gray": Colour("gray", "灰色", ((128, 128, 128), (128, 128, 128), (110, 110, 110), (160, 160, 160)), 6),
    "cyan": Colour("cyan", "青色", ((0, 255, 255), (0, 255, 255), (0, 210, 215), (60, 225, 225))),
}

# Tints and shades that only backgrounds have.
TINTS: dict[str, Colour] = {
    "light gray": Colour("light gray", "浅灰色", ((211, 211, 211), (220, 220, 220), (200, 200, 200)), 5),
    "light blue": Colour("light blue", "浅蓝色", ((173, 216, 230), (135, 206, 235), (170, 200, 250)), 8),
    "light green": Colour("light green", "浅绿色", ((144, 238, 144), (190, 240, 190), (152, 251, 152)), 8),
    "light yellow": Colour("light yellow", "浅黄色", ((255, 255, 200), (245, 245, 215), (255, 250, 180)), 6),
    "light purple": Colour("light purple", "浅紫色", ((216, 191, 238), (200, 180, 240), (230, 220, 250)), 7),
    "dark gray": Colour("dark gray", "深灰色", ((70, 70, 70), (60, 60, 60), (80, 80, 80)), 6),
    "dark blue": Colour("dark blue", "深蓝色", ((0, 0, 100), (10, 20, 80), (25, 25, 112)), 10),
    "dark green": Colour("dark green", "深绿色", ((0, 70, 0), (10, 60, 30), (0, 80, 20)), 8),
}
BACKGROUNDS: dict[str, Colour] = COLOURS | TINTS

SHAPES: dict[str, Name] = {
    "circle": Name("circle", "circles", "圆形"),
    "square": Name("square", "squares", "正方形"),
    "rectangle": Name("rectangle", "rectangles", "长方形"),
    "triangle": Name("triangle", "triangles", "三角形"),
    "diamond": Name("diamond", "diamonds", "菱形"),
    "star": Name("star", "stars", "星形"),
    "heart": Name("heart", "hearts", "心形"),
    "cross": Name("cross", "crosses", "十字形"),
    "ring": Name("ring", "rings", "圆环"),
}

SIZES: dict[str, tuple[str, str]] = {"large": ("large", "大"), "small": ("small", "小")}

# Cells of the 3 × 3 grid, row by row (reading order).
PLACES_EN: tuple[str, ...] = (
    "at the top left", "at the top", "at the top right",
    "on the left", "in the center", "on the right",
    "at the bottom left", "at the bottom", "at the bottom right",
)  # fmt: skip
PLACES_ZH: tuple[str, ...] = ("左上角", "上方", "右上角", "左边", "中间", "右边", "左下角", "下方", "右下角")

NUMBERS_EN: tuple[str, ...] = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NUMBERS_ZH: tuple[str, ...] = ("零", "一", "两", "三", "四", "五", "六", "七", "八", "九")

# How an object of a clip moves: the step in x and y (y grows downwards), the words.
MOTIONS: dict[str, tuple[int, int, str, str]] = {
    "right": (1, 0, "moves to the right", "向右移动"),
    "left": (-1, 0, "moves to the left", "向左移动"),
    "up": (0, -1, "moves up", "向上移动"),
    "down": (0, 1, "moves down", "向下移动"),
    "up right": (1, -1, "moves up and to the right", "向右上方移动"),
    "up left": (-1, -1, "moves up and to the left", "向左上方移动"),
    "down right": (1, 1, "moves down and to the right", "向右下方移动"),
    "down left": (-1, 1, "moves down and to the left", "向左下方移动"),
    "still": (0, 0, "does not move", "没有移动"),
    "grows": (0, 0, "gets bigger", "变大了"),
    "shrinks": (0, 0, "gets smaller", "变小了"),
}


def distance(one: Rgb, other: Rgb) -> float:
    """How different two RGB colours look: a weighted Euclidean distance, 0 to about 765."""
    mean = (one[0] + other[0]) / 2
    red, green, blue = (a - b for a, b in zip(one, other, strict=True))
    total = (2 + mean / 256) * red**2 + 4 * green**2 + (2 + (255 - mean) / 256) * blue**2
    return float(total**0.5)
