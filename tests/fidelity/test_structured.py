"""A hundred random schemas on a model with random weights: every answer is valid, or was cut; those
beside them in the batch say what they say alone.
"""

import json
import pathlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest

from tests import tiny_models  # prepares torchvision

# isort: split
from app.engine import loader
from app.engine.types import (
    Finish,
    GenerationRequest,
    Grammar,
    Message,
    ModelSpec,
    Sampling,
    Template,
    TextPart,
    Token,
)
from tests.schemas import random_schema

SCHEMAS = 100
AT_ONCE = 10
assert tiny_models


@pytest.fixture(scope="module", params=["batched", "alone"])
def engine(request: pytest.FixtureRequest, tiny: Callable[[str], pathlib.Path]) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "alone":
            patch.setattr(loader, "_batch_loop", lambda *_: None)
        spec = ModelSpec("qwen3", str(tiny("qwen3")), device="cpu", dtype="float32")
        made: Any = loader.load(spec, lambda *_: None, max_concurrent=2 * AT_ONCE, kv_bytes=50_000_000)
    assert made.is_batched() == (request.param == "batched")
    yield made
    made.close()


def asks(text: str, tokens: int, grammar: Grammar | None = None, **sampling: Any) -> GenerationRequest:
    return GenerationRequest(
        (Message("user", (TextPart(text),)),),
        Sampling(**{"temperature": 1.0, "seed": 7} | sampling),
        tokens,
        grammar=grammar,
        template=Template(False),
    )


def answer(generation: Any) -> tuple[str, str]:
    text, reason = "", ""
    for event in generation:
        if isinstance(event, Token | Finish):
            text += event.text
        if isinstance(event, Finish):
            reason = event.reason
    return text, reason


def held_to(schema: Any) -> Grammar:
    return Grammar("json", json.dumps(schema), "there")


def test_answers_are_valid_or_cut(engine: Any) -> None:
    schemas = [random_schema(random.Random(seed)) for seed in range(SCHEMAS)]
    ended = 0
    for first in range(0, SCHEMAS, AT_ONCE):
        running = [
            (schema, engine.submit(asks(f"number {first + index}", 200, held_to(schema), seed=first + index)))
            for index, schema in enumerate(schemas[first : first + AT_ONCE])
        ]
        for schema, generation in running:
            text, reason = answer(generation)
            assert reason in ("stop", "length")
            if reason == "stop":
                jsonschema.validate(json.loads(text), schema)
                ended += 1
    assert ended > SCHEMAS // 2


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_those_beside_a_grammar_say_the_same(engine: Any, temperature: float) -> None:
    plain = asks("Describe the picture.", 24, temperature=temperature)
    alone = answer(engine.submit(plain))
    schema = held_to({"type": "array", "items": {"type": "integer"}, "minItems": 3})
    beside = [engine.submit(asks(f"number {index}", 40, schema, seed=index)) for index in range(4)]
    assert answer(engine.submit(plain)) == alone
    first = answer(engine.submit(asks("number 0", 40, schema, seed=0)))
    assert answer(beside[0]) == first


def test_a_complete_answer_stops_even_at_the_limit(engine: Any) -> None:
    grammar = Grammar("choice", '["yes"]', "there")
    lengths = [answer(engine.submit(asks("is it so?", limit, grammar))) for limit in (1, 2, 3, 4)]
    assert ("yes", "stop") in lengths
    assert all((text == "yes") == (reason == "stop") for text, reason in lengths)
    assert "yes".startswith(lengths[0][0])


def test_each_choice_follows_the_grammar_by_itself(engine: Any) -> None:
    from dataclasses import replace

    request = replace(
        asks("a number", 60, held_to({"type": "integer", "minimum": 1000, "maximum": 9999})), n=4
    )
    texts = ["", "", "", ""]
    for event in engine.submit(request):
        if isinstance(event, Token | Finish):
            texts[event.choice] += event.text
    assert all(1000 <= int(text) <= 9999 for text in texts)
    assert len(set(texts)) > 1
