"""What is drawn: scenes of objects and words on a 3 × 3 grid, clips of one moving object, and confusing
pictures.

A scene says everything that a picture shows, so that every answer about it can be derived. Drawing it is
draw.py's.
"""

import math
import random
from dataclasses import dataclass, field, replace

from models.demo import fonts, words
from models.demo.chance import (
    LARGE,
    LARGE_ALONE,
    MIN_CONTRAST,
    SMALL,
    centre_in,
    sample_angle,
    sample_background,
    sample_canvas,
    sample_colour,
    sample_extent,
    sample_rgb,
)
from models.demo.palette import MOTIONS, SHAPES, Rgb, distance

USUAL_FONTS = ("Aileron", "DejaVu Sans", "Liberation Sans", "FreeSans", "Open Sans")


@dataclass(frozen=True)
class Item:
    """An object or a word: its place in the picture and how it looks.

    ``centre`` and ``extent`` (width, height) are in pixels of the canvas; ``cell`` is 0..8 in reading order.
    """

    shape: str  # a key of SHAPES, or "text"
    colour: str
    rgb: Rgb
    size: str  # "large" or "small"
    cell: int
    centre: tuple[float, float]
    extent: tuple[float, float]
    angle: float = 0.0  # degrees
    outline: Rgb | None = None
    text: str = ""
    font: str = ""


@dataclass(frozen=True)
class Scene:
    """A picture: its canvas in pixels, its background, and its items in reading order."""

    width: int
    height: int
    background: str  # a key of BACKGROUNDS, "gradient", or the kind of a confusing picture
    rgb: tuple[Rgb, Rgb]  # the two ends of a gradient, twice the same otherwise
    items: tuple[Item, ...]
    gradient_angle: int = 0  # 0 to the right, 1 downwards
    known: bool = True  # False for noise, scribbles and other things that the model must not describe
    seed: int = 0  # of what confusing pictures are made of

    @property
    def objects(self) -> list[Item]:
        """The items that are shapes."""
        return [item for item in self.items if item.shape != "text"]

    @property
    def texts(self) -> list[Item]:
        """The items that are words."""
        return [item for item in self.items if item.shape == "text"]


@dataclass(frozen=True)
class Clip:
    """A moving object: the scene of each frame, and when each frame is (index in the source, frames per
    second).
    """

    frames: tuple[Scene, ...]
    motion: str
    indices: tuple[int, ...] = field(default=())
    fps: float = 2.0


def _reach(item: Item) -> tuple[float, float]:
    """The width and height that an item covers when it is turned by some degrees."""
    (w, h), angle = item.extent, math.radians(item.angle - 90 * round(item.angle / 90))
    cos, sin = math.cos(angle), abs(math.sin(angle))
    return w * cos + h * sin, h * cos + w * sin


def _overlaps(item: Item, others: list[Item]) -> bool:
    for other in others:
        gaps = [
            abs(a - b) - (u + v) / 2
            for a, b, u, v in zip(item.centre, other.centre, _reach(item), _reach(other), strict=True)
        ]
        if max(gaps) < 2:
            return True
    return False


def _is_inside(item: Item, width: int, height: int) -> bool:
    (x, y), (w, h) = item.centre, item.extent
    return x - w / 2 >= -1 and y - h / 2 >= -1 and x + w / 2 <= width + 1 and y + h / 2 <= height + 1


