"""Turns of a dialogue about one picture: draws a question of each kind and derives the true answer to it."""

import random
from dataclasses import dataclass, replace

from models.demo import answers, phrases, synonyms
from models.demo.palette import COLOURS, SHAPES, Language
from models.demo.phrases import pick
from models.demo.questions import ask
from models.demo.scenes import Item, Scene

WEIGHTS: dict[str, float] = {
    "describe": 3.0, "colour": 2.0, "shape": 1.3, "where": 2.2, "size": 1.4, "count": 2.0, "exists": 2.0,
    "place": 1.6,
    "background": 0.9, "is_colour": 1.0, "colours": 0.6, "shapes": 0.6, "relation": 1.2, "read": 0.2,
    "has_text": 0.3,
}  # fmt: skip
TEXT_WEIGHTS: dict[str, float] = {
    "describe": 1.5, "read": 8.0, "has_text": 0.4, "text_colour": 0.8, "text_place": 0.6, "text_length": 0.6,
    "place": 1.0, "background": 0.3, "exists": 0.2, "count": 0.2,
}  # fmt: skip
SIDES = {
    "left": ("{to the |on the |}left of", "{左边|左侧|左面}"),
    "right": ("{to the |on the |}right of", "{右边|右侧|右面}"),
    "above": ("{above|over|higher than}", "{上面|上方}"),
    "below": ("{below|under|lower than}", "{下面|下方}"),
}

ANY_OBJECT = 0.25
"""Share of the questions about a picture of one object that name neither its shape nor its colour."""


@dataclass(frozen=True)
class Turn:
    """A question and its answer; ``topic`` is the item that "it" means afterwards, ``about`` what was asked
    of it.
    """

    skill: str
    question: str
    answer: str
    thought: str = ""
    topic: Item | None = None
    about: str = ""


