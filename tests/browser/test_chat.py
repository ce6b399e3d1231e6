"""Talking on the playground: to the demo model where what it says matters, else to a scripted stage."""

import threading
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Playground
from tests.browser.stage import DONE, Stage, chunk, says, served, usage
from tests.conftest import Server, running, wait_until

Open = Callable[..., Playground]


def roles(stage: Stage) -> list[tuple[str, object]]:
    return [(message["role"], message["content"]) for message in stage.asked[-1]["messages"]]


def test_a_question_is_answered_by_the_model_with_its_figures(open_page: Open, server: Server) -> None:
    playground = open_page(server.url)
    expect(playground.ask("Who are you?")).to_contain_text("demo model of vlserve")
    expect(playground.last.locator(".who")).to_have_text("demo")
    figures = playground.last.locator(".figures")
    for word in ("tokens", "tokens/s", "first in"):
        expect(figures).to_contain_text(word)
    assert "request req_" in str(figures.get_attribute("title"))
    expect(playground.page.locator("#question")).to_be_focused()


def test_an_answer_shows_while_it_comes(playground: Playground, stage: Stage) -> None:
    more = threading.Event()
    stage.plays(chunk(content="Once upon "), more, *says("a time."))
    playground.write("Tell me a story.")
    playground.page.keyboard.press("Enter")
    expect(playground.content).to_have_text("Once upon")
    expect(playground.page.locator("#stop")).to_be_visible()
    more.set()
    expect(playground.content).to_have_text("Once upon a time.")
    expect(playground.page.locator("#send")).to_be_visible()


def test_bytes_may_come_one_by_one(open_page: Open, stage: Stage) -> None:
    stage.cut = lambda block: (block[place : place + 1] for place in range(len(block)))
    playground = open_page(stage.url)
    expect(playground.ask("你好！")).to_contain_text("你好")
    expect(playground.last.locator(".figures")).to_contain_text("tokens")


def test_the_next_question_takes_the_conversation_along(playground: Playground, stage: Stage) -> None:
    stage.plays(*says("Blue."))
    playground.ask("What is your colour?")
    playground.ask("Why?")
    assert roles(stage) == [("user", "What is your colour?"), ("assistant", "Blue."), ("user", "Why?")]
    assert stage.asked[-1]["model"] == "demo"
    assert stage.asked[-1]["stream_options"] == {"include_usage": True}


def test_thinking_is_folded_and_no_part_of_the_answer(open_page: Open, server: Server) -> None:
    playground = open_page(server.url)
    playground.page.click("#think")
    expect(playground.ask("Who are you?")).to_contain_text("demo model")
    thought = playground.last.locator("details.thought")
    expect(thought.locator("summary")).to_contain_text("Thought for")
    expect(thought.locator(".prose")).to_be_hidden()
    thought.locator("summary").click()
    expect(thought.locator(".prose")).to_be_visible()
    assert thought.locator(".prose").inner_text()
    assert thought.locator(".prose").inner_text() not in playground.content.inner_text()


def test_a_thought_that_goes_on_says_so_and_stays_open_if_it_was_opened(
    playground: Playground, stage: Stage
) -> None:
    more = threading.Event()
    stage.plays(chunk(reasoning_content="Let me see. "), more, chunk(reasoning_content="Aha."), *says("42"))
    playground.write("What is it?")
    playground.page.keyboard.press("Enter")
    thought = playground.last.locator("details.thought")
    expect(thought.locator("summary")).to_have_text("Thinking…")
    thought.locator("summary").click()
    expect(thought.locator(".prose")).to_have_text("Let me see.")
    more.set()
    expect(playground.content).to_have_text("42")
    expect(thought.locator(".prose")).to_be_visible()
    expect(thought.locator(".prose")).to_have_text("Let me see. Aha.")


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_stop_ends_the_request_and_keeps_what_is_there(
    playground: Playground, stage: Stage, how: str
) -> None:
    stage.plays(chunk(content="Half "), chunk(content="an ans"), threading.Event())
    playground.write("Go on.")
    playground.page.keyboard.press("Enter")
    expect(playground.content).to_have_text("Half an ans")
    if how == "button":
        playground.page.click("#stop")
    else:
        playground.page.keyboard.press("Escape")
    expect(playground.last.locator(".figures")).to_contain_text("stopped · about 2 tokens")
    expect(playground.content).to_have_text("Half an ans")
    assert stage.left.wait(10)
    stage.plays(*says("Yes."))
    playground.ask("Still there?")
    assert ("assistant", "Half an ans") in roles(stage)


