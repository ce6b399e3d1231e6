"""The page itself: keys, focus, screen readers, sizes, dark and light."""

import threading
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Playground
from tests.browser.stage import Stage, chunk, says
from tests.conftest import wait_until

Open = Callable[..., Playground]
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
LONG = (
    "A **long** answer.\n\n```text\n"
    + "x" * 300
    + "\n```\n\n"
    + "y" * 300
    + "\n\n|a|b|\n|-|-|\n|"
    + "z " * 99
    + "|1|\n"
)


def test_enter_sends_and_shift_enter_is_a_new_line(playground: Playground, stage: Stage) -> None:
    stage.plays(*says("Ok."))
    keyboard = playground.page.keyboard
    keyboard.type("one")  # the field has the focus from the start
    keyboard.press("Shift+Enter")
    keyboard.type("two")
    keyboard.press("Enter")
    playground.ended()
    assert stage.asked[-1]["messages"][0]["content"] == "one\ntwo"
    expect(playground.page.locator("#question")).to_have_value("")


def test_an_enter_that_ends_a_word_of_an_input_method_sends_nothing(
    playground: Playground, stage: Stage
) -> None:
    playground.write("你好")
    playground.evaluate(
        "document.getElementById('question').dispatchEvent("
        "new KeyboardEvent('keydown', { key: 'Enter', isComposing: true, bubbles: true, cancelable: true }))"
    )
    expect(playground.page.locator("#question")).to_have_value("你好")
    assert stage.asked == []


def test_nothing_is_sent_of_nothing(playground: Playground, stage: Stage) -> None:
    playground.write("  \n ")
    playground.page.keyboard.press("Enter")
    expect(playground.page.locator("#welcome")).to_be_visible()
    assert stage.asked == []


def test_everything_can_be_reached_and_seen_by_tab(playground: Playground, stage: Stage) -> None:
    stage.plays(*says("```sh\nls\n```\n"))
    playground.ask("Hello")
    playground.page.click("#toggle-settings")
    playground.evaluate("document.activeElement.blur()")
    wanted = playground.evaluate(
        """() => [...document.querySelectorAll("button, a, input, select, textarea, summary, pre")].filter(
          (element) => element.checkVisibility({ visibilityProperty: true }) && !element.disabled
            && element.tabIndex >= 0 && element.type !== "radio").length"""
    )
    seen = set()
    for _ in range(wanted + 8):
        playground.page.keyboard.press("Tab")
        found = playground.evaluate(
            """() => {
              const element = document.activeElement;
              element.dataset.seen ??= String(Math.random());
              const around = [element, element.closest(".box"), element.nextElementSibling];
              const ringed = around.some((one) => one
                && (getComputedStyle(one).outlineStyle !== "none" || one.matches(".box:focus-within")));
              const name = element.outerHTML.slice(0, 90);
              return { id: element.dataset.seen, ringed, name, kind: element.type };
            }"""
        )
        if found["name"].startswith(("<body", "<html")):
            continue
        assert found["ringed"], found["name"]
        if found["kind"] != "radio":
            seen.add(found["id"])
    assert len(seen) >= wanted


def test_every_control_has_a_name(playground: Playground, stage: Stage) -> None:
    stage.plays(*says("Ok."))
    playground.ask("Hello")
    playground.page.click("#toggle-settings")
    unnamed = playground.evaluate(
        """() => [...document.querySelectorAll("button, a, input:not([type=file]), select, textarea")].filter(
          (one) => !(one.getAttribute("aria-label") || one.innerText?.trim() || one.labels?.length)
        ).map((one) => one.outerHTML)"""
    )
    assert unnamed == []


def test_a_screen_reader_hears_an_answer_once(playground: Playground, stage: Stage) -> None:
    playground.evaluate(
        """() => {
          window.heard = [];
          const regions = "[aria-live], [role=status], [role=alert], [role=log]";
          for (const region of document.querySelectorAll(regions)) {
            new MutationObserver(() => window.heard.push(region.textContent)).observe(
              region, { childList: true, characterData: true, subtree: true });
          }
        }"""
    )
    stage.plays(*says(*["word "] * 50))
    playground.ask("Go.")
    heard = [text for text in playground.evaluate("window.heard") if text.strip()]
    assert heard == ["word " * 50]


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_it_is_as_dark_as_the_system_until_it_is_told_otherwise(
    open_page: Open, stage: Stage, scheme: str
) -> None:
    playground = open_page(stage.url, color_scheme=scheme)

    def is_dark() -> bool:
        colour = "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0] < 128"
        return bool(playground.evaluate(colour))

    assert is_dark() == (scheme == "dark")
    playground.page.click("#theme")
    assert is_dark() == (scheme == "light")
    playground.page.reload()
    assert is_dark() == (scheme == "light")