class PictureTalk:
    """Draws turns about one scene in one language."""

    def __init__(self, scene: Scene, language: Language, rng: random.Random) -> None:
        self.scene = scene
        self.language = language
        self.rng = rng

    def turn(self, skill: str) -> Turn | None:
        """Draw a turn of a kind, or nothing if the scene does not allow it."""
        turn: Turn | None = getattr(self, f"_{skill}")()
        if turn is None:
            return None
        if not self.scene.known:
            turn = replace(turn, answer=phrases.UNKNOWN[self.language], topic=None)
        return replace(turn, thought=self.thought())

    def draw(self, skills: dict[str, float] | None = None) -> Turn:
        """Draw a turn of any kind that the scene allows, or of the weighed skills."""
        if skills and self.scene.objects and not self.scene.texts:
            turn = self.turn(self.rng.choices(list(skills), list(skills.values()))[0])
            if turn is not None:
                return turn
        weights = TEXT_WEIGHTS if self.scene.texts and not self.scene.objects else WEIGHTS
        if self.scene.texts and self.scene.objects:
            weights = WEIGHTS | {"read": 3.0, "has_text": 0.6}
        while True:
            turn = self.turn(self.rng.choices(list(weights), list(weights.values()))[0])
            if turn is not None:
                return turn

    def thought(self) -> str:
        """What is thought before an answer: what the picture shows."""
        caption = phrases.caption(self.scene, self.language)
        return f"I look at the picture. {caption}" if self.language == "en" else f"我看图片。{caption}"

    def _make(self, skill: str, answer: str, topic: list[Item] | None = None, **slots: str) -> Turn:
        only = topic[0] if topic is not None and len(topic) == 1 else None
        return Turn(skill, ask(skill, self.language, self.rng, **slots), answer, "", only, skill)

    def _wanted(self, both: bool = True) -> tuple[str, str]:
        """A shape and a colour to ask for, of an object that is there or any; one is empty, or both are."""
        rng = self.rng
        if self.scene.objects and rng.random() < ANY_OBJECT / len(self.scene.objects):
            return "", ""
        if self.scene.objects and rng.random() < 0.72:
            item = rng.choice(self.scene.objects)
            shape, colour = item.shape, item.colour
            if rng.random() < 0.12:
                colour = rng.choice(list(COLOURS))
        else:
            shape, colour = rng.choice(list(SHAPES)), rng.choice(list(COLOURS))
        form = rng.random()
        if form < 0.4:
            return shape, ""
        return (shape, colour) if both and form < 0.8 else ("", colour)

    def _thing(self, shape: str, colour: str, many: bool = False) -> str:
        return synonyms.thing(shape, colour, self.language, self.rng, many)

    def _describe(self) -> Turn:
        return self._make(
            "describe",
            phrases.caption(self.scene, self.language),
            list(self.scene.items),
        )

    def _colour(self) -> Turn:
        shape, colour = self._wanted()
        if colour and not shape:
            shape = self.rng.choice(list(SHAPES))
        name = self._thing(shape, "")
        found = pick(self.scene, shape)
        many = synonyms.plural(name) if self.language == "en" else name
        answer = answers.colour_of(self.scene, shape, self.language)
        return self._make("colour", answer, found, shape=name, plural=many)

    def _shape(self) -> Turn:
        rng = self.rng
        known = [item.colour for item in self.scene.objects]
        colour = rng.choice(known) if known and rng.random() < 0.8 else rng.choice(list(COLOURS))
        name = synonyms.colour(colour, self.language, rng)
        return self._make(
            "shape",
            answers.shape_of(self.scene, colour, self.language),
            pick(self.scene, "", colour),
            colour=name,
        )

    def _where(self) -> Turn:
        shape, colour = self._wanted()
        answer = answers.where(self.scene, shape, colour, self.language)
        things = self._thing(shape, colour, True)
        return self._make(
            "where", answer, pick(self.scene, shape, colour), thing=self._thing(shape, colour), things=things
        )

    def _size(self) -> Turn:
        shape, colour = self._wanted()
        answer = answers.size_of(self.scene, shape, colour, self.language)
        return self._make("size", answer, pick(self.scene, shape, colour), thing=self._thing(shape, colour))

    def _count(self) -> Turn:
        shape, colour = ("", "") if self.rng.random() < 0.55 else self._wanted()
        answer = answers.count(self.scene, shape, colour, self.language)
        name = self._thing(shape, colour, True)
        return self._make("count", answer, None, things=name, thing=name)

    def _exists(self) -> Turn:
        shape, colour = self._wanted()
        name = self._thing(shape, colour)
        answer = answers.exists(self.scene, shape, colour, self.language)
        slots = {
            "a_thing": phrases.article(name) if self.language == "en" else name,
            "things": self._thing(shape, colour, True),
        }
        return self._make("exists", answer, pick(self.scene, shape, colour), thing=name, **slots)

    def _place(self) -> Turn:
        cells = [item.cell for item in self.scene.items]
        cell = self.rng.choice(cells) if cells and self.rng.random() < 0.65 else self.rng.randrange(9)
        found = [item for item in self.scene.objects if item.cell == cell]
        name = synonyms.place(cell, self.language, self.rng)
        return self._make("place", answers.at_place(self.scene, cell, self.language), found, place=name)

    def _background(self) -> Turn:
        return self._make("background", answers.background(self.scene, self.language))

    def _is_colour(self) -> Turn | None:
        items = [item for item in self.scene.objects if len(pick(self.scene, item.shape)) == 1]
        shape = (
            self.rng.choice(items).shape
            if items and self.rng.random() < 0.85
            else self.rng.choice(list(SHAPES))
        )
        found = pick(self.scene, shape)
        if len(found) > 1:
            return None
        colour = found[0].colour if found and self.rng.random() < 0.5 else self.rng.choice(list(COLOURS))
        slots = {
            "shape": synonyms.shape(shape, self.language, self.rng),
            "colour": synonyms.colour(colour, self.language, self.rng),
        }
        return self._make(
            "is_colour", answers.is_colour(self.scene, shape, colour, self.language), found, **slots
        )

    def _colours(self) -> Turn:
        return self._make("colours", answers.colours(self.scene, self.language))

    def _shapes(self) -> Turn:
        return self._make("shapes", answers.shapes(self.scene, self.language))

    def _read(self) -> Turn:
        return self._make("read", answers.reads(self.scene, self.language))

    def _has_text(self) -> Turn:
        return self._make("has_text", answers.has_text(self.scene, self.language))

    def _about_text(self, wanted: str) -> Turn | None:
        if len(self.scene.texts) != 1:
            return None
        return self._make(f"text_{wanted}", answers.about_text(self.scene.texts[0], wanted, self.language))

    def _text_colour(self) -> Turn | None:
        return self._about_text("colour")

    def _text_place(self) -> Turn | None:
        return self._about_text("place")

    def _text_length(self) -> Turn | None:
        return self._about_text("length")

    def _relation(self) -> Turn | None:
        items = [item for item in self.scene.objects if len(pick(self.scene, item.shape)) == 1]
        if len(items) < 2:
            return None
        one, other = self.rng.sample(items, 2)
        side = self.rng.choice(list(SIDES))
        if not answers.beside(one, other, side) and not answers.beside(other, one, side):
            return None
        names = [synonyms.shape(item.shape, self.language, self.rng) for item in (one, other)]
        slots = {"first": names[0], "second": names[1], "side": SIDES[side][self.language == "zh"]}
        return self._make("relation", answers.relation(one, other, side, self.language), None, **slots)

    def follow_up(self, before: Turn) -> Turn | None:
        """Draw a question that only the turn before explains: "Where is it?", "And the star?", "And the
        other one?".
        """
        item = before.topic
        if item is None or not self.scene.known or item.shape == "text":
            return None
        others = [other for other in self.scene.objects if other is not item]
        if before.about in ("colour", "where", "size") and self.rng.random() < 0.5:
            if (
                len(others) == 1
                and len(self.scene.texts) == 0
                and others[0].shape != item.shape
                and self.rng.random() < 0.5
            ):
                return self._same_of("other", others[0].shape, before.about, "")
            shape = (
                self.rng.choice(others).shape
                if others and self.rng.random() < 0.8
                else self.rng.choice(list(SHAPES))
            )
            return self._same_of("and", shape, before.about, synonyms.shape(shape, self.language, self.rng))
        about = self.rng.choice(
            [name for name in ("colour", "where", "size", "shape") if name != before.about]
        )
        if about == "shape" and before.about not in ("place", "exists"):
            about = "where" if before.about != "where" else "colour"
        lone = replace(self.scene, items=(item,))
        answer = self._answer(lone, item, about)
        question = ask(f"it_{about}", self.language, self.rng)
        return Turn("follow_up", question, answer, self.thought(), item, about)

    def _answer(self, scene: Scene, item: Item, about: str) -> str:
        if about == "shape":
            return answers.shape_of(scene, item.colour, self.language)
        if about == "colour":
            return answers.colour_of(scene, item.shape, self.language)
        function = answers.where if about == "where" else answers.size_of
        return function(scene, item.shape, "", self.language)

    def _same_of(self, skill: str, shape: str, about: str, name: str) -> Turn:
        found = pick(self.scene, shape)
        if about == "colour":
            answer = answers.colour_of(self.scene, shape, self.language)
        else:
            function = answers.where if about == "where" else answers.size_of
            answer = function(self.scene, shape, "", self.language)
        topic = found[0] if len(found) == 1 else None
        return Turn(
            "follow_up", ask(skill, self.language, self.rng, thing=name), answer, self.thought(), topic, about
        )
