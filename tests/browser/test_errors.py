"""What goes wrong is told in words, with the request's id, and can be tried again."""

import json
import re
import threading

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Playground
from tests.browser.stage import Stage, chunk, says


def error(message: str, code: str, param: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": "x", "param": param, "code": code}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "headers", "words"),
    [
        (
            429,
            error("Too many.", "overloaded"),
            {"Retry-After": "2"},
            ["Too many.", "429", "overloaded", "2 s"],
        ),
        (400, error("Is 3.", "invalid_value", "top_p"), {}, ["Is 3.", "400", "at top_p"]),
        (503, error("No memory.", "out_of_memory"), {}, ["No memory.", "out_of_memory"]),
        (502, b"<html>Bad Gateway</html>", {}, ["The server answered 502", "502"]),
        (413, b"<html>too large</html>", {}, ["more than the proxy lets through", "begin a new one"]),
        (413, error("Too large.", "body_too_large"), {}, ["Too large.", "begin a new one, or show smaller"]),
        (500, b'{"error": "not as expected"}', {}, ["500"]),
    ],
)
def test_a_refusal_is_told_and_can_be_tried_again(
    playground: Playground, stage: Stage, status: int, body: bytes, headers: dict[str, str], words: list[str]
) -> None:
    stage.plays(body, status=status, headers={"Content-Type": "application/json"} | headers)
    playground.ask("Hello")
    failure = playground.last.locator(".failure")
    for word in [*words, "request req_of_the_stage"]:
        expect(failure).to_contain_text(word)
    expect(playground.page.locator("#status")).to_contain_text("Error: ")
    stage.plays(*says("Now it works."))
    playground.do("retry")
    expect(playground.content).to_have_text("Now it works.")
    expect(failure).to_be_hidden()


def test_a_failed_question_is_not_sent_again_with_the_next(playground: Playground, stage: Stage) -> None:
    stage.plays(error("Full.", "overloaded"), status=429)
    playground.ask("First")
    stage.plays(*says("Yes."))
    playground.ask("Second")
    assert stage.asked[-1]["messages"] == [{"role": "user", "content": "Second"}]


def test_an_error_within_a_stream_keeps_what_came_before(playground: Playground, stage: Stage) -> None:
    event = b"event: error\ndata: " + error("The model failed.", "generation_failed") + b"\n\n"
    stage.plays(chunk(content="So far "), event, chunk("error"), b"data: [DONE]\n\n")
    expect(playground.ask("Go.")).to_have_text("So far")
    expect(playground.last.locator(".failure")).to_contain_text("The model failed.")
    expect(playground.last.locator(".details")).to_have_text("generation_failed · request req_of_the_stage")


@pytest.mark.parametrize("last", [chunk(content="cut"), b'data: {"choi', b""])
def test_a_stream_that_ends_too_early_is_an_error(playground: Playground, stage: Stage, last: bytes) -> None:
    stage.plays(chunk(content="Only half, "), last)
    playground.ask("Go.")
    expect(playground.last.locator(".failure")).to_contain_text("broke before the answer was complete")
    expect(playground.content).to_contain_text("Only half,")


def test_a_server_that_is_gone_is_told(playground: Playground) -> None:
    playground.page.route("**/v1/chat/completions", lambda route: route.abort("connectionrefused"))
    playground.ask("Hello?")
    expect(playground.last.locator(".failure")).to_contain_text("The server cannot be reached.")


def test_what_the_real_server_says_is_shown(playground: Playground) -> None:
    playground.page.click("#toggle-settings")
    playground.page.fill("[name=max_tokens]", "99999999")
    playground.ask("Hello?")
    failure = playground.last.locator(".failure")
    expect(failure).to_contain_text("99999999")
    expect(failure.locator(".details")).to_have_text(re.compile(r"HTTP 400 · .* · request req_\w+"))


def test_comments_and_unknown_events_are_passed_over(playground: Playground, stage: Stage) -> None:
    stage.plays(b": ping\n\n", b"id: 3\nretry: 10\n\n", chunk(content="Fine."), b": ping\n\n", *says("."))
    expect(playground.ask("Go.")).to_have_text("Fine..")


def test_while_a_model_loads_it_says_how_far(playground: Playground, stage: Stage) -> None:
    page = playground.page
    details = {"model_state": "loading", "phase": "reading the weights", "progress": 0.4}
    page.route("**/health", lambda route: route.fulfill(json={"model": "demo", "details": details}))
    ready = threading.Event()
    stage.plays(ready, *says("Here I am."))
    playground.write("Hello?")
    page.keyboard.press("Enter")
    expect(playground.last.locator(".phase")).to_have_text("Loading demo: reading the weights, 40 %")
    ready.set()
    expect(playground.content).to_have_text("Here I am.")
    expect(playground.last.locator(".waiting")).to_be_hidden()
