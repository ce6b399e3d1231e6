"""How tokens are drawn, through the official client: choices, seeds, penalties, limits, probabilities."""

import math
from typing import Any

import pytest

from tests import tiny_models  # prepares torchvision
from tests.conftest import ROOT, Server, asks, scene

# isort: split
import torch
import transformers

assert tiny_models
TALK = asks("Tell me about yourself.")
WEIGHTS = ROOT / "models" / "demo" / "weights"


def complete(server: Server, messages: Any = TALK, **options: Any) -> Any:
    own = {"top_k", "min_p", "repetition_penalty", "stop_token_ids", "min_tokens", "ignore_eos"}
    extra = {name: options.pop(name) for name in list(options) if name in own}
    return server.client.chat.completions.create(model="demo", messages=messages, extra_body=extra, **options)


def texts(answer: Any) -> list[str]:
    return [choice.message.content for choice in answer.choices]


def refused(server: Server, **options: Any) -> dict[str, Any]:
    answer = server.post("/v1/chat/completions", {"messages": TALK} | options)
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def test_several_choices_of_one_prompt(server: Server) -> None:
    alone = complete(server, temperature=1.5, seed=3, max_tokens=12)
    answer = complete(server, temperature=1.5, seed=3, max_tokens=12, n=4)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert len(set(texts(answer))) > 1
    assert texts(answer)[0] == texts(alone)[0]
    assert answer.usage.prompt_tokens == alone.usage.prompt_tokens
    assert answer.usage.completion_tokens > alone.usage.completion_tokens
    assert texts(complete(server, temperature=1.5, seed=3, max_tokens=12, n=4)) == texts(answer)


def test_streamed_choices_are_those_of_the_whole_answer(server: Server) -> None:
    options = {"temperature": 1.2, "seed": 11, "n": 3, "max_tokens": 20}
    whole = complete(server, **options)
    parts = ["", "", ""]
    ends: list[int] = []
    for chunk in complete(server, stream=True, **options):
        for choice in chunk.choices:
            parts[choice.index] += choice.delta.content or ""
            ends += [choice.index] * (choice.finish_reason is not None)
    assert parts == texts(whole)
    assert sorted(ends) == [0, 1, 2]


def test_several_choices_see_the_same_picture(server: Server) -> None:
    messages = asks("What is in this picture?", scene(colour="red", shape="circle"))
    answer = complete(server, messages, temperature=0.1, n=3)
    assert all("red circle" in text for text in texts(answer))


def test_greedy_choices_would_all_be_the_same(server: Server) -> None:
    assert refused(server, n=2, temperature=0)["param"] == "n"
    assert refused(server, n=2)["param"] == "n"  # the demo model's own default is greedy


