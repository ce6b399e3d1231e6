"""Pictures and videos: chosen, pasted and dropped; what is sent of them, and what is refused before."""

import base64
import pathlib
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests import clips
from tests.browser.conftest import Playground
from tests.browser.stage import Stage, says
from tests.conftest import ROOT, Server, scene

Open = Callable[..., Playground]

TRANSFER = """({ name, type, bytes, event, padding }) => {
  const transfer = new DataTransfer();
  const content = [Uint8Array.from(atob(bytes), (one) => one.charCodeAt(0)), new Uint8Array(padding)];
  transfer.items.add(new File(content, name, { type }));
  const made = event === "paste"
    ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true })
    : new DragEvent(event, { dataTransfer: transfer, bubbles: true, cancelable: true });
  document.getElementById("question").dispatchEvent(made);
}"""


def give(playground: Playground, event: str, name: str, kind: str, content: bytes, padding: int = 0) -> None:
    """Paste or drop a file, with so many zeros at its end."""
    data = {"name": name, "type": kind, "bytes": base64.b64encode(content).decode(), "event": event}
    playground.evaluate(TRANSFER, data | {"padding": padding})


@pytest.fixture
def picture(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "red circle.png"
    scene().save(path)
    return path


@pytest.mark.parametrize("how", ["choose", "paste", "drop"])
def test_the_model_sees_a_picture(open_page: Open, server: Server, picture: pathlib.Path, how: str) -> None:
    playground = open_page(server.url)
    if how == "choose":
        playground.page.set_input_files("#files", picture)
    elif how == "drop":
        give(playground, "dragover", picture.name, "image/png", picture.read_bytes())
        expect(playground.page.locator("#drop")).to_be_visible()
        give(playground, "drop", picture.name, "image/png", picture.read_bytes())
        expect(playground.page.locator("#drop")).to_be_hidden()
    else:
        give(playground, "paste", "image.png", "image/png", picture.read_bytes())
    expect(playground.page.locator("#attachments img")).to_have_js_property("naturalWidth", 448)
    expect(playground.ask("What is in this picture?")).to_contain_text("red circle")
    expect(playground.page.locator("#attachments")).to_be_hidden()
    expect(playground.page.locator(".question img")).to_be_visible()


def test_the_sample_picture_is_described(open_page: Open, server: Server) -> None:
    playground = open_page(server.url)
    playground.page.click("[data-idea=picture]")
    expect(playground.content).to_contain_text("red circle", timeout=60_000)
    expect(playground.content).to_contain_text("blue square")
    playground.ended()
    assert "of pictures" in str(playground.last.locator(".figures").get_attribute("title"))


def test_the_bytes_are_sent_as_they_are(playground: Playground, stage: Stage, tmp_path: pathlib.Path) -> None:
    stage.plays(*says("Nice."))
    path = tmp_path / "photo.jpg"
    scene().save(path)
    playground.page.set_input_files("#files", [path, ROOT / "docs" / "scene.png"])
    expect(playground.page.locator("#attachments li")).to_have_count(2)
    playground.ask("And?")
    first, second, text = stage.asked[-1]["messages"][0]["content"]
    for part, kind, file in ((first, "jpeg", path), (second, "png", ROOT / "docs" / "scene.png")):
        url = f"data:image/{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
        assert part == {"type": "image_url", "image_url": {"url": url}}
    assert text == {"type": "text", "text": "And?"}


@pytest.mark.parametrize(
    ("name", "given", "kind"),
    [("a.mp4", "video/mp4", "video/mp4"), ("a.mkv", "", "video/x-matroska"), ("a.FLV", "", "video/x-flv")],
)
def test_a_video_is_sent_as_one(
    playground: Playground, stage: Stage, name: str, given: str, kind: str
) -> None:
    stage.plays(*says("It moves."))
    give(playground, "drop", name, given, b"no real video")
    expect(playground.page.locator("#attachments li")).to_have_count(1)
    playground.page.click("#send")
    playground.ended()
    (part,) = stage.asked[-1]["messages"][0]["content"]
    assert part["video_url"]["url"] == f"data:{kind};base64,{base64.b64encode(b'no real video').decode()}"
    expect(playground.page.locator(".question .file")).to_have_text(name)  # chromium cannot show it


@pytest.mark.parametrize(("kind", "is_shown"), [("webm", True), ("avi", False)])
def test_the_model_sees_a_video(
    open_page: Open, server: Server, tmp_path: pathlib.Path, kind: str, is_shown: bool
) -> None:
    """Also one that the browser itself cannot play: its name stands in its place."""
    path = tmp_path / f"clip.{kind}"
    path.write_bytes(clips.video(clips.moving("up"), kind))
    playground = open_page(server.url)
    playground.page.set_input_files("#files", path)
    expect(playground.ask("What happens in this video?")).to_contain_text("red circle moves up")
    expect(playground.page.locator(".question video")).to_have_count(int(is_shown))
    expect(playground.page.locator(".question .file")).to_have_count(int(not is_shown))
    assert "of videos" in str(playground.last.locator(".figures").get_attribute("title"))


def test_a_broken_video_is_an_error_in_the_servers_words(open_page: Open, server: Server) -> None:
    playground = open_page(server.url)
    give(playground, "drop", "a.mp4", "video/mp4", b"no real video")
    playground.ask("What happens?")
    expect(playground.last.locator(".failure .details")).to_contain_text("HTTP 400")


def test_what_the_server_does_not_read_is_turned_into_png(
    playground: Playground, stage: Stage, tmp_path: pathlib.Path
) -> None:
    stage.plays(*says("Converted."))
    path = tmp_path / "photo.avif"
    scene().save(path, "AVIF")
    playground.page.set_input_files("#files", path)
    expect(playground.page.locator("#attachments img")).to_have_js_property("naturalWidth", 448)
    playground.ask("And?")
    assert stage.asked[-1]["messages"][0]["content"][0]["image_url"]["url"].startswith(
        "data:image/png;base64,iVBOR"
    )


def test_an_attachment_can_be_removed(playground: Playground, stage: Stage, picture: pathlib.Path) -> None:
    stage.plays(*says("Text only."))
    playground.page.set_input_files("#files", picture)
    playground.page.get_by_role("button", name="Remove red circle.png").click()
    expect(playground.page.locator("#attachments")).to_be_hidden()
    expect(playground.page.locator("#send")).to_be_disabled()
    playground.ask("Hello")
    assert stage.asked[-1]["messages"][0]["content"] == "Hello"


@pytest.mark.parametrize(
    ("name", "kind", "padding", "words"),
    [
        ("notes.pdf", "application/pdf", 9, "notes.pdf is neither a picture nor a video."),
        ("broken.heic", "image/heic", 9, "broken.heic is of a kind that this browser cannot read"),
        (
            "large.png",
            "image/png",
            13 << 20,
            "large.png is too large: this server takes about 12 MB",
        ),
    ],
)
def test_what_cannot_be_sent_is_refused_in_words(
    playground: Playground, name: str, kind: str, padding: int, words: str
) -> None:
    give(playground, "paste", name, kind, b"x", padding)
    expect(playground.page.locator("#notice")).to_contain_text(words)
    expect(playground.page.locator("#attachments")).to_be_hidden()


def test_what_a_conversation_has_shown_counts_against_the_limit(playground: Playground, stage: Stage) -> None:
    stage.plays(*says("Large."))
    seven = ("paste", "large.png", "image/png", b"x", 7 << 20)
    give(playground, *seven)
    playground.ask("And this?")
    give(playground, *seven)
    expect(playground.page.locator("#notice")).to_contain_text(
        "large.png is too large here: this server takes"
    )
    expect(playground.page.locator("#attachments")).to_be_hidden()
    playground.page.click("#new")
    give(playground, *seven)
    expect(playground.page.locator("#attachments li")).to_have_count(1)


def test_pasted_text_stays_text(playground: Playground) -> None:
    playground.page.click("#question")
    playground.evaluate("navigator.clipboard.writeText('two\\nlines')")
    playground.page.keyboard.press("Control+V")
    expect(playground.page.locator("#question")).to_have_value("two\nlines")


def test_a_table_that_is_pasted_comes_as_text_and_as_a_picture(
    playground: Playground, picture: pathlib.Path
) -> None:
    playground.page.click("#question")
    playground.evaluate(
        """async (bytes) => {
          const of = (type, content) => ({ [type]: new Blob([content], { type }) });
          const png = of("image/png", Uint8Array.from(atob(bytes), (one) => one.charCodeAt(0)));
          const texts = { ...of("text/plain", "1\t2"), ...of("text/html", "<td>1<td>2") };
          await navigator.clipboard.write([new ClipboardItem({ ...png, ...texts })]);
        }""",
        base64.b64encode(picture.read_bytes()).decode(),
    )
    playground.page.keyboard.press("Control+V")
    expect(playground.page.locator("#attachments img")).to_have_js_property("naturalWidth", 448)
    expect(playground.page.locator("#question")).to_have_value("1\t2")


def test_an_edited_question_has_its_pictures_again(
    playground: Playground, stage: Stage, picture: pathlib.Path
) -> None:
    stage.plays(*says("Red."))
    playground.page.set_input_files("#files", picture)
    playground.ask("Colour?")
    playground.page.locator(".turn.last .question").hover()
    playground.do("edit")
    expect(playground.page.locator("#attachments img")).to_have_js_property("naturalWidth", 448)
