"""View code: what it shows is run, by bash and by Python, against the server."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Playground
from tests.browser.stage import Stage, says, served
from tests.conftest import Server, running, scene

Open = Callable[..., Playground]
KEY = "sk-right-key"
NASTY = "Say 'yes', \"no\" \\ `touch trap` $(touch trap) $HOME ${x}\n<<JSON\nJSON\n😀 你好 </script> \x07"


def code(playground: Playground, language: str) -> str:
    """What the dialog shows."""
    playground.page.click("#show-code")
    playground.page.get_by_text(language, exact=True).click()
    shown = playground.page.locator("#snippet").inner_text()
    playground.page.click("#copy-code")
    assert playground.evaluate("navigator.clipboard.readText()").rstrip() == shown.rstrip()
    playground.page.keyboard.press("Escape")
    expect(playground.page.locator("#code")).to_be_hidden()
    return shown


def run(language: str, shown: str, folder: pathlib.Path) -> str:
    """What it prints, pasted."""
    command = ["bash", "-c", shown] if language == "curl" else [sys.executable, "-c", shown]
    environment = os.environ | {"VLSERVE_API_KEY": KEY}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=100)
    assert done.returncode == 0, done.stderr
    if language == "Python":
        return done.stdout
    events = [json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith("data: {")]
    return "".join(event["choices"][0]["delta"].get("content", "") for event in events if event["choices"])


@pytest.mark.parametrize("language", ["curl", "Python"])
def test_the_code_of_a_picture_runs_and_sees_it(
    open_page: Open, server: Server, tmp_path: pathlib.Path, language: str
) -> None:
    name = 'it\'s "red" $(touch trap) `x`.png'
    scene().save(tmp_path / name)
    playground = open_page(server.url)
    playground.page.set_input_files("#files", tmp_path / name)
    playground.ask("What is in this picture?")
    printed = run(language, code(playground, language), tmp_path)
    assert "red circle" in printed
    assert printed.strip() == playground.content.inner_text().strip()
    assert not (tmp_path / "trap").exists()


def test_it_is_copied_from_a_page_that_has_no_clipboard(playground: Playground) -> None:
    """As any page has none that is neither of this machine nor over TLS."""
    playground.evaluate("navigator.clipboard.writeText('before')")
    playground.evaluate("void (navigator.clipboard.writeText = () => Promise.reject(new Error('insecure')))")
    assert "curl" in code(playground, "curl")
    assert "openai" in code(playground, "Python")


@pytest.mark.parametrize("language", ["curl", "Python"])
@pytest.mark.parametrize("with_file", [False, True])
def test_the_code_sends_the_same_request_to_the_letter(
    playground: Playground, stage: Stage, tmp_path: pathlib.Path, language: str, with_file: bool
) -> None:
    scene().save(tmp_path / "a.png")
    stage.plays(*says("Yes `$(touch trap)`."))
    page = playground.page
    page.click("#toggle-settings")
    for name, value in {"temperature": "0.5", "seed": "11", "system": NASTY}.items():
        page.fill(f"[name={name}]", value)
    page.click("#think")
    if with_file:
        page.set_input_files("#files", tmp_path / "a.png")
    playground.ask(NASTY)
    playground.ask("More")
    shown = code(playground, language)
    assert ("base64" in shown) == with_file
    assert run(language, shown, tmp_path) == "Yes `$(touch trap)`." + ("\n" if language == "Python" else "")
    by_page, by_code = stage.asked[-2:]
    assert by_page["enable_thinking"] is True
    assert by_code == by_page
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    "flags",
    [(), ("--api-header", "X-Api-Key", "--api-prefix", "none"), ("--api-prefix", "Token")],
    ids=["bearer", "own-header", "own-word"],
)
def test_the_code_takes_the_key_from_a_variable(
    open_page: Open, tmp_path_factory: pytest.TempPathFactory, flags: tuple[str, ...]
) -> None:
    folder = tmp_path_factory.mktemp("keyed")
    with running(folder, "--api-key", KEY, *flags) as server, served(server.url) as stage:
        stage.plays(*says("Let in."))
        playground = open_page(stage.url)
        playground.page.fill("#key", KEY)
        playground.page.keyboard.press("Tab")
        expect(playground.page.locator("#model")).to_have_value("demo")
        playground.write("Who are you?")  # what is not sent yet counts as well
        for language in ("curl", "Python"):
            shown = code(playground, language)
            assert KEY not in shown
            assert "Let in." in run(language, shown, folder)


def test_two_files_of_one_name_get_two(playground: Playground, stage: Stage, tmp_path: pathlib.Path) -> None:
    stage.plays(*says("Two."))
    for colour in ("red", "blue"):
        (tmp_path / colour).mkdir()
        scene(colour=colour).save(tmp_path / colour / "image.png")
        playground.page.set_input_files("#files", tmp_path / colour / "image.png")
    playground.ask("What is the difference?")
    shown = code(playground, "Python")
    assert 'data_url("image/png", "image.png")' in shown
    assert 'data_url("image/png", "image-2.png")' in shown
    playground.page.click("#show-code")
    with playground.page.expect_download() as download:
        playground.page.get_by_role("link", name="image-2.png").click()
    assert pathlib.Path(download.value.path()).read_bytes() == (tmp_path / "blue" / "image.png").read_bytes()


def test_a_text_cannot_name_a_file_to_be_read(playground: Playground) -> None:
    playground.write("media-1-2:image/png:/etc/passwd")
    for language in ("curl", "Python"):
        shown = code(playground, language)
        assert '"media-1-2:image/png:/etc/passwd"' in shown
        assert "base64" not in shown
