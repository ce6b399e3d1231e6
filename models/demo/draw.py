"""Draws scenes with Pillow, plainly and without anti-aliasing, as a user's own script would."""

import math
import random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from models.demo import fonts
from models.demo.palette import Rgb
from models.demo.scenes import Clip, Item, Scene

Point = tuple[float, float]
Ink = Rgb | int  # a colour of a picture, a brightness of a mask


def draw_scene(scene: Scene) -> Image.Image:
    """Draw a scene as an RGB picture of its width and height."""
    if not scene.known:
        return _draw_confusing(scene)
    picture = _background(scene)
    canvas = ImageDraw.Draw(picture)
    for item in scene.items:
        if item.shape == "text":
            _draw_text(picture, canvas, item, item.rgb)
        else:
            _draw_object(canvas, item, scene, item.rgb, item.outline)
    return picture


def draw_mask(scene: Scene) -> Image.Image:
    """Draw where the items of a known scene are: white on black, of the same size as the picture."""
    mask = Image.new("L", (scene.width, scene.height))
    canvas = ImageDraw.Draw(mask)
    for item in scene.items:
        if item.shape == "text":
            _draw_text(mask, canvas, item, 255)
        else:
            _draw_object(canvas, item, scene, 255, None)
    return mask


def draw_clip(clip: Clip) -> list[Image.Image]:
    """Draw every frame of a clip."""
    return [draw_scene(frame) for frame in clip.frames]


def _background(scene: Scene) -> Image.Image:
    size = scene.width, scene.height
    if scene.rgb[0] == scene.rgb[1]:
        return Image.new("RGB", size, scene.rgb[0])
    ramp = np.linspace(0.0, 1.0, 256)[:, None]
    row = (np.array(scene.rgb[0]) * (1 - ramp) + np.array(scene.rgb[1]) * ramp).round().astype(np.uint8)
    strip = Image.fromarray(row[None] if scene.gradient_angle == 0 else row[:, None])
    return strip.resize(size, Image.Resampling.BILINEAR)


def _turned(points: list[Point], item: Item) -> list[Point]:
    """Turn unit points (−0.5..0.5 in both directions) by the item's angle and bring them to its place and
    extent.
    """
    quarters = round(item.angle / 90)
    for _ in range(quarters % 4):
        points = [(-py, px) for px, py in points]
    angle = math.radians(item.angle - 90 * quarters)
    cos, sin = math.cos(angle), math.sin(angle)
    (x, y), (w, h) = item.centre, item.extent
    scaled = [(px * w, py * h) for px, py in points]
    return [(x + px * cos - py * sin, y + px * sin + py * cos) for px, py in scaled]


def _star(inner: float) -> list[Point]:
    """A star's ten corners, the inner ones at this share of the outer ones' radius."""
    corners = []
    for index in range(10):
        radius, angle = (0.5, 0.5 * inner)[index % 2], math.radians(36 * index - 90)
        corners.append((radius * math.cos(angle), radius * math.sin(angle)))
    return corners


def _heart() -> list[Point]:
    points = []
    for step in range(40):
        t = 2 * math.pi * step / 40
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x / 32, -(y + 2.5) / 29))
    return points


def _cross(arm: float) -> list[Point]:
    a, b = arm / 2, 0.5
    return [
        (-a, -b),
        (a, -b),
        (a, -a),
        (b, -a),
        (b, a),
        (a, a),
        (a, b),
        (-a, b),
        (-a, a),
        (-b, a),
        (-b, -a),
        (-a, -a),
    ]


POLYGONS: dict[str, list[Point]] = {
    "square": [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)],
    "rectangle": [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)],
    "diamond": [(0, -0.5), (0.5, 0), (0, 0.5), (-0.5, 0)],
    "triangle": [(0, -0.5), (0.5, 0.5), (-0.5, 0.5)],
    "star": _star(0.42),
    "heart": _heart(),
    "cross": _cross(0.34),
}


