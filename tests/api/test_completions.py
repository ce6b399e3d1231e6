"""Text completions and tokens, through the official client."""

from typing import Any

import pytest

from tests.conftest import Server, asks

PROMPT = "A large red circle at the"


def complete(server: Server, prompt: Any = PROMPT, **options: Any) -> Any:
    return server.client.completions.create(model="demo", prompt=prompt, **{"temperature": 0} | options)


def texts(answer: Any) -> list[str]:
    return [choice.text for choice in answer.choices]


def tokens_of(server: Server, text: str) -> list[int]:
    found: list[int] = server.post("/v1/tokenize", {"prompt": text}).json()["tokens"]
    return found


def test_a_text_is_gone_on_with(server: Server) -> None:
    answer = complete(server, max_tokens=8)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.usage.prompt_tokens == len(tokens_of(server, PROMPT))
    assert 1 <= answer.usage.completion_tokens <= 8
    assert len(texts(complete(server))) == 1


def test_a_prompt_in_all_its_forms(server: Server) -> None:
    ids, other = tokens_of(server, PROMPT), tokens_of(server, "What is")
    one, two = texts(complete(server)), texts(complete(server, "What is"))
    assert texts(complete(server, ids)) == one
    assert texts(complete(server, [PROMPT, "What is"])) == one + two
    assert texts(complete(server, [ids, other])) == one + two


def test_choices_are_numbered_by_prompt_then_by_choice(server: Server) -> None:
    answer = complete(server, [PROMPT, "What is"], n=2, temperature=1.5, seed=1, echo=True)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [text.startswith(PROMPT) for text in texts(answer)] == [True, True, False, False]
    assert [text.startswith("What is") for text in texts(answer)] == [False, False, True, True]


def test_a_stream_gives_the_same_text(server: Server) -> None:
    prompts = [PROMPT, "What is"]
    whole = complete(server, prompts, echo=True)
    parts = ["", ""]
    reasons: dict[int, str] = {}
    for chunk in complete(server, prompts, echo=True, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            parts[choice.index] += choice.text
            reasons |= {choice.index: choice.finish_reason} if choice.finish_reason else {}
    assert parts == texts(whole)
    assert [reasons[0], reasons[1]] == [choice.finish_reason for choice in whole.choices]
    assert chunk.usage.total_tokens == whole.usage.total_tokens


def test_sampling_parameters_mean_what_they_mean_in_a_chat(server: Server) -> None:
    token = str(tokens_of(server, "Z")[0])
    stuck = {"logit_bias": {token: 40}, "max_tokens": 30}
    assert texts(complete(server, **stuck)) == ["Z" * 30]
    assert texts(complete(server, presence_penalty=2, **stuck)) == ["Z" * 30]
    assert 5 <= texts(complete(server, frequency_penalty=2, **stuck))[0].count("Z") < 30
    greedy = texts(complete(server))
    assert texts(complete(server, temperature=2, top_p=0.000001)) == greedy
    assert texts(complete(server, temperature=2, seed=1, extra_body={"top_k": 1})) == greedy
    drawn = [texts(complete(server, temperature=2, seed=seed))[0] for seed in (1, 1, 2, 3, 4)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


def test_log_probabilities_are_told_in_the_form_of_completions(server: Server) -> None:
    answer = complete(server, logprobs=3, max_tokens=5)
    found = answer.choices[0].logprobs
    assert "".join(found.tokens) == texts(answer)[0]
    assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == len(found.text_offset)
    assert all(len(top) == 3 for top in found.top_logprobs)
    assert all(
        max(top.values()) == pytest.approx(logprob)
        for top, logprob in zip(found.top_logprobs, found.token_logprobs, strict=True)
    )


def test_a_prompt_can_be_scored_without_an_answer(server: Server) -> None:
    answer = complete(server, echo=True, logprobs=1, max_tokens=0)
    found = answer.choices[0].logprobs
    assert (texts(answer), answer.choices[0].finish_reason) == ([PROMPT], "length")
    assert answer.usage.completion_tokens == 0
    assert "".join(found.tokens) == PROMPT
    assert found.token_logprobs[0] is None
    assert all(logprob < 0 for logprob in found.token_logprobs[1:])
    for token, top, logprob in list(zip(found.tokens, found.top_logprobs, found.token_logprobs, strict=True))[
        1:
    ]:
        assert top[token] == logprob
        assert len(top) <= 2
    assert [PROMPT[at:].startswith(token) for at, token in zip(found.text_offset, found.tokens, strict=True)]


def test_the_scores_of_a_prompt_are_those_of_generating_it(server: Server) -> None:
    answer = complete(server, logprobs=0, max_tokens=6)
    scored = complete(server, PROMPT + texts(answer)[0], echo=True, logprobs=0, max_tokens=0)
    count = len(answer.choices[0].logprobs.tokens)
    assert scored.choices[0].logprobs.token_logprobs[-count:] == pytest.approx(
        answer.choices[0].logprobs.token_logprobs, abs=1e-3
    )


def test_the_best_of_several_is_the_likeliest(server: Server) -> None:
    options = {"temperature": 1.5, "seed": 4, "max_tokens": 10, "logprobs": 0}
    every = complete(server, n=6, **options)
    best = complete(server, n=2, best_of=6, **options)

    def mean(choice: Any) -> float:
        return float(sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs))

    assert best.usage.completion_tokens == every.usage.completion_tokens
    assert [choice.index for choice in best.choices] == [0, 1]
    assert set(texts(best)) <= set(texts(every))
    assert mean(best.choices[0]) >= mean(best.choices[1])


def test_stop_strings_end_a_completion(server: Server) -> None:
    whole = texts(complete(server, max_tokens=40))[0]
    stop = whole[len(whole) // 2 :][:4]
    answer = complete(server, max_tokens=40, stop=stop)
    assert texts(answer)[0] == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": [10**8]}, "prompt"),
        ({"prompt": [[1], [10**8]]}, "prompt[1]"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "max_tokens": 10**8}, "max_tokens"),
        ({"prompt": "word " * 10**6}, "prompt"),
        ({"prompt": [5] * 10**6}, "prompt"),
        ({"prompt": "a", "best_of": 3}, "best_of"),
    ],
)
def test_what_cannot_be_completed_is_refused(server: Server, body: dict[str, Any], param: str) -> None:
    answer = server.post("/v1/completions", {"temperature": 0} | body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_tokens_and_back(server: Server) -> None:
    text = "Hello, 你好 🙂"
    found = server.post("/v1/tokenize", {"prompt": text, "return_token_strs": True}).json()
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert found["max_model_len"] > 0
    assert server.post("/v1/detokenize", {"tokens": found["tokens"]}).json() == {"prompt": text}
    assert server.post("/v1/detokenize", {"tokens": []}).json() == {"prompt": ""}


def test_the_tokens_of_messages_are_those_of_an_answers_prompt(server: Server) -> None:
    messages: Any = asks("Hello!")
    found = server.post("/v1/tokenize", {"messages": messages}).json()
    answer = server.client.chat.completions.create(model="demo", messages=messages, max_tokens=1)
    assert answer.usage is not None
    assert found["count"] == answer.usage.prompt_tokens
    assert found["token_strs"] is None
    text = server.post("/v1/detokenize", {"tokens": found["tokens"]}).json()["prompt"]
    assert "Hello!" in text
    assert "<|im_start|>" in text


def test_tokens_that_are_none_are_refused(server: Server) -> None:
    answer = server.post("/v1/detokenize", {"tokens": [10**8]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tokens")
