"""Draws by lot how things look: canvas, background, colour, extent, angle and place in a cell of the grid."""

import random

from models.demo.palette import BACKGROUNDS, COLOURS, TINTS, Rgb, distance

SMALL = (0.12, 0.19)  # √(width · height) of an object in units of √(canvas area)
LARGE = (0.27, 0.42)
LARGE_ALONE = (0.27, 0.80)
MIN_CONTRAST = 130.0  # of palette.distance, between an object and its background
COMMON_CANVASES = (
    (448, 448), (448, 448), (640, 480), (300, 200), (224, 224), (256, 256), (512, 512), (320, 240),
    (400, 300),
    (200, 200), (400, 400), (300, 300), (480, 360), (600, 400), (800, 600), (480, 640), (200, 100),
    (100, 100),
)  # fmt: skip


def sample_rgb(colour: str, rng: random.Random) -> Rgb:
    """Draw an RGB value near one of the colour's prototypes; a third are exactly a prototype."""
    known = BACKGROUNDS[colour]
    prototype = rng.choice(known.prototypes)
    if rng.random() < 0.34:
        return prototype
    red, green, blue = (
        min(255, max(0, channel + rng.randint(-known.jitter, known.jitter))) for channel in prototype
    )
    return red, green, blue


def sample_canvas(rng: random.Random) -> tuple[int, int]:
    """Draw a width and a height in pixels with an aspect between 1:3 and 3:1."""
    if rng.random() < 0.5:
        return rng.choice(COMMON_CANVASES)
    side = rng.uniform(90, 480)
    aspect = 2 ** rng.triangular(-1.58, 1.58, 0)
    return max(40, round(side * aspect**0.5)), max(40, round(side / aspect**0.5))


def sample_background(rng: random.Random) -> tuple[str, tuple[Rgb, Rgb]]:
    """Draw a background's name and its two colours (the same twice unless it is a gradient)."""
    kind = rng.random()
    if kind < 0.15:
        while True:
            first, second = (sample_rgb(rng.choice(list(BACKGROUNDS)), rng) for _ in range(2))
            if distance(first, second) > 150:
                return "gradient", (first, second)
    if kind < 0.45:
        name = "white"
    elif kind < 0.55:
        name = "black"
    else:
        name = rng.choice(list(TINTS if kind < 0.75 else COLOURS))
    rgb = sample_rgb(name, rng)
    return name, (rgb, rgb)


def sample_colour(
    rng: random.Random,
    behind: tuple[Rgb, Rgb],
    background: str,
    taken: set[str],
    wanted: float = MIN_CONTRAST,
) -> tuple[str, Rgb]:
    """Draw a colour that is seen well on its background; prefer colours that are not taken yet."""
    for attempt in range(200):
        name = rng.choice(list(COLOURS))
        rgb = sample_rgb(name, rng)
        contrast = min(distance(rgb, behind[0]), distance(rgb, behind[1]))
        between = tuple((a + b) // 2 for a, b in zip(*behind, strict=True))
        contrast = min(contrast, distance(rgb, (between[0], between[1], between[2])))
        if contrast < wanted - attempt / 4 or name == background:
            continue
        if name in taken and rng.random() < 0.6:
            continue
        return name, rgb
    return ("white", (255, 255, 255)) if sum(behind[0]) < 380 else ("black", (0, 0, 0))


def sample_extent(
    rng: random.Random, shape: str, span: tuple[float, float], side: float
) -> tuple[float, float]:
    """Draw an object's width and height in pixels; ``span`` is in units of ``side``."""
    mean = rng.uniform(*span) * side
    if shape == "rectangle":
        aspect = rng.uniform(1.65, 2.6) ** (rng.choice((1, -1)) if rng.random() < 0.4 else 1)
    elif shape in ("diamond", "triangle", "heart"):
        aspect = rng.uniform(0.8, 1.25)
    else:
        aspect = 1.0
    return mean * aspect**0.5, mean / aspect**0.5


def sample_angle(rng: random.Random, shape: str) -> float:
    """Draw by how many degrees an object is turned."""
    if shape == "triangle":
        return rng.choice((0, 0, 0, 0, 90, 180, 270)) + rng.uniform(-8, 8) * (rng.random() < 0.5)
    if shape == "star":
        return rng.uniform(-36, 36) * (rng.random() < 0.4)
    if shape in ("circle", "ring"):
        return 0.0
    return rng.uniform(-7, 7) * (rng.random() < 0.3)


def centre_in(
    cell: int, canvas: tuple[int, int], extent: tuple[float, float], rng: random.Random
) -> tuple[float, float]:
    """Draw an item's centre in a cell of the grid, off the cell's borders and inside of the canvas where it
    fits.
    """
    result = []
    for place, length, width in zip((cell % 3, cell // 3), canvas, extent, strict=True):
        margin = 0.035 * length
        low, high = place * length / 3 + margin, (place + 1) * length / 3 - margin
        low, high = max(low, min(width / 2 + 1, high)), min(high, max(length - width / 2 - 1, low))
        result.append(rng.uniform(low, high) if low < high else (low + high) / 2)
    return result[0], result[1]
