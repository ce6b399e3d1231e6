"""Measures the demo model: ``python -m models.demo.evaluate`` prints the share of fully right answers for
each skill.

The scenes come from other seeds than those trained on, the words from a list and the fonts from families
that training never sees. The shipped 16-bit weights are run in float32, greedily, through the usual Hugging
Face path. An answer is right if it is letter for letter the true one.
"""

import argparse
import pathlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from app.engine import linear, torchvision_cpu
from models.demo import chatter, fonts
from models.demo.dialogues import Dialogue, DialogueSampler, as_messages
from models.demo.draw import draw_clip, draw_scene
from models.demo.palette import LANGUAGES, Language
from models.demo.talk import PictureTalk

WEIGHTS = pathlib.Path(__file__).parent / "weights"
BATCH = 16
PICTURE_SKILLS: tuple[str, ...] = (
    "colour", "shape", "where", "size", "count", "exists", "place", "background", "is_colour", "colours",
    "shapes", "relation",
)  # fmt: skip
SKILLS: tuple[str, ...] = (
    "describe 1", "describe 2", "describe 3-4", *PICTURE_SKILLS, "read 1-3", "read 4-6", "describe text",
    "text questions",
    "follow_up", "compare", "clip", "greeting", "identity", "ability", "real", "thanks", "bye", "unknown",
    "no_picture",
    "strange picture", "thinking",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A dialogue whose last question is to be answered, and with what."""

    dialogue: Dialogue
    answer: str


def _one(sampler: DialogueSampler, skill: str, language: Language) -> Case | None:
    """Draw a case of a skill, or nothing if the drawn scene does not allow it."""
    rng = sampler.rng
    if skill in (*chatter.PATTERNS, "unknown", "no_picture"):
        said = (
            chatter.out_of_scope(language, rng)
            if skill == "unknown"
            else sampler.pictureless(language)
            if skill == "no_picture"
            else chatter.chat(skill, language, rng)
        )
        return _case(Dialogue("chat", language, (sampler.as_turn(said),)))
    if skill == "compare":
        dialogue = sampler.draw("pair", language)
        turn = sampler.pair_turn((dialogue.pictures[0], dialogue.pictures[1]), language)
        return _case(Dialogue("pair", language, (turn,), dialogue.pictures))
    if skill == "clip":
        clip = sampler.scenes.clip()
        return _case(Dialogue("clip", language, (sampler.clip_turn(clip, language, "motion"),), clip=clip))
    return _about_picture(sampler, skill, language)


def _about_picture(sampler: DialogueSampler, skill: str, language: Language) -> Case | None:
    rng = sampler.rng
    kind = {"strange picture": "unknown", "describe text": "mixed", "text questions": "texts"}.get(
        skill, "objects"
    )
    scene = sampler.scene("texts" if skill.startswith("read") else kind)
    wanted = {"strange picture": "describe", "thinking": "describe"}.get(skill, skill.split()[0])
    counts = {"describe 1": (1,), "describe 2": (2,), "describe 3-4": (3, 4)}.get(skill)
    if counts is not None and len(scene.objects) not in counts:
        return None
    if skill.startswith("read"):
        length = len(scene.texts[0].text) if len(scene.texts) == 1 else 0
        if length not in ((1, 2, 3) if skill == "read 1-3" else (4, 5, 6)):
            return None
    talk = PictureTalk(scene, language, rng)
    if wanted == "text":
        wanted = rng.choice(("text_colour", "text_place", "text_length", "has_text"))
    if wanted == "follow_up":
        first = talk.turn(rng.choice(("colour", "where", "size", "exists", "place")))
        second = talk.follow_up(first) if first is not None else None
        return _case(Dialogue(kind, language, (first, second), (scene,))) if first and second else None
    turn = talk.turn(wanted)
    if turn is None or (skill == "describe text" and not scene.texts):
        return None
    return _case(Dialogue(kind, language, (turn,), (scene,), thinking=skill == "thinking"))


def _case(dialogue: Dialogue) -> Case:
    turn = dialogue.turns[-1]
    answer = f"{turn.thought}\n</think>\n\n{turn.answer}" if dialogue.thinking else turn.answer
    return Case(dialogue, answer)


def cases(skill: str, language: Language, count: int, seed: str = "held out") -> Iterator[Case]:
    """Draw so many cases of a skill in a language."""
    sampler = DialogueSampler(f"{seed}/{skill}/{language}", held_out=True)
    found = 0
    while found < count:
        case = _one(sampler, skill, language)
        if case is not None:
            found += 1
            yield replace(case, dialogue=replace(case.dialogue, text_first=sampler.rng.random() < 0.3))


class Model:
    """The loaded weights with their processor."""

    def __init__(self, folder: pathlib.Path, quantization: str = "none") -> None:
        torchvision_cpu.prepare()
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.processor: Any = AutoProcessor.from_pretrained(folder)
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())  # tied ones once
        if quantization != "none":
            linear.prepare(self.model, torch.float32, quantization)
        self.size = (folder / "model.safetensors").stat().st_size

    def prompt(self, dialogue: Dialogue) -> str:
        """What the model is to continue: the dialogue up to its last question."""
        messages = as_messages(dialogue, until=len(dialogue.turns) - 1)
        text: str = self.processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=dialogue.thinking
        )
        return text

    def inputs(self, dialogues: list[Dialogue], text: str | None = None) -> Any:
        """The padded tensors of some dialogues that all have pictures, or all a clip, or all neither (or of
        a text).
        """
        pictures: list[Image.Image] = [
            draw_scene(scene) for dialogue in dialogues for scene in dialogue.pictures
        ]
        clips = [dialogue.clip for dialogue in dialogues if dialogue.clip is not None]
        arguments: dict[str, Any] = {}
        if pictures:
            arguments["images"] = pictures
        if clips:
            arguments["videos"] = [draw_clip(clip) for clip in clips]
            arguments["do_sample_frames"] = False
            arguments["video_metadata"] = [
                {
                    "fps": clip.fps,
                    "frames_indices": list(clip.indices),
                    "total_num_frames": clip.indices[-1] + 1,
                }
                for clip in clips
            ]
        texts = [self.prompt(dialogue) for dialogue in dialogues] if text is None else [text]
        return self.processor(text=texts, padding=True, padding_side="left", return_tensors="pt", **arguments)

    @torch.inference_mode()
    def answers(self, dialogues: list[Dialogue]) -> list[str]:
        """The model's greedy answers to the last questions."""
        inputs = self.inputs(dialogues)
        output = self.model.generate(**inputs, do_sample=False, max_new_tokens=200)
        texts: list[str] = self.processor.batch_decode(
            output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return texts


def measure(model: Model, skill: str, language: Language, count: int, show: bool = False) -> float:
    """The share of fully right answers in a skill and a language."""
    todo = list(cases(skill, language, count))
    right = 0
    for first in range(0, len(todo), BATCH):
        some = todo[first : first + BATCH]
        for case, answer in zip(some, model.answers([case.dialogue for case in some]), strict=True):
            right += answer == case.answer
            if show and answer != case.answer:
                print(
                    f"  {case.dialogue.turns[-1].question!r}\n    true  {case.answer!r}\n    model {answer!r}"
                )
    return right / len(todo)


def main() -> None:
    """Read the arguments, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="questions for each skill and language")
    parser.add_argument("--skill", action="append", choices=SKILLS, help="only this one; may be repeated")
    parser.add_argument("--weights", type=pathlib.Path, default=WEIGHTS, help="folder of the model")
    parser.add_argument("--threads", type=int, default=2, help="of the processor")
    parser.add_argument("--quantization", choices=("none", "int8"), default="none")
    parser.add_argument("--show", action="store_true", help="print the wrong answers")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = Model(arguments.weights, arguments.quantization)
    print(f"{model.parameters:,} parameters, {model.size / 1e6:.1f} MB")
    print(f"held-out fonts: {', '.join(fonts.available(held_out=True))}")
    print(f"{'skill':<16} {'en':>7} {'zh':>7}   ({arguments.count} questions each)")
    started = time.monotonic()
    for skill in arguments.skill or SKILLS:
        shares = [measure(model, skill, language, arguments.count, arguments.show) for language in LANGUAGES]
        print(f"{skill:<16} " + " ".join(f"{100 * share:6.1f}%" for share in shares), flush=True)
    print(f"{time.monotonic() - started:.0f} seconds")


if __name__ == "__main__":
    main()
