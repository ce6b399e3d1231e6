"""tools with response_format: the answer is the JSON that was asked for, or calls, and nothing else."""

import json
import pathlib
from collections.abc import Callable, Iterator

import jsonschema
import pytest

from tests import tiny_models  # prepares torchvision

# isort: split
from app.engine import lark
from app.engine.types import Function, GenerationRequest, Grammar, Sampling, ToolFormat, Tools
from app.errors import InvalidRequest
from tests.unit.test_grammar import Model

assert tiny_models

PICK = {
    "type": "object",
    "properties": {"a": {"enum": [1, 2]}},
    "required": ["a"],
    "additionalProperties": False,
}
NAMED = {
    "type": "object",
    "properties": {"name": {"enum": ["Bob", "pia"]}, "b": {"type": "integer"}},
    "required": ["name", "b"],
    "additionalProperties": False,
}
ANSWER = Grammar("json", json.dumps(NAMED), "response_format.json_schema.schema")
OBJECT = Grammar("json", '{"type": "object"}', "response_format")
TOOLS = Tools((Function("pick", PICK, strict=True), Function("any-thing", {"type": "object"})))
CALL = '<tool_call>\n{"name": "pick", "arguments": {"a": 1}}\n</tool_call>'
LLAMA_CALL = '{"name": "pick", "parameters": {"a": 1}}'


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def model(request: pytest.FixtureRequest, tiny: Callable[[str], pathlib.Path]) -> Iterator[Model]:
    made = Model(tiny(request.param))  # one has a token for the tag, the other spells it
    yield made
    made.grammars.close()


def first_letters(
    model: Model, text: str, style: ToolFormat, asked: Grammar = ANSWER, tools: Tools = TOOLS
) -> set[str]:
    """The letters that may come next; END for the answer's end."""
    open_tokens = model.open_after(model.grammars.guide(lark.json_or_calls(asked, tools, style)), text)
    end = model.tokenizer.decode([model.stop])
    return {"END" if one == end else one[0] for one in open_tokens}


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("", {"{", "<"}),
        ('{"name": "', {"B", "p"}),
        ('{"name": "Bob", "b": 1}', {"END"}),
        ('<tool_call>\n{"name": "', {"p", "a"}),
        ('<tool_call>{"name":"pick","arguments":{"a":', {"1", "2", " ", "\r", "\n"}),
        ('<tool_call>{"name":"any-thing","arguments":', {"{", " ", "\r", "\n"}),
        (CALL, {"END", "<", " ", "\r", "\n"}),
    ],
)
def test_json_or_calls_in_hermes_form(model: Model, text: str, letters: set[str]) -> None:
    assert first_letters(model, text, "hermes") == letters


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ('{"name": "', {"B", "p", "a"}),
        ('{"name": "p', {"i"}),
        ('{"name": "Bob", "', {"b"}),
        ('{"name": "pick", "', {"p"}),
        ('{"name": "pick", "parameters": {"a": ', {"1", "2"}),
        (LLAMA_CALL, {"END", ";", " ", "\r", "\n"}),
    ],
)
def test_json_or_calls_in_llamas_form_may_begin_alike(model: Model, text: str, letters: set[str]) -> None:
    assert first_letters(model, text, "llama") == letters


@pytest.mark.parametrize(("style", "call"), [("hermes", CALL), ("llama", LLAMA_CALL)])
def test_one_call_ends_the_answer_where_only_one_may_be(model: Model, style: ToolFormat, call: str) -> None:
    one = Tools(TOOLS.functions, parallel=False)
    assert first_letters(model, call, style, tools=one) == {"END"}


@pytest.mark.parametrize("style", ["hermes", "llama"])
def test_random_answers_are_the_json_or_calls_that_match(model: Model, style: ToolFormat) -> None:
    grammar = lark.json_or_calls(ANSWER, Tools(TOOLS.functions[:1], parallel=False), style)
    begun = '{"name": "' if style == "llama" else ""
    kinds = set()
    for seed in range(16):
        text, reason = model.write(model.grammars.guide(grammar), seed=seed, begun=begun)
        assert reason == "stop"
        text = text.removeprefix("<|python_tag|>").removeprefix("<tool_call>").removesuffix("</tool_call>")
        found = json.loads(text)
        kinds.add("b" in found)
        if "b" in found:
            jsonschema.validate(found, NAMED)
        else:
            assert found["name"] == "pick"
            jsonschema.validate(found["arguments" if style == "hermes" else "parameters"], PICK)
    assert kinds == {True, False}


def test_any_object_is_an_answer_beside_calls(model: Model) -> None:
    assert first_letters(model, '{"x": 1}', "hermes", OBJECT) == {"END"}
    assert first_letters(model, '{"x": 1}', "llama", OBJECT) >= {"END"}
    assert "p" in first_letters(model, '<tool_call>{"name": "', "hermes", OBJECT)


def test_what_an_answer_is_held_to() -> None:
    def held(choice: str, asked: Grammar) -> Grammar | None:
        tools = Tools(TOOLS.functions, choice)  # type: ignore[arg-type]
        style: ToolFormat | None = None if choice == "none" else "hermes"  # as the engine tells it
        return lark.of(GenerationRequest((), Sampling(), tools=tools, grammar=asked), style)

    assert held("none", ANSWER) == ANSWER
    assert held("auto", ANSWER) == lark.json_or_calls(ANSWER, TOOLS, "hermes")
    assert held("required", ANSWER) == lark.tool_calls(TOOLS, "hermes")
    pattern = Grammar("regex", "a+", "structured_outputs.regex")
    assert held("auto", pattern) == pattern


def test_of_what_cannot_be_the_one_to_blame_is_told(model: Model) -> None:
    def blamed(asked: Grammar, tools: Tools) -> list[str | None]:
        found = []
        for one in lark.parameters(tools, asked):
            try:
                model.grammars.guide(one)
            except InvalidRequest as problem:
                found.append(problem.param)
        return found

    wrong = {"type": "object", "not": {"required": ["a"]}}
    bad = Grammar("json", json.dumps(wrong), "response_format.json_schema.schema")
    with pytest.raises(InvalidRequest):
        model.grammars.guide(lark.json_or_calls(bad, TOOLS, "hermes"))
    assert blamed(bad, TOOLS) == [bad.param]
    assert blamed(ANSWER, Tools((Function("bad", wrong, strict=True),))) == ["tools[0].function.parameters"]
