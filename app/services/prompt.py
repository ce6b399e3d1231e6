"""From what a client sent to what a model gets: pictures decoded, the model's defaults filled in."""

from collections.abc import Callable
from dataclasses import replace

from app.engine.types import (
    ChatRequest,
    Defaults,
    GenerationRequest,
    ImagePart,
    Message,
    Part,
    Sampling,
)
from app.errors import InvalidRequest
from app.media import images

TEMPERATURE = 0.7
"""Where neither the request nor the model says."""


def resolve(
    request: ChatRequest,
    defaults: Defaults,
    *,
    max_images: int,
    max_pixels: int,
    max_total_pixels: int,
    watch: Callable[[], None] = lambda: None,
) -> GenerationRequest:
    """The generation that a chat request asks for; raises InvalidRequest for pictures that cannot be.

    `max_pixels` is for each picture, `max_total_pixels` for all together.
    `watch` is called before each one is decoded and may raise.
    """
    pictures = [part for message in request.messages for part in message.parts if isinstance(part, ImagePart)]
    if len(pictures) > max_images:
        raise InvalidRequest(
            f"The request has {len(pictures)} pictures; the most is {max_images}.",
            param=pictures[max_images].param,
        )

    total = 0

    def decoded(part: Part) -> Part:
        nonlocal total
        if not isinstance(part, ImagePart):
            return part
        watch()
        image = images.from_url(part.source, part.param, max_pixels)
        total += image.width * image.height
        if total > max_total_pixels:
            raise InvalidRequest(
                f"The request's pictures have more than {max_total_pixels / 1e6:g} megapixels together.",
                param=part.param,
                code="image_too_large",
            )
        return replace(part, source="", image=image)

    return GenerationRequest(
        messages=tuple(
            Message(message.role, tuple(decoded(part) for part in message.parts))
            for message in request.messages
        ),
        sampling=_sampling(request, defaults),
        max_tokens=request.max_tokens,
        max_tokens_param=request.max_tokens_param,
    )


def _sampling(request: ChatRequest, defaults: Defaults) -> Sampling:
    def first(*values: float | None) -> float:
        return next(value for value in values if value is not None)

    return Sampling(
        temperature=first(request.temperature, defaults.temperature, TEMPERATURE),
        top_p=first(request.top_p, defaults.top_p, 1.0),
        top_k=int(first(defaults.top_k, 0)),
        repetition_penalty=first(defaults.repetition_penalty, 1.0),
        seed=request.seed,
    )
