"""The fields that chat and text completions have in common, and the wishes that they become."""

import re
from typing import Any

from marshmallow import ValidationError, fields

from app.schemas.fields import Body, Flag, Integer, Items, Mapping, Number, Problem, SchemaOf, Text

MAX_STOPS = 16
MAX_STOP_LENGTH = 500
MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
MAX_BIASES = 1024
MAX_TOKEN = 2**31 - 1
DIGITS = "[0-9]{1,10}"


def about(text: str) -> dict[str, Any]:
    """The options of a field that may be null, with its description."""
    return {"metadata": {"description": text}, "allow_none": True}


MODEL = about("an id or alias of /v1/models; else the server's default model") | {"most": 1000, "least": 1}
NO_MEANING = about("no meaning here")
"""For OpenAI's fields that mean nothing here; their values are checked all the same."""


class StreamOptionsSchema(Body):
    """{"include_usage": true}"""

    include_usage = Flag(**about("a last chunk with the usage and no choices"))
    include_obfuscation = Flag(**NO_MEANING)


class Stop(fields.Field[tuple[str, ...]]):
    """A string or a list of strings."""

    one = Text(least=1, most=MAX_STOP_LENGTH)
    several = Items(one, most=MAX_STOPS)

    def json_schema(self, of: SchemaOf) -> dict[str, Any]:
        """Either form, for the document."""
        return {"anyOf": [of(self.one), of(self.several)]}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            return (self.one.deserialize(value),)
        if not isinstance(value, list):
            raise ValidationError("must be a string or a list of strings")
        return tuple(str(stop) for stop in self.several.deserialize(value))


class LogitBias(Mapping):
    """{token id: −100 … 100}"""

    amount = Number(low=-100, high=100)

    def json_schema(self, of: SchemaOf) -> dict[str, Any]:
        """Its keys and values, for the document."""
        keys = {"pattern": f"^{DIGITS}$"}
        return {"maxProperties": MAX_BIASES, "propertyNames": keys, "additionalProperties": of(self.amount)}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        given = super()._deserialize(value, attr, data, **options)
        if len(given) > MAX_BIASES:
            raise ValidationError(f"has {len(given)} entries; the most is {MAX_BIASES}")
        found: list[tuple[int, float]] = []
        for token, bias in given.items():
            if not re.fullmatch(DIGITS, token):
                raise ValidationError(f"has the key {token[:50]!r}, which is no token id")
            try:
                found.append((int(token), self.amount.deserialize(bias)))
            except ValidationError as error:
                raise ValidationError(f"of token {token} {error.messages[0]}") from None
        if len({token for token, _ in found}) < len(found):
            raise ValidationError([Problem("names a token twice")])
        return tuple(found)


class SamplingSchema(Body):
    """What a client may ask of any answer."""

    model = Text(**MODEL)
    temperature = Number(low=0, high=2, **about("0 is greedy; else the model's own, else 0.7"))
    top_p = Number(above=0, high=1, **about("else the model's own, else 1"))
    top_k = Integer(low=-1, high=10**9, **about("the likeliest so many are drawn from; 0 and -1 are off"))
    min_p = Number(
        low=0, high=1, **about("tokens less likely than this share of the likeliest are not drawn")
    )
    repetition_penalty = Number(
        above=0, high=100, **about("transformers' multiplicative one, over prompt and answer")
    )
    presence_penalty = Number(low=-2, high=2, **about("once for each token that the answer has"))
    frequency_penalty = Number(low=-2, high=2, **about("for each time that the answer has a token"))
    logit_bias = LogitBias(**about("added to the scores of these token ids"))
    seed = Integer(low=-(2**63), high=2**63 - 1, **about("the same seed and request give the same text"))
    n = Integer(low=1, high=MAX_CHOICES, **about("so many choices, from one prefill"))
    stop = Stop(**about("strings that end the answer and stay out of it"))
    stop_token_ids = Items(
        Integer(low=0, high=MAX_TOKEN), most=MAX_BIASES, **about("token ids that end the answer")
    )
    min_tokens = Integer(low=0, high=10**9, **about("no end and no stop string before so many tokens"))
    ignore_eos = Flag(**about("go on to max_tokens through the model's own end"))
    stream = Flag(**about("answer in server-sent events"))
    stream_options = fields.Nested(StreamOptionsSchema, **about("for streams only"))
    user = Text(**NO_MEANING)


def wishes(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of Wishes for checked fields, of which none is None; raises ValidationError for fields
    that do not go together.
    """
    if "stream_options" in given and not given.get("stream"):
        problem = Problem("is for streams only: set stream to true")
        raise ValidationError({"stream_options": [problem]})
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
        raise ValidationError({"min_tokens": [Problem(f"is {least}, more than max_tokens, {most}")]})
