"""The requests of a load: always the same for the same seed and number."""

import base64
import io
import random
from dataclasses import dataclass
from typing import Any

KINDS = ("text", "picture", "mixed")
WORDS = ("model", "server", "image", "token", "stream", "cache", "thread", "memory", "python", "answer")


@dataclass(frozen=True)
class Case:
    """What is asked: `words` of prompt, pictures of `image_size` pixels a side, answers of `max_tokens`."""

    model: str = ""
    kind: str = "text"
    max_tokens: int = 64
    words: int = 60
    image_size: int = 448
    same_image: bool = False
    stream: bool = True
    plain: bool = False
    """OpenAI's fields only: answers may then end before `max_tokens`."""
    seed: int = 0
    """The same prompts may be in a server's cache; another seed gives others."""

    def has_picture(self, number: int) -> bool:
        """Whether this request shows a picture; of the mixed ones, every second does."""
        return self.kind == "picture" or (self.kind == "mixed" and number % 2 == 1)

    def body(self, number: int) -> dict[str, Any]:
        """A request for /v1/chat/completions."""
        rng = random.Random(f"{self.seed}/{number}")  # noqa: S311 - prompts, no secrets
        text = " ".join(rng.choice(WORDS) for _ in range(self.words)) + f" {number}"
        content: Any = text
        if self.has_picture(number):
            url = picture(self.image_size, f"{self.seed}/{0 if self.same_image else number}")
            content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
        body = {
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.max_tokens,
            "temperature": 0.0,
            "stream": self.stream,
        }
        if self.model:
            body["model"] = self.model
        if not self.plain:
            body["ignore_eos"] = True
            if self.stream:
                body["stream_options"] = {"include_usage": True}
        return body


def picture(size: int, seed: str) -> str:
    """A square PNG with some discs, as a data: URL."""
    from PIL import Image, ImageDraw

    rng = random.Random(seed)  # noqa: S311 - colours
    image = Image.new("RGB", (size, size), (rng.randrange(256), rng.randrange(256), rng.randrange(256)))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, r = rng.randrange(size), rng.randrange(size), rng.randrange(size // 10, max(size // 3, 3))
        colour = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
