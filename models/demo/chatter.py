"""Talk without pictures: greetings, what the model is, and that it does not know what lies beyond its
pictures.
"""

import random
from typing import NamedTuple

from models.demo import wording
from models.demo.palette import Language
from models.demo.questions import expand, spoken

ANSWERS: dict[str, dict[Language, str]] = {
    "greeting": {
        "en": "Hello! I am the demo model of vlserve. Send me a picture of simple shapes or a short word, "
        "and ask me about it.",
        "zh": "你好！我是 vlserve 的演示模型。请发给我一张有简单图形或短单词的图片，然后问我问题。",
    },
    "identity": {
        "en": "I am the demo model of vlserve, a very small vision-language model. I describe simple "
        "pictures and short clips in English and Chinese.",
        "zh": "我是 vlserve 的演示模型，一个很小的视觉语言模型。我用中文和英文描述简单的图片和短片。",
    },
    "ability": {
        "en": "I can describe one to four simple shapes, tell their colours, sizes and places, count them, "
        "read a short word, compare two pictures and say how an object moves in a clip.",
        "zh": "我可以描述一到四个简单图形，说出它们的颜色、大小和位置，数出它们的个数，读出短单词，"
        "比较两张图片，还能说出短片里的物体怎么移动。",
    },
    "real": {
        "en": "Start the server with a real model: ./start_api.sh --model Qwen/Qwen2.5-VL-7B-Instruct",
        "zh": "请用真正的模型启动服务器：./start_api.sh --model Qwen/Qwen2.5-VL-7B-Instruct",
    },
    "thanks": {"en": "You are welcome!", "zh": "不客气！"},
    "bye": {"en": "Goodbye!", "zh": "再见！"},
    "no_picture": {"en": "I see no picture. Please send me one.", "zh": "我没有看到图片。请发给我一张图片。"},
    "unknown": {
        "en": "I don't know that. I am a small demo model: I can only describe simple pictures.",
        "zh": "我不知道。我只是一个小小的演示模型，只会描述简单的图片。",
    },
}
THOUGHTS: dict[str, dict[Language, str]] = {
    "greeting": {"en": "The user greets me.", "zh": "用户在打招呼。"},
    "identity": {"en": "The user asks what I am.", "zh": "用户问我是谁。"},
    "ability": {"en": "The user asks what I can do.", "zh": "用户问我会做什么。"},
    "real": {"en": "The user asks for a real model.", "zh": "用户问怎么用真正的模型。"},
    "thanks": {"en": "The user thanks me.", "zh": "用户在感谢我。"},
    "bye": {"en": "The user says goodbye.", "zh": "用户在告别。"},
    "no_picture": {
        "en": "The user asks about a picture, but there is none.",
        "zh": "用户问的是图片，但是没有图片。",
    },
    "unknown": {
        "en": "This is not about a simple picture, so I do not know it.",
        "zh": "这不是关于简单图片的问题，我不知道。",
    },
}

PATTERNS = wording.patterns("talk.txt")
STRANGE = wording.patterns("out_of_scope.txt")["strange"]

OUT_OF_SCOPE_SHARE = 0.55  # of the turns without picture


class Said(NamedTuple):
    """A turn of talk: what kind it is, the question, the answer and the thought before the answer."""

    skill: str
    question: str
    answer: str
    thought: str


def say(skill: str, question: str, language: Language) -> Said:
    """The turn of a kind, with its fixed answer."""
    return Said(skill, question, ANSWERS[skill][language], THOUGHTS[skill][language])


def chat(skill: str, language: Language, rng: random.Random) -> Said:
    """Draw a turn of a kind: "greeting", "identity", "ability", "real", "thanks" or "bye"."""
    pattern = rng.choice(PATTERNS[skill][language])
    return say(skill, spoken(expand(pattern, rng), language, rng), language)


def out_of_scope(language: Language, rng: random.Random) -> Said:
    """Draw a question that has nothing to do with simple pictures."""
    chosen = {name: rng.choice(values) for name, values in wording.words(language).items()}
    chosen |= {
        "number": str(rng.randint(0, 999)),
        "digit": str(rng.randint(2, 12)),
        "year": str(rng.randint(1000, 2030)),
    }
    question = expand(rng.choice(STRANGE[language]), rng, chosen)
    if rng.random() < 0.06:
        question = "".join(
            rng.choice("abcdefghijklmnopqrstuvwxyz     ,.?!0123456789") for _ in range(rng.randint(4, 30))
        )
        question = question.strip() or "asdf"
    return say("unknown", spoken(question, language, rng), language)
