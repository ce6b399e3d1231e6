"""Whole dialogues: what is shown, who says what, with or without thinking. The training and test samples."""

import json
import random
from dataclasses import dataclass, field, replace

from models.demo import answers, chatter, phrases, synonyms
from models.demo.curriculum import WORLD, lesson
from models.demo.palette import LANGUAGES, MOTIONS, Language
from models.demo.questions import ask
from models.demo.scenes import Clip, Scene, SceneSampler
from models.demo.talk import PictureTalk, Turn

SYSTEM_PROMPTS: tuple[str, ...] = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    "Be brief.",
    "You are a vision model.",
    "Answer truthfully.",
    "You describe pictures.",
    "You are a friendly and concise assistant that answers questions about images.",
    "你是一个有用的助手。",
    "请用简短的话回答。",
    "You are an expert.",
)
TOOLS: tuple[str, ...] = ("get_weather", "search", "get_time", "calculator", "send_mail", "lookup_order")
THINKING_SHARE = 0.16
EACH = {
    "en": "The first picture shows {}. The second picture shows {}.",
    "zh": "第一张图是{}。第二张图是{}。",
}
MORE = {
    "en": (
        "Both pictures have the same number of objects: {}.",
        "The {} picture has more objects: {} instead of {}.",
    ),
    "zh": ("两张图的物体一样多：都是{}个。", "第{}张图的物体更多：{}个，另一张是{}个。"),
}
SAME = {"en": "Yes, both pictures show {}.", "zh": "一样，两张图都是{}。"}
DIFFERENT = {"en": "No. ", "zh": "不一样。"}


@dataclass(frozen=True)
class Dialogue:
    """Turns of a user and the model; the pictures or the clip come with the user's turn ``shown_at``."""

    kind: str
    language: Language
    turns: tuple[Turn, ...]
    pictures: tuple[Scene, ...] = ()
    clip: Clip | None = None
    shown_at: int = 0
    text_first: bool = False
    thinking: bool = False  # the last answer is thought about
    system: str = ""
    tools: tuple[dict[str, object], ...] = field(default=())


def _tools(rng: random.Random) -> tuple[dict[str, object], ...]:
    names = rng.sample(TOOLS, rng.randint(1, 2))
    parameters = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
    return tuple(
        {
            "type": "function",
            "function": {"name": name, "description": name.replace("_", " "), "parameters": parameters},
        }
        for name in names
    )


