"""Make the pictures of the playground in docs/ anew, from a running server with the demo model.

python scripts/screenshots.py http://127.0.0.1:8000
"""

import io
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

DOCS = Path(__file__).resolve().parent.parent / "docs"
SCENE = DOCS / "scene.png"


def opened(browser: Browser, url: str, **options: Any) -> Page:
    """The playground in a fresh profile."""
    page = browser.new_context(**({"viewport": {"width": 1200, "height": 760}} | options)).new_page()
    page.goto(url)
    page.wait_for_selector("#model option[value=demo]", state="attached")
    return page


def ask(page: Page, text: str, picture: Path | None = None) -> None:
    """Ask and wait for the answer."""
    if picture is not None:
        page.set_input_files("#files", picture)
        page.wait_for_selector("#attachments img")
    page.fill("#question", text)
    page.keyboard.press("Enter")
    page.wait_for_selector(".turn.last[aria-busy=false]", timeout=120_000)


def conversation(page: Page) -> None:
    """An earlier conversation, and one about a picture."""
    ask(page, "What can you do?")
    page.click("#new")
    ask(page, "What is in this picture?", SCENE)
    ask(page, "How many circles are there?")


def take(page: Page, name: str) -> None:
    """Write a picture of the page."""
    page.mouse.move(600, 4)
    page.wait_for_timeout(400)
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.save(DOCS / name, optimize=True)
    print(f"{name}: {(DOCS / name).stat().st_size / 1000:.0f} kB")


def main(url: str) -> None:
    """All of them."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = opened(browser, url)
        conversation(page)
        take(page, "playground.png")
        page.click("#show-code")
        take(page, "playground-code.png")

        page = opened(browser, url, color_scheme="dark")
        conversation(page)
        page.click("#toggle-settings")
        take(page, "playground-dark.png")

        page = opened(browser, url, viewport={"width": 1200, "height": 600})
        page.click("#think")
        ask(page, "What is in this picture?", SCENE)
        page.click(".turn.last summary")
        page.click("#question")
        take(page, "playground-thinking.png")

        page = opened(browser, url, viewport={"width": 1200, "height": 600})
        page.set_input_files("#files", SCENE)
        page.fill("#question", "What is in this picture?")
        take(page, "playground-picture.png")

        page = opened(browser, url, viewport={"width": 360, "height": 720}, device_scale_factor=2)
        ask(page, "What is in this picture?", SCENE)
        take(page, "playground-narrow.png")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000")