@pytest.mark.parametrize("width", [320, 360, 768, 1400])
def test_nothing_sticks_out_at_any_width(open_page: Open, stage: Stage, width: int) -> None:
    playground = open_page(stage.url, viewport={"width": width, "height": 640})
    page = playground.page
    assert playground.evaluate(OVERFLOW) <= 0
    stage.plays(*says(LONG))
    page.click("[data-idea=picture]")
    playground.ended()
    assert playground.evaluate(OVERFLOW) <= 0
    assert playground.evaluate(
        "document.querySelector('#scroll').scrollWidth <= document.querySelector('#scroll').clientWidth"
    )
    for name in ("history", "settings"):
        if page.locator(f"#{name}").is_hidden():
            page.click(f"#toggle-{name}")
        expect(page.locator(f"#{name}")).to_be_in_viewport(ratio=0.9)
        assert playground.evaluate(OVERFLOW) <= 0
        page.keyboard.press("Escape")
    page.click("#show-code")
    assert playground.evaluate(OVERFLOW) <= 0
    expect(page.locator("#copy-code")).to_be_in_viewport()


def test_on_a_phone_a_panel_lies_over_the_page_and_goes_away(open_page: Open, stage: Stage) -> None:
    playground = open_page(stage.url, viewport={"width": 360, "height": 640}, has_touch=True)
    page = playground.page
    expect(page.locator("#history")).to_be_hidden()
    page.tap("#toggle-history")
    expect(page.locator("#history")).to_be_visible()
    for _ in range(8):  # all around: nothing that lies under it can be reached
        page.keyboard.press("Tab")
        assert playground.evaluate("!document.activeElement.closest('main')")
    page.tap("#new")
    page.tap("#toggle-history")
    page.keyboard.press("Escape")
    expect(page.locator("#history")).to_be_hidden()
    expect(page.locator("#toggle-history")).to_be_focused()
    page.tap("#toggle-settings")
    page.touchscreen.tap(5, 300)
    expect(page.locator("#settings")).to_be_hidden()


def test_it_follows_the_answer_unless_one_scrolls_up(playground: Playground, stage: Stage) -> None:
    events = [threading.Event() for _ in range(2)]
    lines = "line\n\n" * 60
    stage.plays(chunk(content=lines), events[0], chunk(content=lines), events[1], *says("end"))
    playground.write("Go.")
    playground.page.keyboard.press("Enter")
    area = "document.getElementById('scroll')"
    from_end = f"{area}.scrollHeight - {area}.scrollTop - {area}.clientHeight"
    expect(playground.content.locator("p")).to_have_count(60)
    wait_until(lambda: playground.evaluate(from_end) < 5)
    playground.evaluate("document.getElementById('scroll').scrollTop = 300")
    expect(playground.page.locator("#latest")).to_be_visible()
    events[0].set()
    expect(playground.content.locator("p")).to_have_count(120)
    assert playground.evaluate("document.getElementById('scroll').scrollTop") == 300
    playground.page.click("#latest")
    wait_until(lambda: playground.evaluate(from_end) < 5)
    events[1].set()
    playground.ended()
    wait_until(lambda: playground.evaluate(from_end) < 5)


def test_it_works_where_nothing_can_be_stored(open_page: Open, stage: Stage) -> None:
    playground = open_page(stage.url)
    playground.page.add_init_script(
        """for (const name of ["localStorage", "sessionStorage", "indexedDB"]) {
          Object.defineProperty(window, name, { get() { throw new DOMException("off", "SecurityError"); } });
        }"""
    )
    playground.page.reload()
    stage.plays(*says("Still here."))
    expect(playground.ask("Hello")).to_have_text("Still here.")