class SceneSampler:
    """Draws scenes from a random generator; ``held_out`` takes the words and fonts that training never
    sees.
    """

    def __init__(self, rng: random.Random, held_out: bool = False) -> None:
        self.rng = rng
        self.held_out = held_out
        self._families = fonts.available(held_out)

    def scene(self, objects: int, texts: int = 0, background: str | None = None) -> Scene:
        """Draw a scene with so many objects and words (fewer if they do not fit)."""
        rng = self.rng
        width, height = sample_canvas(rng)
        name, rgb = sample_background(rng)
        if background is not None:
            name, rgb = background, (sample_rgb(background, rng),) * 2
        elif texts and not objects and rng.random() < 0.6:  # as most words are printed
            name, rgb = "white", (sample_rgb("white", rng),) * 2
        scene = Scene(width, height, name, rgb, (), rng.randint(0, 1))
        items: list[Item] = []
        for text in [True] * texts + [False] * objects:
            alone = objects + texts == 1
            for _ in range(60):
                item = self._text(scene, items, alone) if text else self._object(scene, items, alone)
                if item is not None and not _overlaps(item, items) and _is_inside(item, width, height):
                    items.append(item)
                    break
        return replace(scene, items=tuple(sorted(items, key=lambda item: item.cell)))

    def _free_cell(self, items: list[Item]) -> int:
        taken = {item.cell for item in items}
        return self.rng.choice([cell for cell in range(9) if cell not in taken])

    def _object(self, scene: Scene, items: list[Item], alone: bool) -> Item:
        rng = self.rng
        shape = rng.choice(list(SHAPES))
        if items and rng.random() < 0.12:
            shape = items[-1].shape if items[-1].shape != "text" else shape
        size = rng.choice(("large", "small"))
        span = SMALL if size == "small" else LARGE_ALONE if alone else LARGE
        cell = self._free_cell(items)
        extent = sample_extent(rng, shape, span, (scene.width * scene.height) ** 0.5)
        if alone and cell != 4 and max(extent) > 0.55 * min(scene.width, scene.height):
            cell = 4
        colour, rgb = sample_colour(rng, scene.rgb, scene.background, {item.colour for item in items})
        return Item(
            shape=shape,
            colour=colour,
            rgb=rgb,
            size=size,
            cell=cell,
            centre=centre_in(cell, (scene.width, scene.height), extent, rng),
            extent=extent,
            angle=sample_angle(rng, shape),
            outline=self._outline(scene) if shape != "ring" else None,
        )

    def _outline(self, scene: Scene) -> Rgb | None:
        if self.rng.random() > 0.12:
            return None
        return self.rng.choice(((0, 0, 0), (60, 60, 60), (255, 255, 255)))

    def _text(self, scene: Scene, items: list[Item], alone: bool) -> Item | None:
        """A word with a letter height that stays readable when the picture is scaled to 160 × 160 pixels'
        worth.
        """
        rng = self.rng
        text = words.sample_text(rng, self.held_out)
        usual = [name for name in USUAL_FONTS if name in self._families]
        family = rng.choice(usual if usual and rng.random() < 0.55 else list(self._families))
        path = rng.choice(self._families[family])
        side = (scene.width * scene.height) ** 0.5
        share = rng.uniform(0.11, 0.17) if rng.random() < 0.6 else rng.uniform(0.17, 0.5 if alone else 0.24)
        pixels = max(9, round(share * side))
        box = fonts.load(path, pixels).getbbox(text)
        limit = 0.95 * scene.width
        if box[2] - box[0] > limit:
            pixels = int(pixels * limit / (box[2] - box[0]))
            box = fonts.load(path, pixels).getbbox(text)
        extent = float(box[2] - box[0]), float(box[3] - box[1])
        if pixels < 0.1 * side or pixels < 8 or extent[1] > 0.9 * scene.height:
            return None
        cell = self._free_cell(items)
        if alone and rng.random() < 0.4:
            cell = 4
        if extent[0] > 0.52 * scene.width:
            cell = cell // 3 * 3 + 1
        colour, rgb = sample_colour(rng, scene.rgb, scene.background, set(), 230.0)
        if (
            rng.random() < 0.7
            and distance((0, 0, 0), scene.rgb[0]) > 300
            and distance((0, 0, 0), scene.rgb[1]) > 300
        ):
            colour, rgb = "black", (0, 0, 0)
        return Item(
            shape="text",
            colour=colour,
            rgb=rgb,
            size="large",
            cell=cell,
            centre=centre_in(cell, (scene.width, scene.height), extent, rng),
            extent=extent,
            angle=rng.uniform(-6, 6) * (rng.random() < 0.15),
            text=text,
            font=f"{pixels}:{path}",
        )

    def crowded(self, texts: float = 0.85) -> Scene:
        """Draw a picture with as many words and objects as fit at any place: too many to talk about, good
        for hints.
        """
        rng = self.rng
        scene = self.scene(0, background="white" if rng.random() < 0.7 else None)
        if rng.random() < 0.6:
            scene = replace(scene, width=256, height=256)
        items: list[Item] = []
        for _ in range(26):
            item = self._text(scene, [], False) if rng.random() < texts else self._object(scene, [], False)
            if item is None:
                continue
            room = scene.width - item.extent[0], scene.height - item.extent[1]
            centre = [
                rng.uniform(0, max(0.0, free)) + side / 2
                for free, side in zip(room, item.extent, strict=True)
            ]
            cell = int(centre[1] * 3 / scene.height) * 3 + int(centre[0] * 3 / scene.width)
            item = replace(item, centre=(centre[0], centre[1]), cell=cell)
            if not _overlaps(item, items) and _is_inside(item, scene.width, scene.height):
                items.append(item)
        return replace(scene, items=tuple(items))

    def confusing(self) -> Scene:
        """Draw a picture of no known thing: noise, blots, scribbles, stripes, a photograph-like texture."""
        width, height = sample_canvas(self.rng)
        kind = self.rng.choice(("noise", "blots", "scribble", "texture", "stripes", "clutter"))
        rgb = sample_rgb("white", self.rng)
        return Scene(width, height, kind, (rgb, rgb), (), known=False, seed=self.rng.getrandbits(30))

    def similar(self, scene: Scene) -> Scene:
        """Draw the same objects (shape and colour) at other places, sizes and on another background."""
        for _ in range(30):
            other = self.scene(len(scene.objects))
            if len(other.items) != len(scene.items):
                continue
            items = [
                replace(
                    mine, shape=theirs.shape, colour=theirs.colour, rgb=sample_rgb(theirs.colour, self.rng)
                )
                for mine, theirs in zip(other.items, scene.items, strict=True)
            ]
            fits = all(
                item.colour != other.background
                and min(distance(item.rgb, end) for end in other.rgb) > MIN_CONTRAST
                and (item.shape == "rectangle") == (before.shape == "rectangle")
                for item, before in zip(items, other.items, strict=True)
            )
            if fits:
                return replace(other, items=tuple(items))
        return scene

    def clip(self) -> Clip:
        """Draw a clip of 4 to 12 frames in which one object moves straight, stays, grows or shrinks."""
        rng = self.rng
        base = self.scene(1)
        while base.background == "gradient" or not base.items or base.width * base.height > 450 * 450:
            base = self.scene(1)
        count = rng.choice((4, 4, 5, 6, 6, 7, 8, 8, 9, 10, 12))
        motion = rng.choice(list(MOTIONS))
        item = replace(base.items[0], size="small", outline=None)
        span = (0.13, 0.30) if motion not in ("grows", "shrinks") else (0.4, 0.62)
        item = replace(item, extent=sample_extent(rng, item.shape, span, (base.width * base.height) ** 0.5))
        frames = tuple(replace(base, items=(moved,)) for moved in _path(item, motion, count, base, rng))
        fps = rng.choice((1.0, 2.0, 2.0, 4.0, 5.0, 8.0, 10.0, 12.0, 15.0, 24.0, 24.0, 25.0, 30.0, 30.0))
        stride = rng.choice((1, 1, 1, 1, 2, 3, 5, 12))
        return Clip(frames, motion, tuple(index * stride for index in range(count)), fps)


