"""What the demo model's generator draws and says: the same for the same seed, and true of the pixels."""

import collections
import random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from models.demo import chatter, fonts, phrases, questions, words
from models.demo.curriculum import WORLD
from models.demo.dialogues import Dialogue, DialogueSampler
from models.demo.draw import draw_clip, draw_mask, draw_scene
from models.demo.palette import (
    COLOURS,
    LANGUAGES,
    MOTIONS,
    NUMBERS_EN,
    PLACES_EN,
    PLACES_ZH,
    SHAPES,
    Language,
    distance,
)
from models.demo.scenes import Scene, SceneSampler
from models.demo.talk import PictureTalk


def plain_scenes(objects: int, count: int, seed: str) -> list[Scene]:
    """Scenes of so many objects without outlines on plain backgrounds."""
    sampler = SceneSampler(random.Random(seed))
    found: list[Scene] = []
    while len(found) < count:
        scene = sampler.scene(objects)
        if (
            scene.background != "gradient"
            and len(scene.items) == objects
            and not any(i.outline for i in scene.items)
        ):
            found.append(scene)
    return found


def foreground(scene: Scene) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    pixels = np.asarray(draw_scene(scene))
    return np.asarray((pixels != np.array(scene.rgb[0])).any(axis=2))


def blobs(scene: Scene) -> int:
    """How many connected areas differ from the background, by flood filling them one after another."""
    mask = Image.fromarray(foreground(scene).astype(np.uint8) * 255).copy()
    count = 0
    while (point := np.argwhere(np.asarray(mask) == 255)).size:
        ImageDraw.floodfill(mask, (int(point[0][1]), int(point[0][0])), 0)
        count += len(point) - int((np.asarray(mask) == 255).sum()) > 8  # less is the tip of a spike
    return count


@pytest.mark.parametrize("kind", [*WORLD.kinds, None])
def test_the_same_seed_draws_the_same(kind: str | None) -> None:
    def drawn(seed: int) -> tuple[list[Dialogue], list[bytes]]:
        sampler = DialogueSampler(seed)
        dialogues = [sampler.draw(kind) for _ in range(3)]
        pictures = [draw_scene(scene).tobytes() for dialogue in dialogues for scene in dialogue.pictures]
        return dialogues, pictures

    assert drawn(7) == drawn(7)
    assert drawn(7)[0] != drawn(8)[0]


@pytest.mark.parametrize("language", LANGUAGES)
def test_colour_and_place_are_true_of_the_pixels(language: Language) -> None:
    for scene in plain_scenes(1, 40, f"pixels/{language}"):
        mask = foreground(scene)
        rows, columns = np.nonzero(mask)
        middle = (
            (rows.min() + rows.max()) / 2 / scene.height,
            (columns.min() + columns.max()) / 2 / scene.width,
        )
        cell = int(middle[0] * 3) * 3 + int(middle[1] * 3)
        rgb = np.asarray(draw_scene(scene))[mask].mean(axis=0)
        near = min(
            (distance((round(rgb[0]), round(rgb[1]), round(rgb[2])), prototype), name)
            for name, colour in COLOURS.items()
            for prototype in colour.prototypes
        )[1]
        caption = phrases.caption(scene, language)
        place = (PLACES_EN if language == "en" else PLACES_ZH)[cell]
        assert (f"{place}, on" if language == "en" else f"{place}有") in caption
        assert (f" {near} " if language == "en" else COLOURS[near].zh) in caption
        size = scene.items[0].size
        assert (size if language == "en" else {"large": "大的", "small": "小的"}[size]) in caption
        assert (size == "large") == (_side(mask) > 0.22)


