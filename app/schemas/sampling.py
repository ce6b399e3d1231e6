"""The fields that chat and text completions have in common, and the wishes that they become."""

import re
from typing import Any

from marshmallow import ValidationError, fields

from app.schemas.fields import Body, Flag, Integer, Items, Mapping, Number, Text

MAX_STOPS = 16
MAX_STOP_LENGTH = 500
MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
MAX_BIASES = 1024
MAX_TOKEN = 2**31 - 1

NO_MEANING: dict[str, Any] = {"metadata": {"description": "no meaning here"}, "allow_none": True}
"""For OpenAI's fields that mean nothing here; their values are checked all the same."""


class StreamOptionsSchema(Body):
    """{"include_usage": true}"""

    include_usage = Flag(allow_none=True)
    include_obfuscation = Flag(**NO_MEANING)


class Stop(fields.Field[tuple[str, ...]]):
    """A string or a list of strings."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> tuple[str, ...]:
        text = Text(least=1, most=MAX_STOP_LENGTH)
        if isinstance(value, str):
            return (text.deserialize(value),)
        if not isinstance(value, list):
            raise ValidationError("must be a string or a list of strings")
        return tuple(str(stop) for stop in Items(text, most=MAX_STOPS).deserialize(value))


class LogitBias(Mapping):
    """{token id: −100 … 100}"""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        given = super()._deserialize(value, attr, data, **options)
        if len(given) > MAX_BIASES:
            raise ValidationError(f"has {len(given)} entries; the most is {MAX_BIASES}")
        amount = Number(low=-100, high=100)
        found: list[tuple[int, float]] = []
        for token, bias in given.items():
            if not re.fullmatch(r"[0-9]{1,10}", token):
                raise ValidationError(f"has the key {token[:50]!r}, which is no token id")
            try:
                found.append((int(token), amount.deserialize(bias)))
            except ValidationError as error:
                raise ValidationError(f"of token {token} {error.messages[0]}") from None
        if len({token for token, _ in found}) < len(found):
            raise ValidationError("names a token twice")
        return tuple(found)


class SamplingSchema(Body):
    """What a client may ask of any answer."""

    model = Text(most=1000, least=1, allow_none=True)
    temperature = Number(low=0, high=2, allow_none=True)
    top_p = Number(above=0, high=1, allow_none=True)
    top_k = Integer(low=-1, high=10**9, allow_none=True)
    min_p = Number(low=0, high=1, allow_none=True)
    repetition_penalty = Number(above=0, high=100, allow_none=True)
    presence_penalty = Number(low=-2, high=2, allow_none=True)
    frequency_penalty = Number(low=-2, high=2, allow_none=True)
    logit_bias = LogitBias(allow_none=True)
    seed = Integer(low=-(2**63), high=2**63 - 1, allow_none=True)
    n = Integer(low=1, high=MAX_CHOICES, allow_none=True)
    stop = Stop(allow_none=True)
    stop_token_ids = Items(Integer(low=0, high=MAX_TOKEN), most=MAX_BIASES, allow_none=True)
    min_tokens = Integer(low=0, high=10**9, allow_none=True)
    ignore_eos = Flag(allow_none=True)
    stream = Flag(allow_none=True)
    stream_options = fields.Nested(StreamOptionsSchema, allow_none=True)
    user = Text(**NO_MEANING)


def wishes(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of Wishes for checked fields, of which none is None; raises ValidationError for fields
    that do not go together.
    """
    if "stream_options" in given and not given.get("stream"):
        raise ValidationError({"stream_options": ["is for streams only: set stream to true"]})
    options = given.get("stream_options", {})
    same = (
        "model", "temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty",
        "frequency_penalty", "logit_bias", "seed", "n", "stop", "min_tokens", "ignore_eos", "stream",
    )  # fmt: skip
    found = {name: given[name] for name in same if name in given}
    if "top_k" in given:
        found["top_k"] = max(given["top_k"], 0)  # -1 is off as well, as in vLLM
    found["stop_token_ids"] = tuple(given.get("stop_token_ids", ()))
    found["include_usage"] = bool(options.get("include_usage"))
    return found


def check_min_tokens(least: int, most: int | None) -> None:
    """Raise ValidationError for a minimum that is over the maximum."""
    if most is not None and least > most:
        raise ValidationError({"min_tokens": [f"is {least}, more than max_tokens, {most}"]})