def test_more_choices_than_the_server_takes_are_refused_for_good(server: Server) -> None:
    body = {"prompt": ["a"] * 100, "n": 100, "temperature": 1}
    answer = server.post("/v1/completions", body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")


def test_a_seed_gives_the_same_text_in_company(server: Server) -> None:
    alone = texts(complete(server, temperature=1.3, seed=42, max_tokens=24))
    crowd = complete(server, temperature=1.3, seed=42, max_tokens=24, n=6)
    assert texts(crowd)[0] == alone[0]
    others = {texts(complete(server, temperature=1.3, seed=seed, max_tokens=24))[0] for seed in range(5)}
    assert len(others) > 1


def test_a_bias_forbids_and_forces_tokens(server: Server) -> None:
    plain = complete(server, temperature=0, max_tokens=1, logprobs=True)
    token = tokens_of(server, plain.choices[0].logprobs.content[0].token)[0]
    other = complete(server, temperature=0, max_tokens=1, logit_bias={str(token): -100})
    assert texts(other) != texts(plain)
    forced = complete(server, temperature=0, max_tokens=3, logit_bias={str(token): 100})
    assert texts(forced)[0] == 3 * texts(plain)[0]


def test_a_bias_of_no_token_is_refused(server: Server) -> None:
    error = refused(server, logit_bias={"2000000": 1})
    assert error["param"] == "logit_bias"
    assert "2000000" in error["message"]


def test_penalties_work_against_repetition(server: Server) -> None:
    token = str(tokens_of(server, "Z")[0])
    loop: dict[str, Any] = {"temperature": 0, "max_tokens": 30, "logit_bias": {token: 30}}
    stuck = texts(complete(server, **loop))[0]
    free = texts(complete(server, frequency_penalty=2, **loop))[0]
    assert stuck.count("Z") == 30
    assert 5 <= free.count("Z") < 30
    plain, punished = (texts(complete(server, temperature=0, repetition_penalty=by)) for by in (1, 5))
    assert plain != punished


def test_a_presence_penalty_is_paid_once_however_often(server: Server) -> None:
    token = str(tokens_of(server, "Z")[0])

    def count(bias: int, **options: float) -> int:
        answer = complete(server, temperature=0, max_tokens=30, logit_bias={token: bias}, **options)
        return texts(answer)[0].count("Z")

    assert count(30) == count(30, presence_penalty=2) == 30
    assert any(count(bias) != count(bias, presence_penalty=2) for bias in range(10, 18))


def test_a_least_number_of_tokens_is_held_and_a_stop_token_ends(server: Server) -> None:
    short = complete(server, asks("Hello!"), temperature=0)
    count = short.usage.completion_tokens
    longer = complete(server, asks("Hello!"), temperature=0, min_tokens=count + 5)
    assert longer.usage.completion_tokens >= count + 5
    first = tokens_of(server, texts(short)[0])
    ended = complete(server, asks("Hello!"), temperature=0, stop_token_ids=[first[2]])
    assert ended.choices[0].finish_reason == "stop"
    assert ended.usage.completion_tokens == 3
    assert texts(short)[0].startswith(texts(ended)[0])
    endless = complete(server, asks("Hello!"), temperature=0, ignore_eos=True, max_tokens=count + 9)
    assert endless.usage.completion_tokens == count + 9


def test_top_k_of_one_is_greedy(server: Server) -> None:
    greedy = texts(complete(server, temperature=0))
    assert texts(complete(server, temperature=2, top_k=1, seed=1)) == greedy
    assert texts(complete(server, temperature=2, min_p=1, seed=1)) == greedy


def test_log_probabilities_are_those_of_transformers(server: Server) -> None:
    answer = complete(server, temperature=0.9, seed=7, logprobs=True, top_logprobs=20, max_tokens=24)
    entries = answer.choices[0].logprobs.content
    assert "".join(entry.token for entry in entries) == texts(answer)[0]
    model: Any = transformers.AutoModelForImageTextToText.from_pretrained(WEIGHTS, dtype=torch.float32)
    prompt = server.post("/v1/tokenize", {"messages": TALK}).json()["tokens"]
    ids = prompt + [id_of(server, entry) for entry in entries]
    with torch.inference_mode():
        wanted = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    for place, entry in enumerate(entries):
        row = wanted[len(prompt) - 1 + place]
        assert entry.logprob == pytest.approx(float(row[ids[len(prompt) + place]]), abs=1e-3)
        best = row.topk(20)[0].tolist()
        assert [top.logprob for top in entry.top_logprobs] == pytest.approx(best, abs=1e-3)
        assert all(bytes(top.bytes).decode(errors="replace") == top.token for top in entry.top_logprobs)


def test_streamed_log_probabilities_are_the_same(server: Server) -> None:
    options = {"temperature": 0, "logprobs": True, "top_logprobs": 2, "stop": ["demo"]}
    whole = complete(server, **options).choices[0].logprobs.content
    streamed = [
        entry
        for chunk in complete(server, stream=True, **options)
        for choice in chunk.choices
        if choice.logprobs
        for entry in choice.logprobs.content
    ]
    assert [entry.token for entry in streamed] == [entry.token for entry in whole]
    assert all(math.isclose(a.logprob, b.logprob) for a, b in zip(streamed, whole, strict=True))


def test_bytes_of_half_a_character_add_up(server: Server) -> None:
    answer = complete(server, asks("你好！"), temperature=0, logprobs=True)
    pieces = [bytes(entry.bytes) for entry in answer.choices[0].logprobs.content]
    assert b"".join(pieces).decode() == texts(answer)[0]


def tokens_of(server: Server, text: str) -> list[int]:
    found: list[int] = server.post("/v1/tokenize", {"prompt": text}).json()["tokens"]
    return found


def id_of(server: Server, entry: Any) -> int:
    """The id of a token that is told by its text."""
    (found,) = tokens_of(server, entry.token)
    return found