def _side(mask: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> float:
    rows, columns = np.nonzero(mask)
    box = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
    return float((box / mask.size) ** 0.5)


@pytest.mark.parametrize("objects", [1, 2, 3, 4])
def test_the_count_is_true_of_the_pixels(objects: int) -> None:
    for scene in plain_scenes(objects, 8, f"count/{objects}"):
        turn = PictureTalk(scene, "en", random.Random(0)).turn("describe")
        assert turn is not None
        assert blobs(scene) == objects
        assert sum(turn.answer.count(f" {name}") for name in ("large", "small")) == objects


def test_the_mask_is_where_the_pixels_differ_from_the_background() -> None:
    for objects in (1, 3):
        for scene in plain_scenes(objects, 20, f"mask {objects}"):
            assert np.array_equal(np.asarray(draw_mask(scene)) > 0, foreground(scene))


def test_yes_and_no_are_true() -> None:
    """Every "is there" answer is checked against the list of what was drawn, without the generator's own
    search.
    """
    answers: collections.Counter[str] = collections.Counter()
    for index, scene in enumerate(plain_scenes(3, 60, "yes and no")):
        turn = PictureTalk(scene, "en", random.Random(index)).turn("exists")
        assert turn is not None
        head, rest = turn.answer.split(", ", 1)
        drawn = [f"{item.colour} {item.shape}" for item in scene.items]
        drawn += [word for item in scene.items for word in (item.shape, f"{item.colour} object", "object")]
        named = {
            name
            for name in (*drawn, *_all_kinds())
            if f" {name} " in rest or f" {name}s" in rest or f" {name}es" in rest
        }
        longest = max(named, key=len)
        assert (head == "Yes") == (longest in drawn), turn.answer
        answers[head] += 1
    assert min(answers["Yes"], answers["No"]) > 5


def _all_kinds() -> list[str]:
    pairs = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    return [*pairs, *SHAPES, *(f"{colour} object" for colour in COLOURS), "object"]


def test_counts_add_up() -> None:
    for index, scene in enumerate(plain_scenes(4, 20, "add up")):
        talk = PictureTalk(scene, "en", random.Random(index))
        by_shape = collections.Counter(item.shape for item in scene.items)
        for _ in range(6):
            turn = talk.turn("count")
            assert turn is not None
            for shape, count in by_shape.items():
                if turn.answer.endswith((f" {shape}.", f" {SHAPES[shape].plural}.")) and not _tinted(
                    turn.answer
                ):
                    assert f" {NUMBERS_EN[count]} " in turn.answer


def _tinted(answer: str) -> bool:
    return any(f" {colour} " in answer for colour in COLOURS)


def test_clips_move_as_they_say() -> None:
    sampler = SceneSampler(random.Random("clips"))
    seen = set()
    for _ in range(60):
        clip = sampler.clip()
        assert 4 <= len(clip.frames) <= 12
        first, last = clip.frames[0].items[0], clip.frames[-1].items[0]
        moved = [last.centre[axis] - first.centre[axis] for axis in (0, 1)]
        room = (clip.frames[0].width, clip.frames[0].height)
        steps = tuple(
            0 if abs(by) < 0.1 * side else int(np.sign(by)) for by, side in zip(moved, room, strict=True)
        )
        if max(abs(step) for step in MOTIONS[clip.motion][:2]):
            assert steps == MOTIONS[clip.motion][:2]
        grown = last.extent[0] / first.extent[0]
        assert (grown > 1.5, grown < 0.7) == (clip.motion == "grows", clip.motion == "shrinks")
        assert len(draw_clip(clip)) == len(clip.frames)
        seen.add(clip.motion)
    assert len(seen) > 7


def test_held_out_words_and_fonts_are_never_trained_on() -> None:
    assert not set(words.TRAINING_WORDS) & set(words.HELD_OUT_WORDS)
    assert all(len(word) <= words.MAX_LENGTH for word in (*words.TRAINING_WORDS, *words.HELD_OUT_WORDS))
    rng = random.Random(3)
    drawn = {words.sample_text(rng).lower() for _ in range(20_000)}
    assert not drawn & set(words.HELD_OUT_WORDS)
    trained, held_out = fonts.available(False), fonts.available(True)
    assert not set(trained) & set(held_out)
    paths = [{path for family in families.values() for path in family} for families in (trained, held_out)]
    assert not paths[0] & paths[1]
    assert {"Aileron", "DejaVu Sans"} <= set(trained)


def test_confusing_pictures_are_not_described() -> None:
    sampler = DialogueSampler("confusing")
    for language in LANGUAGES:
        scene = sampler.scenes.confusing()
        for skill in ("describe", "colour", "count", "background"):
            turn = PictureTalk(scene, language, sampler.rng).turn(skill)
            assert turn is not None
            assert turn.answer == phrases.UNKNOWN[language]
        assert draw_scene(scene).size == (scene.width, scene.height)


@pytest.mark.parametrize("language", LANGUAGES)
def test_questions_are_diverse_and_filled(language: Language) -> None:
    rng = random.Random(1)
    slots = dict.fromkeys(
        (
            "shape",
            "plural",
            "colour",
            "thing",
            "things",
            "a_thing",
            "place",
            "first",
            "second",
            "side",
            "nth",
        ),
        "X",
    )
    for skill in questions.PATTERNS:
        drawn = {questions.ask(skill, language, rng, **slots) for _ in range(60)}
        assert len(drawn) > 5
        assert not any(set("{}|<>") & set(question) for question in drawn)
    strange = {chatter.out_of_scope(language, rng).question for _ in range(500)}
    assert len(strange) > 400
