"""What is trained when: first only to look, then one object and plain questions, in the end everything.

All of it at once was hardly learnt at all: 2000 steps of the full mixture taught the language but not to
look. A tower that sees already makes looking worth while from the first word.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Lesson:
    """A part of the training, up to the share ``until`` of its steps.

    Each step has ``crowd`` pictures of which only the hints are learnt (``crowd_words`` is the share of
    words in them), and dialogues unless ``kinds``, which weighs them, is empty. ``objects`` weighs scenes of
    0 … 4 objects, ``words`` scenes of 1 … 4 words, ``skills`` the questions about a scene (none: as talk.py
    weighs them).
    """

    until: float
    crowd: int
    crowd_words: float
    kinds: dict[str, float]
    objects: tuple[float, float, float, float, float]
    words: tuple[float, float, float, float]
    skills: dict[str, float]


LOOKING = {
    "describe": 30.0, "colour": 10.0, "shape": 22.0, "where": 22.0, "exists": 6.0, "count": 4.0,
    "is_colour": 3.0, "size": 3.0,
}  # fmt: skip
# Of several objects the one that is meant: captions read off in order do not teach to look for it.
CHOOSING = {
    "describe": 5.0, "colour": 23.0, "shape": 8.0, "where": 24.0, "size": 7.0, "exists": 17.0,
    "is_colour": 7.0, "relation": 5.0, "place": 2.0, "count": 1.0, "colours": 1.0, "shapes": 1.0,
}  # fmt: skip
# In the end what the evaluation showed to be weak: yes or no, nothing and several, counting, words, clips.
WEAK = {
    "describe": 7.0, "colour": 10.0, "shape": 9.0, "where": 9.0, "size": 8.0, "exists": 12.0,
    "is_colour": 11.0, "relation": 13.0, "count": 9.0, "place": 6.0, "colours": 4.0, "shapes": 4.0,
}  # fmt: skip
WORLD = Lesson(
    0.567,
    16,
    0.75,
    {"objects": 47, "texts": 26, "mixed": 3, "unknown": 2, "pair": 7, "clip": 9, "chat": 6},
    (2, 34, 30, 18, 16),
    (60, 20, 10, 10),
    {},
)
LESSONS = (
    Lesson(0.239, 32, 0.35, {}, (0, 1, 0, 0, 0), (1, 0, 0, 0), {}),
    Lesson(0.334, 8, 0.35, {"objects": 92, "chat": 8}, (0, 70, 30, 0, 0), (1, 0, 0, 0), LOOKING),
    Lesson(
        0.43,
        8,
        0.6,
        {"objects": 62, "texts": 14, "mixed": 2, "unknown": 2, "pair": 4, "clip": 4, "chat": 12},
        (1, 45, 33, 12, 9),
        (95, 5, 0, 0),
        LOOKING,
    ),
    WORLD,
    Lesson(
        0.748,
        8,
        0.6,
        {"objects": 74, "texts": 14, "mixed": 1, "unknown": 1, "pair": 2, "clip": 5, "chat": 3},
        (1, 14, 35, 28, 22),
        (60, 20, 10, 10),
        CHOOSING,
    ),
    Lesson(
        1.0,
        8,
        0.9,
        {"objects": 50, "texts": 27, "mixed": 4, "unknown": 1, "pair": 6, "clip": 9, "chat": 3},
        (1, 16, 34, 27, 22),
        (80, 12, 4, 4),
        WEAK,
    ),
)


def lesson(progress: float) -> Lesson:
    """The lesson at a share of the steps, 0 … 1."""
    return next((one for one in LESSONS if progress < one.until), LESSONS[-1])
