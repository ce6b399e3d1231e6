"""From what a client sent to what a model gets: pictures decoded, the model's defaults filled in."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from app.engine.types import (
    ChatRequest,
    Defaults,
    Engine,
    GenerationRequest,
    ImagePart,
    Part,
    Sampling,
    TextRequest,
    Wishes,
)
from app.errors import InvalidRequest
from app.media import images

TEMPERATURE = 0.7
"""Where neither the request nor the model says."""


@dataclass(frozen=True)
class Limits:
    """Of the pictures of one request: how many, and pixels of each and of all together."""

    images: int
    pixels: int
    total_pixels: int


def read(request: ChatRequest, limits: Limits) -> list[bytes]:
    """The bytes of a request's pictures, of which all has been checked that needs no unpacking: how many,
    their URLs, and the sizes in their headers. Raises InvalidRequest.
    """
    parts = _pictures(request)
    if len(parts) > limits.images:
        raise InvalidRequest(
            f"The request has {len(parts)} pictures; the most is {limits.images}.",
            param=parts[limits.images].param,
            code="too_many_images",
        )
    data = [images.data_url_bytes(part.source, part.param) for part in parts]
    total = 0
    for part, bytes_ in zip(parts, data, strict=True):
        total += images.pixels(bytes_, part.param, limits.pixels)
        if total > limits.total_pixels:
            raise InvalidRequest(
                f"The request's pictures have more than {limits.total_pixels / 1e6:g} megapixels together.",
                param=part.param,
                code="image_too_large",
            )
    return data


def resolve(
    request: ChatRequest,
    data: list[bytes],
    engine: Engine,
    limits: Limits,
    watch: Callable[[], None] = lambda: None,
) -> GenerationRequest:
    """The generation that a chat request with these pictures (`read`) asks of a model; raises InvalidRequest
    for pictures that cannot be. `watch` is called before each of them is decoded and may raise.
    """
    parts = _pictures(request)
    if parts and "image" not in engine.modalities:
        raise InvalidRequest(
            "This model takes text only, no pictures.", param=parts[0].param, code="unsupported_by_model"
        )
    pictures = _decoded(parts, data, limits, watch)
    template = request.template
    if template.thinking is None:
        template = replace(template, thinking=engine.defaults.thinking)
    return GenerationRequest(
        messages=tuple(
            replace(message, parts=tuple(_with_picture(part, pictures) for part in message.parts))
            for message in request.messages
        ),
        sampling=sampling(request, engine.defaults),
        max_tokens=request.max_tokens,
        max_tokens_param=request.max_tokens_param,
        ignore_eos=request.ignore_eos,
        n=request.n,
        stop_token_ids=request.stop_token_ids,
        template=template,
        max_thinking_tokens=request.max_thinking_tokens,
        tools=request.tools,
        grammar=request.grammar,
    )


def plain(request: TextRequest, engine: Engine) -> list[GenerationRequest]:
    """The generations that a text completion asks of a model, one for each prompt."""
    wanted = sampling(request, engine.defaults)
    if request.best_of > request.n and wanted.top_logprobs is None:
        wanted = replace(wanted, top_logprobs=0)  # the likeliest are to be found
    return [
        GenerationRequest(
            messages=(),
            prompt=prompt,
            prompt_param=f"prompt[{index}]" if len(request.prompts) > 1 else "prompt",
            sampling=wanted,
            max_tokens=request.max_tokens,
            ignore_eos=request.ignore_eos,
            n=max(request.n, request.best_of),
            stop_token_ids=request.stop_token_ids,
            score_prompt=request.echo and request.top_logprobs is not None,
        )
        for index, prompt in enumerate(request.prompts)
    ]


def _pictures(request: ChatRequest) -> list[ImagePart]:
    return [part for message in request.messages for part in message.parts if isinstance(part, ImagePart)]


def _decoded(
    parts: list[ImagePart], data: list[bytes], limits: Limits, watch: Callable[[], None]
) -> Iterator[ImagePart]:
    for part, bytes_ in zip(parts, data, strict=True):
        watch()
        yield replace(part, source="", image=images.decode(bytes_, part.param, limits.pixels))


def _with_picture(part: Part, pictures: Iterator[ImagePart]) -> Part:
    return next(pictures) if isinstance(part, ImagePart) else part


def sampling(request: Wishes, defaults: Defaults) -> Sampling:
    """How tokens are drawn: as the request says, then the model; raises InvalidRequest for several choices of
    which all would be the same.
    """

    def first(*values: float | None) -> float:
        return next(value for value in values if value is not None)

    temperature = first(request.temperature, defaults.temperature, TEMPERATURE)
    top_k = int(first(request.top_k, defaults.top_k, 0))
    best_of = request.best_of if isinstance(request, TextRequest) else 1
    choices = max(request.n, best_of)
    if (temperature == 0 or top_k == 1) and choices > 1:
        why = "at temperature 0" if temperature == 0 else "of the likeliest token alone (top_k 1)"
        raise InvalidRequest(
            f"{choices} choices {why} would all be the same; ask for one, or raise it.",
            param="n" if request.n > 1 else "best_of",
            code="invalid_parameter_combination",
        )
    return Sampling(
        temperature=temperature,
        top_p=first(request.top_p, defaults.top_p, 1.0),
        top_k=top_k,
        min_p=first(request.min_p, defaults.min_p, 0.0),
        repetition_penalty=first(request.repetition_penalty, defaults.repetition_penalty, 1.0),
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        logit_bias=request.logit_bias,
        seed=request.seed,
        top_logprobs=request.top_logprobs,
        min_tokens=request.min_tokens,
    )
