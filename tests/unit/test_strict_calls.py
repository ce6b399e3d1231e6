"""Strict functions under tool_choice auto: the text is free, a call that begins is held to its schema."""

import json
import pathlib
from collections.abc import Callable, Iterator

import jsonschema
import pytest

from tests import tiny_models  # prepares torchvision

# isort: split
from app.engine import lark
from app.engine.grammar import Thought
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
TOOLS = Tools((Function("pick", PICK, strict=True), Function("any-thing", {"type": "object"})))
CALL = '<tool_call>\n{"name": "pick", "arguments": {"a": 1}}\n</tool_call>'
LLAMA_CALL = '{"name": "pick", "parameters": {"a": 1}}'
MANY = 250
"""Tokens that are open where a text is free, at least."""


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def model(request: pytest.FixtureRequest, tiny: Callable[[str], pathlib.Path]) -> Iterator[Model]:
    made = Model(tiny(request.param))  # one has a token for the tag, the other spells it
    yield made
    made.grammars.close()


def open_after(
    model: Model,
    text: str,
    style: ToolFormat = "hermes",
    parallel: bool = True,
    thought: Thought | None = None,
) -> set[str]:
    grammar = lark.strict_calls(Tools(TOOLS.functions, parallel=parallel), style)
    return model.open_after(model.grammars.guide(grammar, thought), text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "Write <tool_call> to call.",
        "<tool_call>",
        "a <tool_call> b { <tool_call",
        "中 <tool_call><tool_call>\n",
        CALL,
        f"I look.\n{CALL}\n{CALL} and { {} }",
    ],
)
def test_text_is_free_and_may_end(model: Model, text: str) -> None:
    found = open_after(model, text)
    assert len(found) > MANY
    assert model.tokenizer.decode([model.stop]) in found


@pytest.mark.parametrize(
    ("text", "first_letters"),
    [
        ("Hm. <tool_call>\n{", '" \n\t\r'),
        ("a <tool_call> b <tool_call>{", '" \n\t\r'),
        ('<tool_call>{"name": "', "pa"),
        ('<tool_call>\n{"name": "pick", "arguments": {"a": ', "12"),
        (f'{CALL}\n<tool_call>{{"name":"pick","arguments":{{"a":', "12 \n\r"),
        ('<tool_call>\n{"name": "any-thing", "arguments": ', "{ \n\t\r"),
        (CALL.removesuffix("\n</tool_call>"), "< \n\t\r"),
    ],
)
def test_a_call_that_has_begun_is_held_to_its_schema(model: Model, text: str, first_letters: str) -> None:
    assert {one[0] for one in open_after(model, text)} <= set(first_letters)


def test_a_tag_of_one_token_that_is_spelled_begins_a_call_as_well(model: Model) -> None:
    guide = model.grammars.guide(lark.strict_calls(TOOLS, "hermes"))
    ids = [
        token
        for letter in 'Hm <tool_call>\n{"name": "pick", "arguments": {"a": '
        for token in model.ids(letter)
    ]
    assert model.open_after_ids(guide, ids) == {"1", "2"}


@pytest.mark.parametrize(
    ("text", "first_letters"),
    [
        ('{"name"', ": \n\t\r"),
        ('\n{"name": "pick", "parameters": {"a": ', "12"),
        (f"{LLAMA_CALL};", "{ \n\t\r"),
        (LLAMA_CALL[:-1], "} \n\t\r"),
    ],
)
def test_a_call_in_llamas_form_is_held_to_its_schema(model: Model, text: str, first_letters: str) -> None:
    assert {one[0] for one in open_after(model, text, "llama")} <= set(first_letters)


@pytest.mark.parametrize("text", ["", "{", '{"a": 1}', 'Call {"name": 3}'])
def test_other_text_is_free_in_llamas_form(model: Model, text: str) -> None:
    assert len(open_after(model, text, "llama")) > MANY


@pytest.mark.parametrize(("style", "call"), [("hermes", CALL), ("llama", LLAMA_CALL)])
def test_one_call_ends_the_answer_where_only_one_may_be(model: Model, style: ToolFormat, call: str) -> None:
    end = model.tokenizer.decode([model.stop])
    assert open_after(model, f"{call}", style, parallel=False) <= {end}
    assert len(open_after(model, "It is so.", style, parallel=False)) > MANY


@pytest.mark.parametrize("style", ["hermes", "llama"])
def test_random_calls_match(model: Model, style: ToolFormat) -> None:
    grammar = lark.strict_calls(Tools(TOOLS.functions[:1], parallel=False), style)
    begun = '<tool_call>{"name"' if style == "hermes" else '{"name"'
    for seed in range(6):
        text, reason = model.write(model.grammars.guide(grammar), seed=seed, begun=begun)
        assert reason == "stop"
        called = json.loads(text.removeprefix("<tool_call>").removesuffix("</tool_call>"))
        jsonschema.validate(called["arguments" if style == "hermes" else "parameters"], PICK)


def test_a_thought_may_come_first_and_is_free(tiny: Callable[[str], pathlib.Path]) -> None:
    qwen = Model(tiny("qwen3"))
    vocabulary = qwen.tokenizer.get_vocab()
    thought = Thought(vocabulary["<think>"], vocabulary["</think>"], opened=False)
    assert "<think>" in open_after(qwen, "", thought=thought)
    assert len(open_after(qwen, '<think>so <tool_call>{"x', thought=thought)) > MANY
    held = open_after(
        qwen, '<think>so</think><tool_call>{"name": "pick", "arguments": {"a": ', thought=thought
    )
    assert held == {"1", "2"}
    qwen.grammars.close()


def test_a_schema_that_cannot_be_is_told_from_the_others(model: Model) -> None:
    bad = Function("bad", {"type": "object", "not": {"required": ["a"]}}, strict=True)
    tools = Tools((*TOOLS.functions, bad))
    with pytest.raises(InvalidRequest):
        model.grammars.guide(lark.strict_calls(tools, "hermes"))
    problems = []
    for one in lark.parameters(tools):
        try:
            model.grammars.guide(one)
        except InvalidRequest as problem:
            problems.append(problem.param)
    assert problems == ["tools[2].function.parameters"]


@pytest.mark.parametrize(
    ("choice", "strict", "kind"),
    [("auto", True, "text"), ("auto", False, None), ("none", True, None), ("required", False, "calls")],
)
def test_what_an_answer_is_held_to(choice: str, strict: bool, kind: str | None) -> None:
    tools = Tools((Function("pick", PICK, strict=strict),), choice)  # type: ignore[arg-type]
    made = lark.of(GenerationRequest((), Sampling(), tools=tools), "hermes")
    wanted = {
        None: None,
        "text": lark.strict_calls(tools, "hermes"),
        "calls": lark.tool_calls(tools, "hermes"),
    }
    assert made == wanted[kind]


def test_a_stop_token_of_the_request_ends_what_is_complete_and_nothing_else(model: Model) -> None:
    digit = model.ids("1")[0]
    guide = model.grammars.guide(Grammar("regex", "[01]{3}1?", "there"), ends=[digit])
    assert model.open_after(guide, "") == {"0"}
    assert "1" in model.open_after(guide, "000")
    only = model.grammars.guide(
        Grammar("regex", "1{3}", "there"), ends=model.ids("1") + model.ids("11") + model.ids("111")
    )
    with pytest.raises(InvalidRequest) as caught:
        model.open_after(only, "")
    assert caught.value.param == "stop_token_ids"
