"""Grammars on tiny tokenizers: what a guide leaves open, how it follows the ids, what is refused in time."""

import json
import pathlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest

from tests import tiny_models  # prepares torchvision

# isort: split
import torch
import transformers

from app.engine import grammar as engine_grammar
from app.engine import lark
from app.engine.grammar import Completion, Grammars, Guide, Thought
from app.engine.types import Function, Grammar, ToolFormat, Tools
from app.errors import GenerationFailed, InvalidRequest
from tests.conftest import wait_until
from tests.schemas import random_schema

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}

CLOSED = {"type": "object", "additionalProperties": False}


class Model:
    """A tokenizer and a source of random scores."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
        self.stop = self.tokenizer.eos_token_id
        self.grammars = Grammars(self.tokenizer, frozenset({self.stop}))
        self.width = len(self.tokenizer) + 7  # models have more rows than tokens

    def write(
        self, guide: Guide, *, seed: int = 0, most: int = 400, prompt: int = 3, begun: str = ""
    ) -> tuple[str, str]:
        """A random answer, which goes on with what was begun, and how it ended."""
        generator = torch.Generator().manual_seed(seed)
        ids = torch.zeros((1, prompt), dtype=torch.long)
        if begun:
            guide(ids, torch.zeros((1, self.width)))  # type: ignore[arg-type]
            ids = torch.cat([ids, torch.tensor([self.ids(begun)])], dim=1)
        while ids.shape[1] < prompt + most:
            scores = guide(ids, torch.randn((1, self.width), generator=generator))  # type: ignore[arg-type]
            token = int(scores.argmax())
            assert scores[0, token] > float("-inf")
            if token == self.stop:
                return self._text(ids[0, prompt:].tolist()), "stop"
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
            if bool(Completion(guide)(ids, None).all()):
                return self._text(ids[0, prompt:].tolist()), "stop"
        return self._text(ids[0, prompt:].tolist()), "length"

    def open_after(self, guide: Guide, text: str = "") -> set[str]:
        """The tokens that are open after a text."""
        return self.open_after_ids(guide, self.ids(text))

    def open_after_ids(self, guide: Guide, tokens: list[int]) -> set[str]:
        """The tokens that are open after others."""
        first = torch.zeros((1, 2), dtype=torch.long)
        guide(first, torch.zeros((1, self.width)))  # type: ignore[arg-type]
        ids = torch.tensor([tokens], dtype=torch.long)
        scores = guide(torch.cat([first, ids], dim=1), torch.zeros((1, self.width)))  # type: ignore[arg-type]
        return {self.tokenizer.decode([token]) for token in (scores[0] == 0).nonzero()[:, 0].tolist()}

    def ids(self, text: str) -> list[int]:
        """The tokens of a text."""
        found: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return found

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens))


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def model(request: pytest.FixtureRequest, tiny: Callable[[str], pathlib.Path]) -> Iterator[Model]:
    made = Model(tiny(request.param))
    yield made
    made.grammars.close()


@pytest.fixture(scope="module")
def qwen(tiny: Callable[[str], pathlib.Path]) -> Iterator[Model]:
    made = Model(tiny("qwen3"))
    yield made
    made.grammars.close()


def schema(value: Any, **options: Any) -> Grammar:
    return Grammar("json", json.dumps(value), "there", **options)


def test_random_answers_are_valid(model: Model) -> None:
    for seed in range(20):
        text, reason = model.write(model.grammars.guide(schema(PERSON)), seed=seed)
        if reason == "stop":
            jsonschema.validate(json.loads(text), PERSON)
    assert reason == "stop"


def test_random_answers_to_random_schemas_are_valid(qwen: Model) -> None:
    ended = 0
    for seed in range(60):
        wanted = random_schema(random.Random(seed))
        text, reason = qwen.write(qwen.grammars.guide(schema(wanted)), seed=seed, most=300)
        if reason == "stop":
            jsonschema.validate(json.loads(text), wanted)
            ended += 1
    assert ended > 40


@pytest.mark.parametrize(
    ("grammar", "texts"),
    [
        (Grammar("choice", '["yes", "no \\"quoted\\"", "\\u4e2d\\n"]', "p"), ["yes", 'no "quoted"', "中\n"]),
        (Grammar("regex", "[ab]{2}/\\d", "p"), None),
        (Grammar("lark", 'start: "x" rest\nrest: "y" | "z"', "p"), ["xy", "xz"]),
        (Grammar("lark", 'root ::= "x" rest\nrest ::= "y" | "z"', "p"), ["xy", "xz"]),
    ],
)
def test_choices_expressions_and_grammars(qwen: Model, grammar: Grammar, texts: list[str] | None) -> None:
    import re

    for seed in range(8):
        text, reason = qwen.write(qwen.grammars.guide(grammar), seed=seed)
        assert reason == "stop"
        assert text in texts if texts else re.fullmatch(r"[ab]{2}/\d", text)


def test_classes_of_an_expression_are_those_of_json_schema(qwen: Model) -> None:
    import re

    wanted = r"\d{3}[\d.]\w\\d\s"
    guide = qwen.grammars.guide(Grammar("regex", wanted, "p"))
    for seed in range(20):
        assert re.fullmatch(wanted, qwen.write(guide, seed=seed)[0], re.ASCII)


def test_blanks_between_json_tokens_are_few(qwen: Model) -> None:
    guide = qwen.grammars.guide(schema({"type": "array", "items": {"const": 1}, "minItems": 2}))
    assert not any(text.isspace() for text in qwen.open_after(guide, "[\n" + " " * 20))
    assert qwen.open_after(qwen.grammars.guide(schema({"const": 1})), "") == {"1"}


def test_a_complete_answer_ends_and_an_open_one_may(qwen: Model) -> None:
    guide = qwen.grammars.guide(schema({"enum": [1, 12]}))
    stop = qwen.tokenizer.decode([qwen.stop])
    assert stop not in qwen.open_after(guide)
    assert qwen.open_after(guide, "1") == {"2", stop}
    ids = torch.tensor([[0, 0, *qwen.tokenizer.encode("12")]])
    assert guide.is_complete(ids)
    assert not guide.is_complete(ids[:, :-1])


def test_a_step_that_is_taken_again_finds_the_same_tokens(qwen: Model) -> None:
    guide = qwen.grammars.guide(schema(PERSON))
    first = qwen.open_after(guide, '{"name"')
    assert qwen.open_after(guide, '{"name"') == first
    assert qwen.open_after(guide, '{"name": "x"') != first
    assert qwen.open_after(guide, '{"name"') == first  # ids that went back


def test_what_other_processors_forbid_the_grammar_may_need(qwen: Model) -> None:
    guide = qwen.grammars.guide(Grammar("choice", '["yes"]', "p"))
    scores = torch.full((1, qwen.width), float("-inf"))
    scores[0, 5] = 3.0
    chosen = int(guide(torch.zeros((1, 1), dtype=torch.long), scores).argmax())  # type: ignore[arg-type]
    assert "yes".startswith(qwen.tokenizer.decode([chosen]))


def test_the_grammar_begins_after_the_thought(qwen: Model) -> None:
    vocabulary = qwen.tokenizer.get_vocab()
    tags = vocabulary["<think>"], vocabulary["</think>"]
    prompted = qwen.grammars.guide(Grammar("choice", '["yes"]', "p"), Thought(*tags, True))
    thinking = qwen.open_after(prompted, "let me see")
    assert len(thinking) > 300
    assert qwen.tokenizer.decode([qwen.stop]) not in thinking
    assert qwen.open_after(prompted, "let me see</think>") <= {"y", "ye", "yes"}
    free = qwen.grammars.guide(Grammar("choice", '["yes"]', "p"), Thought(*tags, False))
    assert "<think>" in qwen.open_after(free)
    assert len(qwen.open_after(free, "<think>so")) > 300
    assert qwen.open_after(free, "<think>so</think>") <= {"y", "ye", "yes"}
    assert "<think>" not in qwen.open_after(qwen.grammars.guide(Grammar("choice", '["yes"]', "p")))


def test_ids_that_left_the_grammar_are_an_error(qwen: Model) -> None:
    with pytest.raises((InvalidRequest, GenerationFailed)):
        qwen.open_after(qwen.grammars.guide(Grammar("choice", '["yes"]', "p")), "no")


@pytest.mark.parametrize("style", ["hermes", "llama"])
def test_forced_calls_have_arguments_that_match(qwen: Model, style: ToolFormat) -> None:
    tree = {
        "$defs": {"n": CLOSED | {"properties": {"next": {"$ref": "#/$defs/n"}}}},
        **CLOSED,
        "properties": {"root": {"$ref": "#/$defs/n"}},
        "required": ["root"],
    }
    functions = (
        Function("get", PERSON, strict=True),
        Function("get_tree", tree),
        Function("now", {}, strict=True),
    )
    wanted = {one.name: one.parameters or {"maxProperties": 0} for one in functions}
    tools = Tools(functions, "required", parallel=False)
    seen = set()
    for seed in range(24):
        guide = qwen.grammars.guide(lark.tool_calls(tools, style))
        text, reason = qwen.write(guide, seed=seed)
        if reason == "stop":
            if style == "hermes":
                text = text.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>")
            call = json.loads(text)
            arguments = call["parameters" if style == "llama" else "arguments"]
            jsonschema.validate(arguments, wanted[call["name"]])
            seen.add(call["name"])
    assert seen == {"get", "get_tree", "now"}


def test_a_tag_that_is_one_token_is_written_as_one(qwen: Model) -> None:
    guide = qwen.grammars.guide(lark.tool_calls(Tools((Function("f", {}),)), "hermes"))
    assert qwen.open_after(guide) == {"<tool_call>"}
    done = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    assert "\n" in qwen.open_after(guide, done)
    once = qwen.grammars.guide(lark.tool_calls(Tools((Function("f", {}),), parallel=False), "hermes"))
    assert qwen.open_after(once, done) == {qwen.tokenizer.decode([qwen.stop])}


def test_texts_of_a_schema_cannot_pass_for_tags(qwen: Model) -> None:
    guide = qwen.grammars.guide(schema({"enum": ["<tool_call>", "</tool_call>"]}))
    assert json.loads(qwen.write(guide)[0]) in ("<tool_call>", "</tool_call>")


REFUSED: dict[str, Grammar] = {
    "unsupported keyword": schema({"type": "object", "not": {"required": ["a"]}}),
    "remote reference": schema({"$ref": "http://127.0.0.1:9/schema.json"}),
    "reference to nothing": schema({"$ref": "#/$defs/none"}),
    "reference to itself": schema({"$ref": "#"}),
    "circle": schema(
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
    ),
    "contradiction": schema({"type": "integer", "minimum": 5, "maximum": 3}),
    "no type": schema({"type": "strin"}),
    "huge enum": schema({"enum": [f"{number}" for number in range(100_000)]}),
    "expressions that meet": schema(
        {"type": "string", "allOf": [{"pattern": f"a{{{n},}}b{{0,{n}}}c"} for n in range(1, 500)]}
    ),
    "expressions side by side": schema(
        {"type": "object", "patternProperties": {f"^k{n}_[a-z]*$": {} for n in range(500)}}
    ),
    "multiples": schema({"type": "integer", "multipleOf": 99999989}),
    "too many optional properties": schema(
        {"type": "object", "properties": {f"p{n}": {} for n in range(4000)}}
    ),
    "look-ahead": Grammar("regex", "(?=a)b", "there"),
    "unclosed": Grammar("regex", "(a", "there"),
    "deep parentheses": Grammar("regex", "(" * 4000 + "a" + ")" * 4000, "there"),
    "unknown rule": Grammar("lark", "start: nothing", "there"),
    "no grammar": Grammar("lark", "what is this", "there"),
    "broken gbnf": Grammar("lark", 'root ::= "a', "there"),
    "a chain that overflows the stack": Grammar(
        "lark",
        "start: r0\n"
        + "\n".join(f'r{n}: "a{n}" r{n + 1} | "b" r{(n * 7) % 4000}' for n in range(4000))
        + '\nr4000: "z"',
        "there",
    ),
    "complements": Grammar("lark", "start: T\nT: /(.*a.{15})/ & ~/(.*b.{14}c.*)/ & ~/(.*d.{13}.*)/", "there"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_in_time(qwen: Model, name: str) -> None:
    before = time.process_time()
    with pytest.raises(InvalidRequest) as caught:
        qwen.grammars.guide(REFUSED[name])
    assert caught.value.param == "there"
    assert len(caught.value.message) < 400
    assert time.process_time() - before < 0.5  # of this process; the other has a limit of its own
    assert qwen.write(qwen.grammars.guide(Grammar("choice", '["yes"]', "p")))[0] == "yes"


def test_a_rule_that_is_missing_is_named(qwen: Model) -> None:
    for source in ("root ::= missing", "start: missing"):
        with pytest.raises(InvalidRequest, match="missing"):
            qwen.grammars.guide(Grammar("lark", source, "p"))


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("regex", "a{1,100000}", "p"),
        Grammar("regex", "(a+)+$", "p"),
        Grammar("regex", "((a{99}){99}){99}", "p"),
        Grammar("regex", "(a{999}){999}", "p"),
        schema({"const": "x" * 100_000}),
        schema({"type": "string", "maxLength": 10**9}),
        schema({"type": "array", "minItems": 10**6}),
    ],
)
def test_what_is_large_but_fine_costs_little_at_each_token(qwen: Model, grammar: Grammar) -> None:
    before = time.process_time()
    qwen.write(qwen.grammars.guide(grammar), most=50)
    assert time.process_time() - before < 5


def test_a_keyword_that_cannot_be_enforced_is_named_or_left_out(qwen: Model) -> None:
    wanted = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True, "maxItems": 2}
    with pytest.raises(InvalidRequest, match="uniqueItems"):
        qwen.grammars.guide(schema(wanted))
    text, _ = qwen.write(qwen.grammars.guide(schema(wanted, lenient=True)), seed=3)
    jsonschema.validate(json.loads(text), {**wanted, "uniqueItems": False})


def test_grammars_are_kept_and_no_more_than_so_many(qwen: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_grammar, "KEPT", 3)
    compiled: list[str] = []
    grammars = Grammars(qwen.tokenizer, frozenset({qwen.stop}))
    real = grammars._compiled

    def counted(one: Grammar) -> Any:
        compiled.append(one.source)
        return real(one)

    monkeypatch.setattr(grammars, "_compiled", counted)
    for source in ("a", "b", "a", "c", "d", "a", "b"):
        grammars.guide(Grammar("regex", source, "p"))
    grammars.close()
    assert compiled == ["a", "b", "c", "d", "b"]


def test_a_grammar_whose_lexer_is_full_is_compiled_anew(qwen: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from llguidance import LLParserLimits

    monkeypatch.setattr(
        engine_grammar,
        "limits",
        lambda: LLParserLimits(max_lexer_states=400, precompute_large_lexemes=False, verbose_errors=False),
    )
    grammars = Grammars(qwen.tokenizer, frozenset({qwen.stop}))
    wanted = Grammar("regex", r"(\w\d){1,30}", "p")
    texts = [qwen.write(grammars.guide(wanted), seed=seed, most=12)[0] for seed in range(12)]
    grammars.close()
    assert len(texts) == 12


def test_threads_share_a_grammar(qwen: Model) -> None:
    texts: dict[int, str] = {}

    def work(seed: int) -> None:
        texts[seed] = qwen.write(qwen.grammars.guide(schema(PERSON)), seed=seed)[0]

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(6)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(texts) == 6, 60)
    assert texts == {seed: qwen.write(qwen.grammars.guide(schema(PERSON)), seed=seed)[0] for seed in range(6)}


def test_the_other_process_ends_with_the_grammars(qwen: Model) -> None:
    grammars = Grammars(qwen.tokenizer, frozenset({qwen.stop}))
    grammars.guide(Grammar("regex", "a", "p"))
    process = grammars._checker._process
    assert process is not None
    assert process.poll() is None
    grammars.close()
    assert process.poll() is not None


def test_every_family_has_a_vocabulary_for_grammars(tiny: Callable[[str], pathlib.Path]) -> None:
    for family in ("qwen2", "qwen3_vl"):
        made = Model(tiny(family))
        assert json.loads(made.write(made.grammars.guide(schema({"enum": ["é", 1]})))[0]) in ("é", 1)
        made.grammars.close()
    assert tiny_models.FAMILIES