def _path(item: Item, motion: str, count: int, scene: Scene, rng: random.Random) -> list[Item]:
    """The moving item in each of the clip's frames."""
    step_x, step_y = MOTIONS[motion][:2]
    ends = []
    diagonal = step_x != 0 and step_y != 0
    for step, length, width in zip((step_x, step_y), (scene.width, scene.height), item.extent, strict=True):
        room = max(2.0, length - width)
        travel = (
            rng.uniform(0.4, 0.95) * room
            if step
            else rng.uniform(-0.03, 0.03) * room * (motion not in ("still",))
        )
        if diagonal:
            travel = rng.uniform(0.5, 0.95) * room
        start = rng.uniform(0, max(0.0, room - abs(travel))) + width / 2
        first, last = (start, start + abs(travel)) if step >= 0 else (start + abs(travel), start)
        ends.append((first, last))
    scale = {"grows": (rng.uniform(0.25, 0.5), 1.0), "shrinks": (1.0, rng.uniform(0.25, 0.5))}.get(
        motion, (1.0, 1.0)
    )
    result = []
    for frame in range(count):
        share = frame / (count - 1)
        centre = [first + (last - first) * share for first, last in ends]
        factor = scale[0] + (scale[1] - scale[0]) * share
        extent = item.extent[0] * factor, item.extent[1] * factor
        result.append(replace(item, centre=(centre[0], centre[1]), extent=extent))
    return result
