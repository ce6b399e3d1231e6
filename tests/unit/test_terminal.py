"""The terminal client: what it sends, shows and keeps."""

import base64
import io
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from app import terminal
from app.client import Remote
from app.talk import Screen, Talk
from tests.conftest import ROOT
from tests.fake_server import CHAT, STATUS, FakeServer, event, fake_server, says

Captured = pytest.CaptureFixture[str]


class Tty(io.StringIO):
    """A terminal, as far as colours go."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    for name in ("VLSERVE_URL", "VLSERVE_API_KEY", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with fake_server() as made:
        made.answers[CHAT] = says("Hel", "lo.")
        yield made


@pytest.fixture
def picture(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "a picture.png"
    path.write_bytes((ROOT / "docs" / "scene.png").read_bytes())
    return path


def chat(fake: FakeServer, monkeypatch: pytest.MonkeyPatch, *lines: str, flags: tuple[str, ...] = ()) -> int:
    """The exit code of a chat whose lines come from a pipe."""
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    return terminal.main(["--url", fake.url, *flags])


def test_messages_and_answers_make_a_conversation(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert chat(fake, monkeypatch, "One", "", "Two", "quit", "Three", flags=("--system", "Be brief")) == 0
    first, second = (body["messages"] for body in fake.bodies())
    assert first == [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "One"}]
    assert second[2:] == [{"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Two"}]
    assert [body["model"] for body in fake.bodies()] == ["fake", "fake"]
    assert capsys.readouterr().out == "Hello.\nHello.\n"


@pytest.mark.parametrize("word", ["reset", "/reset", " Reset ".strip()])
def test_reset_forgets_the_conversation(fake: FakeServer, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    assert chat(fake, monkeypatch, "One", word, "Two") == 0
    assert fake.bodies()[1]["messages"] == [{"role": "user", "content": "Two"}]


def test_a_command_with_words_behind_it_is_a_message(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chat(fake, monkeypatch, "reset the clock", " /etc is a folder") == 0
    asked = [body["messages"][-1]["content"] for body in fake.bodies()]
    assert asked == ["reset the clock", "/etc is a folder"]


@pytest.mark.parametrize("form", ["{}", "'{}'", '"{}"', "file://{}"])
def test_a_picture_goes_with_the_next_message_only(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, picture: pathlib.Path, form: str
) -> None:
    path = form.format(picture)
    if form.startswith("file"):
        path = f"'{path}'"
    assert chat(fake, monkeypatch, f"/image {path}", "What is it?", "And now?") == 0
    first, second = (body["messages"][-1]["content"] for body in fake.bodies())
    kind, data = first[0]["image_url"]["url"].split(",")
    assert (first[0]["type"], kind) == ("image_url", "data:image/png;base64")
    assert base64.b64decode(data) == picture.read_bytes()
    assert first[1] == {"type": "text", "text": "What is it?"}
    assert second == "And now?"


def test_pictures_and_videos_go_together_and_addresses_as_they_are(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "a.mov").write_bytes(b"film")
    (tmp_path / "b.jpg").write_bytes(b"picture")
    (tmp_path / "c").write_bytes(b"picture")
    lines = [
        f"/video {tmp_path}/a.mov",
        f"/image {tmp_path}/b.jpg {tmp_path}/c",
        "/image https://e.example/d.png",
    ]
    assert chat(fake, monkeypatch, *lines, "What is it?") == 0
    parts = fake.bodies()[0]["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["video_url", "image_url", "image_url", "image_url", "text"]
    assert parts[0]["video_url"]["url"] == "data:video/quicktime;base64,ZmlsbQ=="
    assert parts[1]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert parts[2]["image_url"]["url"].startswith("data:image/png;base64,")
    assert parts[3]["image_url"]["url"] == "https://e.example/d.png"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/image /no/such.png", "/no/such.png: No such file"),
        ("/image .", "Is a directory"),
        ("/image", "which one?"),
        ("/imagine x", "did you mean /image?"),
        ("/rest", "did you mean /reset?"),
        ("/zzz", "help lists them"),
    ],
)
def test_a_wrong_command_says_what_is_wrong_and_sends_nothing(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: Captured, line: str, said: str
) -> None:
    assert chat(fake, monkeypatch, line) == 1
    assert said in capsys.readouterr().out
    assert fake.bodies() == []


def test_thinking_is_switched(fake: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    lines = ["a", "/think on", "b", "/think off", "c", "/think maybe", "/think"]
    assert chat(fake, monkeypatch, *lines) == 0
    assert [body.get("enable_thinking") for body in fake.bodies()] == [None, True, False]
    out = capsys.readouterr().out
    assert "/think maybe: it is /think on or /think off" in out
    assert out.endswith("thinking is off\n")


def talk(fake: FakeServer, screen: Screen) -> Talk:
    return Talk(Remote(fake.url), "fake", screen)


def test_a_thought_is_dim_and_the_answer_is_not(fake: FakeServer) -> None:
    status, (_, *rest) = says("An", "swer")
    thoughts = [event(reasoning_content="Hm"), event(reasoning_content="m.")]
    fake.answers[CHAT] = (status, [*thoughts, *rest])
    screen = Screen(Tty())
    conversation = talk(fake, screen)
    assert conversation.say("hi")
    shown = screen.out.getvalue()  # type: ignore[attr-defined]
    assert shown.startswith("\x1b[2mHmm.\n\x1b[0mAnswer\n\x1b[2m2 tokens, the first after ")
    assert conversation.messages[-1] == {"role": "assistant", "content": "Answer"}
    plain = Screen(io.StringIO())
    talk(fake, plain).say("hi")
    assert plain.out.getvalue() == "[thinking]\nHmm.\n[answer]\nAnswer\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_who_wants_no_colours_gets_none(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    screen = Screen(Tty())
    talk(fake, screen).say("hi")
    assert screen.out.getvalue() == "Hello.\n"  # type: ignore[attr-defined]


def test_an_answer_cannot_steer_the_terminal(fake: FakeServer) -> None:
    fake.answers[CHAT] = says("a\x1b]0;title\x07b", "\x9b2Jc\r\nd\te")
    screen = Screen(io.StringIO())
    talk(fake, screen).say("hi")
    assert screen.out.getvalue() == "a]0;titleb2Jc\nd\te\n"  # type: ignore[attr-defined]


def test_an_answer_that_the_limit_cut_says_so(fake: FakeServer) -> None:
    fake.answers[CHAT] = says("Hel", reason="length")
    screen = Screen(io.StringIO())
    talk(fake, screen).say("hi")
    assert "cut by the limit of tokens" in screen.out.getvalue()  # type: ignore[attr-defined]


def test_a_failed_message_is_forgotten_and_its_picture_stays(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: Captured, picture: pathlib.Path
) -> None:
    conversation = talk(fake, Screen())
    conversation.say("One")
    fake.answers[CHAT] = (400, {"error": {"message": "too long", "code": "context_length_exceeded"}})
    assert conversation.attach("image", str(picture))
    assert not conversation.say("Two")
    assert [message["content"] for message in conversation.messages] == ["One", "Hello."]
    assert len(conversation.attached) == 1
    out = capsys.readouterr().out
    assert "error: too long" in out
    assert "reset forgets the conversation" in out


def test_a_file_that_is_refused_does_not_spoil_the_next_message(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: Captured, picture: pathlib.Path
) -> None:
    fake.answers[CHAT] = (400, {"error": {"message": "no picture", "code": "invalid_value"}})
    assert chat(fake, monkeypatch, f"/image {picture}", "What is it?", "hello") == 1
    assert [body["messages"][-1]["content"] for body in fake.bodies()][1:] == ["hello"]
    assert "the files are put away" in capsys.readouterr().out


def test_an_interrupted_answer_is_kept_as_far_as_it_came(fake: FakeServer, capsys: Captured) -> None:
    class Interrupts(Screen):
        def write(self, text: str, *, thought: bool = False) -> None:
            super().write(text, thought=thought)
            if text == "lo.":
                raise KeyboardInterrupt

    conversation = talk(fake, Interrupts())
    assert not conversation.say("hi")
    assert conversation.messages[1:] == [{"role": "assistant", "content": "Hel"}]
    assert capsys.readouterr().out == "Hello.\n(stopped)\n"


def test_one_message_may_be_a_flag(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: Captured, picture: pathlib.Path
) -> None:
    flags = ["--url", fake.url, "--image", str(picture), "-m", "other", "-t", "9", "--temperature", "0"]
    assert terminal.main([*flags, "--think", "off", "What", "is it?"]) == 0
    (body,) = fake.bodies()
    assert body["messages"][0]["content"][-1] == {"type": "text", "text": "What is it?"}
    asked = {name: body[name] for name in ("model", "max_tokens", "temperature", "enable_thinking")}
    assert asked == {"model": "other", "max_tokens": 9, "temperature": 0.0, "enable_thinking": False}
    assert capsys.readouterr().out == "Hello.\n"
    fake.answers[CHAT] = (500, {"error": {"message": "oh"}})
    assert terminal.main(["--url", fake.url, "hi"]) == 1
    assert terminal.main(["--url", fake.url, "--image", "/no/such.png", "hi"]) == 1


def test_status_tells_the_model_and_the_conversation(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    fake.answers["/status"] = (200, STATUS | {"running": 3, "waiting": 4, "memory_allocated": 26_000_000})
    assert chat(fake, monkeypatch, "hi", "status") == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines == [
        f"server     {fake.url}, model fake",
        "default    fake, on cpu, 26 MB of weights",
        "answers    3 running, 4 waiting",
        "messages   2, 0 files with the next one",
    ]


def test_other_servers_with_the_api_work_as_well(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    fake.answers = {CHAT: says("Hi"), "/v1/models": (200, {"data": [{"id": "theirs"}]})}
    assert chat(fake, monkeypatch, "hi", "status") == 0
    assert fake.bodies()[0]["model"] == "theirs"
    assert "messages   2" in capsys.readouterr().out


def test_no_server_is_one_clear_line(capsys: Captured) -> None:
    assert terminal.main(["--url", "http://127.0.0.1:1"]) == 1
    error = capsys.readouterr().err
    assert "no server answers at http://127.0.0.1:1" in error
    assert "./start_api.sh" in error
    assert error.count("\n") == 1


def test_a_missing_key_is_told_at_the_start(fake: FakeServer, capsys: Captured) -> None:
    fake.answers["/status"] = (401, {"error": {"message": "No key.", "code": "invalid_api_key"}})
    assert terminal.main(["--url", fake.url]) == 1
    assert "No key. The flags --api-key" in capsys.readouterr().err


def test_help_lists_the_commands(fake: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    assert chat(fake, monkeypatch, "help") == 0
    out = capsys.readouterr().out
    assert all(usage in out for usage, _ in terminal.COMMANDS.values())


@pytest.mark.parametrize(
    ("begin", "text", "found"),
    [(0, "/im", ["/image "]), (0, "re", ["reset "]), (7, "{}/a", ["{}/ab.png", "{}/ac/"]), (0, "x", [])],
)
def test_tab_completes_commands_and_paths(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, begin: int, text: str, found: list[str]
) -> None:
    (tmp_path / "ab.png").touch()
    (tmp_path / "ac").mkdir()
    monkeypatch.setattr(terminal.readline, "get_begidx", lambda: begin)
    complete: Any = terminal._completer()
    offered = [complete(text.format(tmp_path), number) for number in range(len(found) + 1)]
    assert offered == [*(one.format(tmp_path) for one in found), None]
