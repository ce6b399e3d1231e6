"""From what a client sent to what a model gets: the model's defaults filled in, media in their places."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from app.engine.media_types import MediaPart
from app.engine.types import (
    ChatRequest,
    Defaults,
    Engine,
    GenerationRequest,
    Part,
    Sampling,
    TextRequest,
    Wishes,
)
from app.errors import InvalidRequest

TEMPERATURE = 0.7
"""Where neither the request nor the model says."""


def resolve(request: ChatRequest, media: Iterable[MediaPart], engine: Engine) -> GenerationRequest:
    """The generation that a chat request asks of a model, its pictures and clips being these, in order."""
    prepared = iter(media)
    template = request.template
    if template.thinking is None:
        template = replace(template, thinking=engine.defaults.thinking)
    return GenerationRequest(
        messages=tuple(
            replace(message, parts=tuple(_prepared(part, prepared) for part in message.parts))
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


def _prepared(part: Part, media: Iterator[MediaPart]) -> Part:
    return next(media) if isinstance(part, MediaPart) else part


def sampling(request: Wishes, defaults: Defaults) -> Sampling:
    """How tokens are drawn: as the request says, then the model; raises InvalidRequest for several choices of
    which all would be the same.
    """

    def first(*values: float | None) -> float:
        return next(value for value in values if value is not None)

    usual = 0.0 if defaults.greedy_only else request.usual_temperature
    temperature = first(request.temperature, usual, defaults.temperature, TEMPERATURE)
    top_k = int(first(request.top_k, defaults.top_k, 0))
    best_of = request.best_of if isinstance(request, TextRequest) else 1
    choices = max(request.n, best_of)
    if (temperature == 0 or top_k == 1) and choices > 1:
        why = "at temperature 0" if temperature == 0 else "of the likeliest token alone (top_k 1)"
        raise InvalidRequest(
            f"{choices} choices {why} would all be the same; ask for one"
            + (": this model gives no others." if defaults.greedy_only else ", or raise it."),
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
