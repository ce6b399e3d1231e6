"""What the vision tower is told while it is trained: true of the picture, token by token."""

import random

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from models.demo import batches, curriculum, evaluate, hints
from models.demo.draw import draw_mask
from models.demo.encode import Encoder
from models.demo.scenes import Item, Scene, SceneSampler

NAMES, WITHIN, WHOLE = hints.COLUMNS


def one_object(seed: int) -> tuple[Scene, Item]:
    sampler = SceneSampler(random.Random(seed))
    while not (scene := sampler.scene(1)).items:
        pass
    return scene, scene.items[0]


def test_the_token_under_an_objects_middle_names_it() -> None:
    for seed in range(40):
        scene, item = one_object(seed)
        table = hints.labels(scene, 5, 5).reshape(5, 5, -1)
        down, across = int(item.centre[1] / scene.height * 5), int(item.centre[0] / scene.width * 5)
        said = table[down, across, :4].tolist()
        assert said[0] == hints.SHAPE_CLASSES[item.shape]
        assert said[1] == hints.COLOUR_CLASSES[item.colour]
        assert said[2] == hints.SIZE_CLASSES[item.size]
        assert said[3] == item.cell + 1


def test_the_outlines_within_the_tokens_are_the_pictures_mask() -> None:
    for seed in range(20):
        scene, _ = one_object(seed)
        rows, columns, side = 4, 6, hints.TOKEN_SIDE
        table = hints.labels(scene, rows, columns)[:, NAMES : NAMES + WITHIN]
        joined = table.reshape(rows, columns, side, side).transpose(0, 2, 1, 3).reshape(rows * side, -1)
        share = (np.asarray(draw_mask(scene)) > 0).mean()
        assert joined.mean() / 255 == pytest.approx(share, abs=0.01)


def test_a_whole_outline_tells_a_square_from_a_rectangle_and_a_ring_from_a_circle() -> None:
    shares: dict[str, list[float]] = {}
    for seed in range(300):
        scene, item = one_object(seed)
        table = hints.labels(scene, 5, 5)
        mine = table[table[:, 0] > 0][0, NAMES + WITHIN :].reshape(hints.WHOLE_SIDE, -1) / 255
        shares.setdefault(item.shape, []).append(float(mine.mean()))
    mean = {shape: sum(values) / len(values) for shape, values in shares.items()}
    assert mean["square"] > mean["circle"] > mean["ring"]
    assert mean["square"] > mean["rectangle"]


def test_letters_stand_in_reading_order() -> None:
    sampler = SceneSampler(random.Random(5))
    letters = {number: letter for letter, number in hints.LETTER_CLASSES.items()}
    seen = 0
    while seen < 10:
        scene = sampler.scene(0, 1)
        if not scene.texts or scene.texts[0].angle or scene.texts[0].extent[1] > scene.height / 5:
            continue
        table = hints.labels(scene, 5, 5)[:, 5:NAMES]
        read = "".join(letters[int(number)] for number in table.flatten() if number)
        assert read == scene.texts[0].text
        seen += 1


def test_nothing_is_said_of_a_confusing_picture() -> None:
    table = hints.labels(SceneSampler(random.Random(1)).confusing(), 3, 3)
    assert (table[:, :NAMES] == hints.IGNORED).all()
    probe = hints.Probe(8)
    loss = probe(torch.randn(9, 8), torch.randn(9, 8), torch.from_numpy(table))
    assert float(loss.detach()) == 0.0


def test_knowing_everything_costs_less_than_guessing() -> None:
    scene, _ = one_object(3)
    wanted = torch.from_numpy(hints.labels(scene, 5, 5))
    probe, features = hints.Probe(25), torch.eye(25)  # each token's features are its own: all can be learnt
    before = float(probe(features, features, wanted).detach())
    optimizer = torch.optim.Adam(probe.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        probe(features, features, wanted).backward()
        optimizer.step()
    assert float(probe(features, features, wanted).detach()) < before / 5


def test_the_first_lesson_only_looks_and_the_last_has_everything() -> None:
    text = (evaluate.WEIGHTS / "tokenizer.json").read_text(encoding="utf-8")
    source = batches.Batches(text, 1, 4, steps=1000)
    encoder = Encoder(Tokenizer.from_str(text))
    first, last = source.batch(encoder, 0), source.batch(encoder, 999)
    assert sum(len(part.tokens) for part in first) == 0
    assert sum(len(part.frames) for part in first) == curriculum.LESSONS[0].crowd
    assert sum(len(part.lengths) for part in last) == 4
    assert [lesson.until for lesson in curriculum.LESSONS] == sorted(
        lesson.until for lesson in curriculum.LESSONS
    )
    assert curriculum.LESSONS[-1].until == 1.0