class DialogueSampler:
    """Draws dialogues from a seed; ``held_out`` takes fonts and words that training never sees.

    ``progress`` is the share of the training that is done, which decides the lesson (none: the whole world).
    """

    def __init__(self, seed: int | str, held_out: bool = False, progress: float | None = None) -> None:
        self.rng = random.Random(seed)
        self.lesson = WORLD if progress is None else lesson(progress)
        self.scenes = SceneSampler(self.rng, held_out)

    def draw(self, kind: str | None = None, language: Language | None = None) -> Dialogue:
        """Draw a dialogue (of a kind, in a language)."""
        rng = self.rng
        kinds = self.lesson.kinds
        kind = kind or rng.choices(list(kinds), list(kinds.values()))[0]
        chosen: Language = rng.choice(LANGUAGES) if language is None else language
        if kind == "chat":
            dialogue = self._chat(chosen)
        elif kind == "pair":
            dialogue = self._pair(chosen)
        elif kind == "clip":
            dialogue = self._clip(chosen)
        else:
            dialogue = self._picture(kind, chosen)
        system = rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.25 else ""
        tools = _tools(rng) if rng.random() < 0.012 else ()
        thinking = rng.random() < THINKING_SHARE
        return replace(
            dialogue, system=system, tools=tools, thinking=thinking, text_first=rng.random() < 0.35
        )

    def _language(self, language: Language) -> Language:
        return self.rng.choice(LANGUAGES) if self.rng.random() < 0.12 else language

    def scene(self, kind: str) -> Scene:
        """Draw the scene of a kind of dialogue: "objects", "texts", "mixed" or "unknown"."""
        rng = self.rng
        if kind == "unknown":
            return self.scenes.confusing()
        if kind == "objects":
            return self.scenes.scene(rng.choices((0, 1, 2, 3, 4), self.lesson.objects)[0])
        if kind == "mixed":
            return self.scenes.scene(rng.randint(1, 3), 1)
        return self.scenes.scene(0, rng.choices((1, 2, 3, 4), self.lesson.words)[0])

    def _picture(self, kind: str, language: Language) -> Dialogue:
        rng = self.rng
        scene = self.scene(kind)
        count = rng.choices((1, 2, 3, 4, 5, 6, 7, 8), (45, 25, 12, 8, 5, 3, 1, 1))[0]
        if kind == "unknown":
            count = min(count, 2)
        elif kind == "texts":
            count = min(count, 3)
        turns: list[Turn] = []
        shown_at = 0
        if rng.random() < 0.05:
            turns.append(self._said(language))
            shown_at, count = 1, count + 1
        while len(turns) < count:
            turns.append(self._next(scene, language, turns, shown_at))
        return Dialogue(kind, language, tuple(turns), (scene,), shown_at=shown_at)

    def _next(self, scene: Scene, language: Language, turns: list[Turn], shown_at: int) -> Turn:
        """The next turn about a scene: a follow-up, a new question, or sometimes talk about other things."""
        rng = self.rng
        if rng.random() < 0.05:
            return self._said(language, with_picture=True)
        talk = PictureTalk(scene, self._language(language), rng)
        if len(turns) > shown_at and rng.random() < 0.35:
            turn = talk.follow_up(turns[-1])
            if turn is not None:
                return turn
        return talk.draw(self.lesson.skills)

    def _said(self, language: Language, with_picture: bool = False) -> Turn:
        """A turn that is not about a picture."""
        rng = self.rng
        language = self._language(language)
        if rng.random() < chatter.OUT_OF_SCOPE_SHARE:
            said = chatter.out_of_scope(language, rng)
        elif rng.random() < 0.15 and not with_picture:
            said = self.pictureless(language)
        else:
            said = chatter.chat(rng.choice(list(chatter.PATTERNS)), language, rng)
        return self.as_turn(said)

    @staticmethod
    def as_turn(said: chatter.Said) -> Turn:
        """A turn of talk as a turn of a dialogue."""
        return Turn(said.skill, said.question, said.answer, said.thought)

    def pictureless(self, language: Language) -> chatter.Said:
        """A question about a picture, when none was sent."""
        scene = self.scenes.scene(1)
        talk = PictureTalk(scene, language, self.rng)
        skill = self.rng.choice(
            ("describe", "describe", "colour", "count", "where", "exists", "read", "background", "shapes")
        )
        turn = talk.turn(skill)
        question = turn.question if turn is not None else ask("describe", language, self.rng)
        return chatter.say("no_picture", question, language)

    def _chat(self, language: Language) -> Dialogue:
        count = self.rng.choice((1, 1, 2, 3, 4, 5, 6))
        return Dialogue("chat", language, tuple(self._said(language) for _ in range(count)))

    def _pair(self, language: Language) -> Dialogue:
        rng = self.rng
        first = self.scenes.scene(rng.choices((1, 2, 3), (50, 35, 15))[0])
        second = (
            self.scenes.similar(first) if rng.random() < 0.4 else self.scenes.scene(rng.choice((1, 1, 2, 3)))
        )
        pictures = (first, second)
        count = rng.choice((1, 2, 3, 4, 5))
        turns = tuple(self.pair_turn(pictures, self._language(language)) for _ in range(count))
        return Dialogue("pair", language, turns, pictures)

    def pair_turn(self, pictures: tuple[Scene, Scene], language: Language, skill: str = "") -> Turn:
        """Draw a question about two pictures: "same", "more", "each" or "nth"."""
        rng = self.rng
        skill = skill or rng.choice(("same", "same", "more", "each", "nth", "nth"))
        briefs = [phrases.brief(scene, language) for scene in pictures]
        each = EACH[language].format(*briefs)
        thought = ("I compare the pictures. " if language == "en" else "我比较图片。") + each
        if skill == "nth":
            index = rng.randrange(2)
            name = (("first", "second"), ("第一", "第二"))[language == "zh"][index]
            question = ask("nth", language, rng, nth=name)
            return Turn("compare", question, phrases.caption(pictures[index], language), thought)
        answer = each
        if skill == "same":
            kinds = [sorted((item.shape, item.colour) for item in scene.items) for scene in pictures]
            same = kinds[0] == kinds[1]
            answer = SAME[language].format(briefs[0]) if same else DIFFERENT[language] + each
        elif skill == "more":
            answer = self._more(pictures, language)
        return Turn("compare", ask(skill, language, rng), answer, thought)

    def _more(self, pictures: tuple[Scene, Scene], language: Language) -> str:
        counts = [len(scene.items) for scene in pictures]
        names = [phrases.number(count, language) for count in counts]
        if counts[0] == counts[1]:
            return MORE[language][0].format(names[0])
        winner = int(counts[1] > counts[0])
        name = (("first", "second"), ("一", "二"))[language == "zh"][winner]
        return MORE[language][1].format(name, names[winner], names[1 - winner])

    def _clip(self, language: Language) -> Dialogue:
        rng = self.rng
        clip = self.scenes.clip()
        turns = [self.clip_turn(clip, self._language(language), "motion")]
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            skill = rng.choice(("motion", "motion_colour", "motion_shape", "background"))
            turns.append(self.clip_turn(clip, self._language(language), skill))
        rng.shuffle(turns)
        return Dialogue("clip", language, tuple(turns), clip=clip)

    def clip_turn(self, clip: Clip, language: Language, skill: str) -> Turn:
        """Draw a question about a clip: "motion", "motion_colour", "motion_shape" or "background"."""
        scene = clip.frames[0]
        item = scene.items[0]
        verb = MOTIONS[clip.motion][2 if language == "en" else 3]
        name = phrases.kind(item.shape, item.colour, language)
        moves = f"The {name} {verb}." if language == "en" else f"{name}{verb}。"
        question = ask(
            skill, language, self.rng,
            shape=synonyms.shape(item.shape, language, self.rng),
            thing=synonyms.thing(item.shape, item.colour, language, self.rng),
        )  # fmt: skip
        answer = {
            "motion": moves,
            "motion_colour": answers.colour_of(scene, item.shape, language),
            "motion_shape": answers.shape_of(scene, item.colour, language),
            "background": answers.background(scene, language),
        }[skill]
        thought = ("I look at the clip. " if language == "en" else "我看短片。") + moves
        return Turn("clip", question, answer, thought)