def test_answer_again_replaces_the_last_answer(playground: Playground, stage: Stage) -> None:
    stage.plays(*says("First."))
    playground.ask("Say something.")
    stage.plays(*says("Second."))
    playground.do("retry")
    expect(playground.content).to_have_text("Second.")
    assert roles(stage) == [("user", "Say something.")]
    expect(playground.answers).to_have_count(1)
    stage.plays(chunk(content="Thi"))
    playground.do("retry")
    expect(playground.last.locator(".failure")).to_contain_text("broke before the answer was complete")
    expect(playground.content).to_have_text("Second.")
    stage.plays(threading.Event())
    playground.do("retry")
    expect(playground.content).to_be_empty()
    playground.page.reload()
    playground.page.click("#conversations .open")
    expect(playground.content).to_have_text("Second.")


def test_the_last_question_can_be_edited(playground: Playground, stage: Stage) -> None:
    stage.plays(*says("One."))
    playground.ask("First question")
    playground.ask("Second question")
    written = playground.page.locator("#question")
    playground.write("A draft")
    for leave in ("[data-do=edit]:visible", "#leave"):  # the second edit changes nothing of what was kept
        playground.page.locator(".turn.last .question").hover()
        playground.do("edit")
        expect(written).to_have_value("Second question")
        expect(playground.page.locator(".turn.edited")).to_have_count(1)
        playground.page.click(leave)
    expect(written).to_have_value("A draft")
    expect(playground.page.locator("#editing")).to_be_hidden()
    expect(playground.answers).to_have_count(2)
    playground.page.locator(".turn.last .question").hover()
    playground.do("edit")
    playground.write("Other question")
    playground.page.keyboard.press("Enter")
    expect(playground.answers).to_have_count(2)
    playground.ended()
    expect(written).to_have_value("A draft")
    assert roles(stage) == [("user", "First question"), ("assistant", "One."), ("user", "Other question")]


def test_copy_gives_the_answer_as_it_was_written(playground: Playground, stage: Stage) -> None:
    stage.plays(*says("**Bold** and `code`:\n\n```python\nprint(1)\n```\n"))
    playground.ask("Write.")
    playground.do("copy")
    assert playground.evaluate("navigator.clipboard.readText()") == (
        "**Bold** and `code`:\n\n```python\nprint(1)\n```\n"
    )
    playground.do("copy-block")
    wait_until(lambda: playground.evaluate("navigator.clipboard.readText()") == "print(1)\n")


def test_parameters_are_sent_where_they_are_set_and_kept(playground: Playground, stage: Stage) -> None:
    stage.plays(*says("Fine."))
    playground.ask("How are you?")
    assert set(stage.asked[-1]) == {"model", "messages", "stream", "stream_options"}
    playground.page.click("#toggle-settings")
    values = {"temperature": "0.75", "top_p": "0.9", "max_tokens": "64", "seed": "7", "system": "Be brief."}
    for name, value in values.items():
        playground.page.fill(f"[name={name}]", value)
    playground.page.get_by_label("Off").check()
    playground.page.reload()
    playground.page.click("#conversations .open")
    playground.ask("And now?")
    sent = stage.asked[-1]
    assert {name: sent[name] for name in ("temperature", "top_p", "max_tokens", "seed")} == {
        "temperature": 0.75,
        "top_p": 0.9,
        "max_tokens": 64,
        "seed": 7,
    }
    assert sent["enable_thinking"] is False
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}


def test_a_parameter_that_cannot_be_is_not_sent(playground: Playground, stage: Stage) -> None:
    stage.plays(*says("Never."))
    playground.page.click("#toggle-settings")
    playground.page.fill("[name=temperature]", "3")
    playground.page.click("#toggle-settings")
    playground.write("Hello")
    playground.page.keyboard.press("Enter")
    expect(playground.page.locator("[name=temperature]")).to_be_focused()
    expect(playground.page.locator("#question")).to_have_value("Hello")
    assert stage.asked == []


