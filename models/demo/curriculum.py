"""What is trained when: from one object and plain questions to everything.

All of it at once was hardly learnt at all: 2000 steps of the full mixture at 256 × 256 pixels taught the
language but not to look (the model card has the figures). One object first makes looking worth while.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Lesson:
    """A part of the training, up to the share ``until`` of its steps.

    ``kinds`` weighs the kinds of dialogue, ``objects`` scenes of 0 … 4 objects, ``words`` scenes of 1 … 4
    words, ``skills`` the questions about a scene (none: as talk.py weighs them).
    """

    until: float
    kinds: dict[str, float]
    objects: tuple[float, float, float, float, float]
    words: tuple[float, float, float, float]
    skills: dict[str, float]


LOOKING = {
    "describe": 30.0, "colour": 10.0, "shape": 22.0, "where": 22.0, "exists": 6.0, "count": 4.0,
    "is_colour": 3.0, "size": 3.0,
}  # fmt: skip
LESSONS = (
    Lesson(0.2, {"objects": 96, "chat": 4}, (0, 80, 20, 0, 0), (1, 0, 0, 0), LOOKING),
    Lesson(
        0.4,
        {"objects": 80, "chat": 12, "pair": 3, "clip": 2, "unknown": 3},
        (0, 55, 35, 6, 4),
        (1, 0, 0, 0),
        LOOKING,
    ),
    Lesson(
        0.7,
        {"objects": 52, "texts": 22, "chat": 10, "pair": 6, "clip": 8, "unknown": 2},
        (1, 40, 30, 16, 13),
        (90, 10, 0, 0),
        {},
    ),
    Lesson(
        1.0,
        {"objects": 46, "texts": 22, "mixed": 4, "unknown": 3, "pair": 8, "clip": 9, "chat": 8},
        (2, 30, 30, 20, 18),
        (42, 20, 19, 19),
        {},
    ),
)


def lesson(progress: float) -> Lesson:
    """The lesson at a share of the steps, 0 … 1; the last one is the whole world."""
    return next((one for one in LESSONS if progress < one.until), LESSONS[-1])