def as_messages(dialogue: Dialogue, until: int | None = None) -> list[dict[str, object]]:
    """The dialogue as chat messages (pictures as image parts without data), up to the question of turn
    ``until``.
    """
    messages: list[dict[str, object]] = []
    if dialogue.system:
        messages.append({"role": "system", "content": dialogue.system})
    last = len(dialogue.turns) - 1 if until is None else until
    for index, turn in enumerate(dialogue.turns[: last + 1]):
        content: list[dict[str, str]] = [{"type": "text", "text": turn.question}]
        if index == dialogue.shown_at:
            shown = [{"type": "image"} for _ in dialogue.pictures] + [{"type": "video"}] * (
                dialogue.clip is not None
            )
            content = content + shown if dialogue.text_first else shown + content
        messages.append({"role": "user", "content": content})
        if index < last or until is None:
            thinks = dialogue.thinking and index == len(dialogue.turns) - 1
            answer = f"<think>\n{turn.thought}\n</think>\n\n{turn.answer}" if thinks else turn.answer
            messages.append({"role": "assistant", "content": answer})
    return messages


def tools_json(dialogue: Dialogue) -> str:
    """The tools as the chat template writes them, one JSON object a line."""
    return "".join("\n" + json.dumps(tool, ensure_ascii=False) for tool in dialogue.tools)