def test_another_model_can_be_chosen(playground: Playground, stage: Stage) -> None:
    stage.plays(*says("Yes."))
    options = playground.page.locator("#model option").all_inner_texts()
    assert "demo" in options
    assert "qwen3-0.6b" in options
    playground.page.select_option("#model", "qwen3-0.6b")
    playground.ask("Are you there?")
    assert stage.asked[-1]["model"] == "qwen3-0.6b"


def test_conversations_are_kept_with_their_pictures_and_can_be_forgotten(
    playground: Playground, stage: Stage
) -> None:
    page = playground.page
    stage.plays(*says("A circle."))
    page.click("[data-idea=picture]")
    playground.ended()
    page.click("#new")
    playground.ask("Second conversation")
    page.reload()
    rows = page.locator("#conversations .open")
    expect(rows).to_have_text(["Second conversation", "What is in this picture?"])
    rows.nth(1).click()
    expect(page.locator(".question img")).to_have_js_property("naturalWidth", 448)
    expect(playground.content).to_have_text("A circle.")
    playground.ask("And now?")
    assert stage.asked[-1]["messages"][0]["content"][0]["image_url"]["url"].startswith(
        "data:image/png;base64,iVBOR"
    )
    page.get_by_role("button", name="Delete Second conversation").click()
    page.on("dialog", lambda dialog: dialog.accept())
    page.click("#toggle-settings")
    page.click("#forget")
    expect(rows).to_have_count(0)
    page.reload()
    expect(page.locator("#welcome")).to_be_visible()
    expect(rows).to_have_count(0)


def test_an_answer_goes_on_while_another_conversation_is_shown(playground: Playground, stage: Stage) -> None:
    more = threading.Event()
    stage.plays(chunk(content="Slow "), more, chunk(content="but sure."), chunk("stop"), usage(), DONE)
    playground.write("Slow question")
    playground.page.keyboard.press("Enter")
    expect(playground.content).to_have_text("Slow")
    playground.page.click("#new")
    expect(playground.page.locator("#send")).to_be_visible()
    more.set()
    playground.page.click("#conversations .open")
    expect(playground.content).to_have_text("Slow but sure.")


def test_a_page_that_was_closed_in_an_answer_offers_to_ask_again(
    playground: Playground, stage: Stage
) -> None:
    stage.plays(chunk(content="Half"), threading.Event())
    playground.write("Question")
    playground.page.keyboard.press("Enter")
    expect(playground.content).to_have_text("Half")
    playground.page.reload()
    stage.plays(*says("Whole."))
    playground.page.click("#conversations .open")
    expect(playground.last.locator(".failure")).to_contain_text("interrupted")
    expect(playground.content).to_have_text("Half")
    playground.do("retry")
    expect(playground.content).to_have_text("Whole.")


@pytest.mark.parametrize("how", [".remove", "#forget"])
def test_a_conversation_that_is_deleted_in_its_answer_stays_deleted(
    playground: Playground, stage: Stage, how: str
) -> None:
    page = playground.page
    page.on("dialog", lambda dialog: dialog.accept())
    stage.plays(chunk(content="Half"), threading.Event())
    playground.write("What I should not have typed")
    page.keyboard.press("Enter")
    expect(playground.content).to_have_text("Half")
    page.click("#toggle-settings")
    page.locator("#conversations li").hover()
    page.click(how)
    assert stage.left.wait(10)
    expect(page.locator("#welcome")).to_be_visible()
    page.reload()
    expect(page.locator("#welcome")).to_be_visible()
    expect(page.locator("#conversations .open")).to_have_count(0)


def second_tab(playground: Playground, stage: Stage) -> Playground:
    """Another page of the same browser, with the conversation open."""
    other = Playground(playground.page.context.new_page(), playground.problems)
    other.page.goto(stage.url)
    other.page.click("#conversations .open")
    return other


def test_two_tabs_do_not_undo_one_another(playground: Playground, stage: Stage) -> None:
    stage.plays(*says("Yes."))
    playground.ask("One")
    other = second_tab(playground, stage)
    other.ask("Two")
    playground.evaluate("dispatchEvent(new Event('focus'))")
    expect(playground.answers).to_have_count(2)
    playground.ask("Three")
    assert [text for role, text in roles(stage) if role == "user"] == ["One", "Two", "Three"]