def _polygon(item: Item, variant: random.Random) -> list[Point]:
    if item.shape == "triangle" and variant.random() < 0.15:  # a right-angled one
        return [(-0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]
    if item.shape == "star":
        return _star(variant.uniform(0.36, 0.52))
    if item.shape == "cross":
        return _cross(variant.uniform(0.22, 0.42))
    return POLYGONS[item.shape]


def _draw_object(
    canvas: ImageDraw.ImageDraw, item: Item, scene: Scene, fill: Ink, outline: Ink | None
) -> None:
    (x, y), (w, h) = item.centre, item.extent
    box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    line = max(1, round(min(w, h) / 30))
    if item.shape == "ring":
        share = 5 + (round(w * 7 + h) % 4)  # the ring's width is a fifth to an eighth of its diameter
        canvas.ellipse(box, outline=fill, width=max(2, round(min(w, h) / share)))
    elif item.shape == "circle":
        canvas.ellipse(box, fill=fill, outline=outline, width=line)
    else:
        variant = random.Random(
            f"{item.rgb}{scene.rgb}{scene.width}{scene.height}"
        )  # the same in all frames of a clip
        points = _turned(_polygon(item, variant), item)
        canvas.polygon(points, fill=fill, outline=outline, width=line)


def _draw_text(picture: Image.Image, canvas: ImageDraw.ImageDraw, item: Item, fill: Ink) -> None:
    pixels, path = item.font.split(":", 1)
    font = fonts.load(path, int(pixels))
    box = font.getbbox(item.text)
    x, y = item.centre[0] - (box[0] + box[2]) / 2, item.centre[1] - (box[1] + box[3]) / 2
    if item.angle == 0:
        canvas.text((x, y), item.text, fill=fill, font=font)
        return
    margin = 12
    mask = Image.new("L", (int(box[2] - box[0]) + 2 * margin, int(box[3] - box[1]) + 2 * margin))
    ImageDraw.Draw(mask).text((margin - box[0], margin - box[1]), item.text, fill=255, font=font)
    mask = mask.rotate(item.angle, Image.Resampling.BILINEAR, expand=True)
    place = round(item.centre[0] - mask.width / 2), round(item.centre[1] - mask.height / 2)
    picture.paste(Image.new(picture.mode, mask.size, fill), place, mask)


def _random_rgb(rng: random.Random) -> Rgb:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def _draw_confusing(scene: Scene) -> Image.Image:
    rng = random.Random(scene.seed)
    size = scene.width, scene.height
    if scene.background == "noise":
        return _noise(size, scene.seed, rng.choice((1, 1, 2, 4, 8)))
    if scene.background == "texture":
        coarse = _noise(size, scene.seed, rng.choice((12, 20, 40)))
        fine = _noise(size, scene.seed + 1, rng.choice((2, 4, 6)))
        return Image.blend(coarse, fine, rng.uniform(0.1, 0.4))
    picture = Image.new("RGB", size, _random_rgb(rng))
    canvas = ImageDraw.Draw(picture)
    side = min(size)
    for index in range({"blots": 25, "scribble": 30, "stripes": 14, "clutter": 60}[scene.background]):
        x, y = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        reach = rng.uniform(0.05, 0.35) * side
        if scene.background == "blots":
            canvas.ellipse((x - reach, y - reach * 0.7, x + reach, y + reach * 0.7), fill=_random_rgb(rng))
        elif scene.background == "scribble":
            points = [(rng.uniform(0, size[0]), rng.uniform(0, size[1])) for _ in range(3)]
            canvas.line(points, fill=_random_rgb(rng), width=rng.randint(1, max(1, side // 60)))
        elif scene.background == "stripes":
            left = index * size[0] / 14
            canvas.rectangle((left, 0, left + size[0] / 14, size[1]), fill=_random_rgb(rng))
        else:
            corners = [
                (x + rng.uniform(-reach, reach), y + rng.uniform(-reach, reach))
                for _ in range(rng.choice((3, 4, 5)))
            ]
            canvas.polygon(corners, fill=_random_rgb(rng))
    if scene.background == "blots":
        picture = picture.filter(ImageFilter.GaussianBlur(side / rng.uniform(12, 40)))
    return picture


def _noise(size: tuple[int, int], seed: int, grain: int) -> Image.Image:
    small = max(2, size[0] // grain), max(2, size[1] // grain)
    values = np.random.default_rng(seed).integers(0, 256, (small[1], small[0], 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BILINEAR)
