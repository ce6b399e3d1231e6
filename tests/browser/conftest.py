"""A real browser on the playground."""

import os
import pathlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.browser import chromium
from tests.browser.stage import Stage, served
from tests.conftest import Server

expect.set_options(timeout=20_000)  # the machine may be busy


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test may install a browser, and each loads a page on a machine that may be busy."""
    for item in items:
        if item.path.is_relative_to(pathlib.Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(400))


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """A headless chromium; for this package only, since Playwright keeps an event loop in its thread."""
    found = chromium.find()
    with sync_playwright() as playwright:
        # Containers often have neither what chromium's own sandbox needs nor much shared memory.
        flags = ["--no-sandbox", "--disable-dev-shm-usage"]
        environment: dict[str, str | float | bool] = {**os.environ, **found.environment}
        started = playwright.chromium.launch(
            executable_path=found.path, args=flags, env=environment, timeout=60_000
        )
        yield started
        started.close()


@pytest.fixture
def stage(server: Server) -> Iterator[Stage]:
    """A server that passes on to the real one, or plays a script."""
    with served(server.url) as made:
        yield made


@dataclass
class Playground:
    """The page, and what a person does on it."""

    page: Page
    problems: list[str]

    @property
    def answers(self) -> Locator:
        return self.page.locator(".answer")

    @property
    def last(self) -> Locator:
        return self.page.locator(".turn.last .answer")

    @property
    def content(self) -> Locator:
        """The text of the last answer."""
        return self.last.locator(".content")

    def write(self, text: str) -> None:
        self.page.fill("#question", text)

    def ask(self, text: str) -> Locator:
        """Ask, wait for the end of the answer, and give it."""
        self.write(text)
        self.page.keyboard.press("Enter")
        self.ended()
        return self.content

    def ended(self) -> None:
        """Wait until nothing runs."""
        expect(self.page.locator(".turn.last")).to_have_attribute("aria-busy", "false", timeout=90_000)

    def do(self, what: str) -> None:
        """Press a button of the last turn."""
        self.page.locator(f".turn.last [data-do={what}]").locator("visible=true").click()

    def evaluate(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Playground]]:
    """Opens the playground of a server in a profile of its own; errors in the page fail the test."""
    made: list[Playground] = []

    def opened(url: str, **options: Any) -> Playground:
        context = browser.new_context(**({"viewport": {"width": 1200, "height": 800}} | options))
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = context.new_page()
        page.set_default_timeout(20_000)
        playground = Playground(page, [])
        made.append(playground)
        page.on("pageerror", lambda error: playground.problems.append(str(error)))
        page.on("console", lambda line: _note(playground, line.type, line.text))
        page.goto(url)
        expect(page.locator("#model option").first).not_to_have_text("Loading the models…")
        return playground

    yield opened
    for playground in made:
        playground.page.context.close()
    assert [problem for playground in made for problem in playground.problems] == []


def _note(playground: Playground, kind: str, text: str) -> None:
    # Answers that are no 200 are told on the console, whatever a page does with them.
    if kind in ("error", "warning") and not text.startswith("Failed to load resource"):
        playground.problems.append(text)


@pytest.fixture
def playground(open_page: Callable[..., Playground], stage: Stage) -> Playground:
    """The page in front of the stage."""
    return open_page(stage.url)