def test_what_another_tab_asks_during_an_answer_is_not_lost(playground: Playground, stage: Stage) -> None:
    stage.plays(*says("Yes."))
    playground.ask("One")
    other = second_tab(playground, stage)
    more = threading.Event()
    stage.plays(chunk(content="Slow "), more, *says("but sure."))
    playground.write("Two")
    playground.page.keyboard.press("Enter")
    expect(playground.content).to_have_text("Slow")
    stage.plays(*says("Soon."))
    other.ask("Three")
    playground.evaluate("dispatchEvent(new Event('focus'))")
    more.set()
    expect(playground.answers).to_have_count(3)
    playground.page.reload()
    playground.page.click("#conversations .open")
    expect(playground.page.locator(".answer .content")).to_have_text(["Yes.", "Slow but sure.", "Soon."])


@pytest.mark.parametrize("looks", [True, False], ids=["looked-at", "in-its-answer"])
def test_what_another_tab_deleted_does_not_come_back(
    playground: Playground, stage: Stage, looks: bool
) -> None:
    stage.plays(*says("Yes."))
    playground.ask("One")
    other = Playground(playground.page.context.new_page(), playground.problems)
    other.page.on("dialog", lambda dialog: dialog.accept())
    other.page.goto(stage.url)
    rows = playground.page.locator("#conversations .open")
    more = threading.Event()
    if not looks:
        stage.plays(chunk(content="Slow "), more, *says("but sure."))
        playground.write("Two")
        playground.page.keyboard.press("Enter")
        expect(playground.content).to_have_text("Slow")
    other.page.click("#toggle-settings")
    other.page.click("#forget")
    expect(other.page.locator("#conversations .open")).to_have_count(0)
    if looks:
        playground.evaluate("dispatchEvent(new Event('focus'))")
    more.set()
    expect(rows).to_have_count(0)
    expect(playground.page.locator("#welcome")).to_be_visible()
    playground.page.reload()
    expect(playground.page.locator("#welcome")).to_be_visible()
    expect(rows).to_have_count(0)


def test_a_row_stays_the_same_element_where_nothing_has_changed(playground: Playground, stage: Stage) -> None:
    """A click whose button is replaced before it is let go is lost, and so is the keyboard's focus."""
    stage.plays(*says("Yes."))
    playground.ask("One")
    row = playground.page.locator("#conversations .open")
    row.focus()
    playground.evaluate("dispatchEvent(new Event('focus'))")
    playground.page.wait_for_timeout(300)
    expect(row).to_be_focused()


@pytest.mark.parametrize(
    "flags", [(), ("--api-header", "X-Api-Key", "--api-prefix", "none")], ids=["bearer", "own-header"]
)
def test_a_key_is_asked_for_and_kept_for_the_tab_alone(
    open_page: Open, tmp_path_factory: pytest.TempPathFactory, flags: tuple[str, ...]
) -> None:
    folder = tmp_path_factory.mktemp("keyed")
    with running(folder, "--api-key", "sk-right-key", *flags) as server, served(server.url) as stage:
        stage.plays(*says("You may."))
        playground = open_page(stage.url)
        page = playground.page
        expect(page.locator("#key")).to_be_focused()
        expect(page.locator("#notice")).to_contain_text("key is missing")
        page.keyboard.type("sk-wrong-key")
        page.keyboard.press("Enter")
        expect(page.locator("#notice")).to_contain_text("key is wrong")
        playground.ask("May I?")
        expect(playground.last.locator(".failure")).to_contain_text("key is wrong")
        page.fill("#key", "sk-right-key")
        page.keyboard.press("Tab")
        expect(page.locator("#model")).to_have_value("demo")
        expect(page.locator("#notice")).to_be_empty()
        playground.do("retry")
        expect(playground.content).to_have_text("You may.")
        page.reload()
        expect(page.locator("#model")).to_have_value("demo")
        assert "sk-right-key" not in str(playground.evaluate("JSON.stringify(localStorage)"))
        other = page.context.new_page()  # another tab of the same browser
        other.goto(stage.url)
        expect(other.locator("#notice")).to_contain_text("key is missing")
