"""The load tester: what it sends, what it makes of the answers, and what it says of them."""

import itertools
import json
import pathlib
import random
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from app.bench import command, plot
from app.bench.cases import Case
from app.bench.load import Answer, arrivals, send
from app.bench.report import Limit, figures, quantile, table
from app.client import Remote
from app.settings import SettingsError
from tests.fake_server import CHAT, FakeServer, event, fake_server, says

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    for name in ("VLSERVE_URL", "VLSERVE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with fake_server() as made:
        made.answers[CHAT] = says("a", "b", "c", tokens=4)
        yield made


def bench(fake: FakeServer, *flags: str) -> int:
    return command.main(["-u", fake.url, "-c", "2", "-n", "6", *flags])


def test_a_request_is_the_same_for_the_same_seed_and_number() -> None:
    case = Case("m", "mixed", seed=5)
    assert case.body(3) == Case("m", "mixed", seed=5).body(3)
    texts = [json.dumps(Case("m", seed=seed).body(number)) for seed in (1, 2) for number in (1, 2)]
    assert len(set(texts)) == 4


@pytest.mark.parametrize(
    ("kind", "pictures"), [("text", [0, 0, 0, 0]), ("picture", [1, 1, 1, 1]), ("mixed", [0, 1, 0, 1])]
)
def test_the_kinds_differ_in_their_pictures(kind: str, pictures: list[int]) -> None:
    case = Case("m", kind, image_size=32)
    contents = [case.body(number)["messages"][0]["content"] for number in range(4)]
    assert [int(isinstance(content, list)) for content in contents] == pictures
    urls = [content[0]["image_url"]["url"] for content in contents if isinstance(content, list)]
    assert len(set(urls)) == len(urls)
    same = [Case("m", "picture", image_size=32, same_image=True).body(number) for number in range(2)]
    assert len({body["messages"][0]["content"][0]["image_url"]["url"] for body in same}) == 1


def test_plain_requests_have_openais_fields_only() -> None:
    assert set(Case("m", plain=True).body(0)) == {"messages", "max_tokens", "temperature", "stream", "model"}
    more = Case("m").body(0)
    assert (more["ignore_eos"], more["stream_options"]) == (True, {"include_usage": True})
    assert "stream_options" not in Case("m", stream=False).body(0)


def test_arrivals_come_at_once_or_at_a_rate() -> None:
    assert [*arrivals(3, 0, 1)] == [0, 0, 0]
    times = [*arrivals(4000, 20.0, 1)]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(200, rel=0.05)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert max(gaps) > 4 / 20  # random, not a metronome


def test_a_late_request_counts_from_when_it_was_due(fake: FakeServer) -> None:
    (first, second) = send(Remote(fake.url), Case("m"), [0.0, 0.3], 1)
    assert second.start == pytest.approx(0.3)
    assert first.error == second.error == ""
    crowded = send(Remote(fake.url), Case("m"), [0.0, 0.001, 0.002], 1)
    assert crowded[2].first is not None  # which came after the one before had ended
    assert crowded[2].start + crowded[2].first > crowded[1].start + crowded[1].seconds


def test_the_times_of_a_stream_are_written_down(fake: FakeServer) -> None:
    (answer,) = send(Remote(fake.url), Case("m"), [0.0], 1)
    assert (answer.tokens, answer.prompt_tokens, len(answer.gaps)) == (4, 5, 2)
    assert answer.first is not None
    assert 0 < answer.first < answer.seconds
    assert answer.per_token == pytest.approx((answer.seconds - answer.first) / 3)


def test_without_usage_pieces_are_counted_and_thoughts_are_pieces(fake: FakeServer) -> None:
    fake.answers[CHAT] = (200, [event(reasoning_content="Hm"), event(content="a"), b"data: [DONE]\n\n"])
    (answer,) = send(Remote(fake.url), Case("m"), [0.0], 1)
    assert (answer.tokens, answer.error) == (2, "")


def test_a_whole_answer_has_no_first_token(fake: FakeServer) -> None:
    fake.answers[CHAT] = (200, {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 9}})
    (answer,) = send(Remote(fake.url), Case("m", stream=False), [0.0], 1)
    assert (answer.tokens, answer.prompt_tokens, answer.first, answer.per_token) == (9, 3, None, None)


def answers() -> list[Answer]:
    """Ten good ones of 1 to 10 s, a second apart, and two bad ones."""
    good = [
        Answer(
            number, start=number, first=number / 10, seconds=number, tokens=11, prompt_tokens=5, gaps=[0.5]
        )
        for number in range(1, 11)
    ]
    return [*good, Answer(11, 1.0, seconds=0.1, error="429 overloaded"), Answer(12, 1.0, error="timed out")]


def test_the_figures_are_those_of_the_answers() -> None:
    found = figures(answers())
    assert found["seconds"] == 19
    assert found["tokens_per_s"] == pytest.approx(110 / 19, abs=0.01)
    assert (found["good"], found["errors"]) == (10, 2)
    assert found["errors_by_kind"] == {"429 overloaded": 1, "timed out": 1}
    assert found["ttft_ms"] == {
        "mean": 550, "p50": 500, "p90": 900, "p95": 1000, "p99": 1000, "max": 1000
    }  # fmt: skip
    assert found["e2e_ms"]["p90"] == 9000
    assert found["tpot_ms"]["p50"] == pytest.approx(1000 * (5 - 0.5) / 10)
    assert found["gap_ms"]["max"] == 500
    assert figures([])["good"] == 0


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99])
def test_a_quantile_is_not_exceeded_by_its_share_and_no_less_value_is(count: int, share: float) -> None:
    values = sorted(random.Random(count).random() for _ in range(count))
    found = quantile(values, share)
    assert sum(value <= found for value in values) >= share * count
    assert sum(value < found for value in values) < share * count


def test_the_table_has_a_row_for_what_was_measured() -> None:
    text = table(figures(answers()))
    row = re.search(r"time to first token, ms +([\d. ]+)", text)
    assert row is not None
    assert row[1].split() == ["550.0", "500.0", "900.0", "1000.0", "1000.0", "1000.0"]
    assert "429 overloaded" in text
    whole = figures([Answer(0, seconds=1.0, tokens=3)])
    assert "first token" not in table(whole)


@pytest.mark.parametrize(
    ("flag", "value", "missed"),
    [
        ("--max-ttft-p95", 1000, ""),
        ("--max-ttft-p95", 999, "--max-ttft-p95 999: it was 1000"),
        ("--min-tokens-per-s", 5, ""),
        ("--min-tokens-per-s", 6, "--min-tokens-per-s 6: it was 5.79"),
        ("--max-errors", 2, ""),
        ("--max-errors", 1, "--max-errors 1: it was 2"),
    ],
)
def test_a_limit_is_missed_by_what_is_beyond_it(flag: str, value: float, missed: str) -> None:
    assert Limit(flag, value, command.LIMITS[flag]).missed(figures(answers())) == missed


def test_a_figure_that_is_not_there_misses_its_limit() -> None:
    assert "no such figure" in Limit("--max-ttft-p95", 1, ("ttft_ms", "p95")).missed(figures([]))


def test_the_command_reports_and_writes_json(
    fake: FakeServer, capsys: Captured, tmp_path: pathlib.Path
) -> None:
    assert bench(fake, "--json", str(tmp_path / "out.json"), "-t", "7", "--case", "mixed", "--seed", "3") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"fake at {fake.url}: mixed, 2 at once, 7 tokens each\n")
    assert re.search(r"^requests +6$", out, re.MULTILINE)
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["good"], found["tokens"], found["case"]["seed"], found["server"]) == (6, 24, 3, fake.url)
    assert [answer["number"] for answer in found["answers"]] == [0, 1, 2, 3, 4, 5]
    assert [answer["picture"] for answer in found["answers"]] == [False, True] * 3
    assert {body["max_tokens"] for body in fake.bodies()} == {7}
    assert len(fake.bodies()) == 6 + 2  # two to warm up


def test_json_to_standard_output_is_alone_there(fake: FakeServer, capsys: Captured) -> None:
    assert bench(fake, "--json", "-", "--warmup", "0") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["good"] == 6
    assert "time to first token" in captured.err


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("--max-errors", "0", "--max-e2e-p99", "60000", "--min-tokens-per-s", "0.1"), 0, ""),
        (("--max-ttft-p50", "0"), 1, "missed: --max-ttft-p50 0: it was "),
    ],
)
def test_a_missed_limit_is_the_exit_code(
    fake: FakeServer, capsys: Captured, flags: tuple[str, ...], code: int, said: str
) -> None:
    assert bench(fake, *flags) == code
    assert said in capsys.readouterr().err


def test_a_limit_that_only_a_stream_can_have_is_refused_before_the_load(fake: FakeServer) -> None:
    with pytest.raises(SettingsError, match="--max-ttft-p95: only a stream"):
        bench(fake, "--no-stream", "--max-ttft-p95", "100")
    assert fake.requests == []


def test_errors_are_counted_by_kind_and_shown_with_an_example(fake: FakeServer, capsys: Captured) -> None:
    fake.answers[CHAT] = (429, {"error": {"message": "Come later.", "code": "overloaded"}})
    assert bench(fake, "--warmup", "0") == 1
    out = capsys.readouterr().out
    assert re.search(r"429 overloaded +6$", out, re.MULTILINE)
    assert "429 overloaded: Come later." in out


def test_a_warm_up_that_fails_ends_it(fake: FakeServer, capsys: Captured) -> None:
    fake.answers[CHAT] = (404, {"error": {"message": "No such model.", "code": "model_not_found"}})
    assert bench(fake) == 1
    captured = capsys.readouterr()
    assert captured.err == "vlserve: the warm-up failed: No such model.\n"
    assert len(fake.bodies()) == 2


def test_ctrl_c_reports_what_there_is(
    fake: FakeServer, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = 0

    def progress(total: int, what: str) -> Any:
        def show(answer: Answer) -> None:
            nonlocal finished
            finished += 1
            if finished == 4:  # two to warm up, two that count
                raise KeyboardInterrupt

        return show, lambda: None

    monkeypatch.setattr(command, "_progress", progress)
    assert bench(fake, "-n", "500", "--max-errors", "0") == 130
    captured = capsys.readouterr()
    assert "interrupted after 2 of 500 requests" in captured.err
    assert re.search(r"^requests +2$", captured.out, re.MULTILINE)
    finished = 3
    assert bench(fake) == 130


def test_no_server_is_one_clear_line(capsys: Captured) -> None:
    assert command.main(["-u", "http://127.0.0.1:1"]) == 1
    assert "no server answers at http://127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (("-c", "0"), ["-c", "1 to 2000"]),
        (("-n", "many"), ["-n", "whole number"]),
        (("--case", "film"), ["--case", "picture"]),
        (("--rats", "1"), ["--rats", "--rate"]),
        (("--max-ttft-p96", "1"), ["--max-ttft-p9"]),
        (("--json", "/no/such/folder/a.json"), ["/no/such/folder/a.json"]),
    ],
)
def test_a_wrong_flag_is_refused_before_anything_is_sent(
    fake: FakeServer, flags: tuple[str, ...], parts: list[str]
) -> None:
    with pytest.raises(SettingsError) as caught:
        bench(fake, *flags)
    assert all(part in str(caught.value) for part in parts), caught.value
    assert fake.requests == []


def test_a_plot_is_a_png(fake: FakeServer, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("matplotlib")
    plot.draw(answers(), "ten", str(tmp_path / "a.png"))
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert bench(fake, "--plot", str(tmp_path / "b.png")) == 0
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_a_plot_is_refused_with_what_to_do(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SettingsError, match="pip install matplotlib"):
        bench(fake, "--plot", "a.png")
    assert fake.requests == []


def test_old_spellings_of_flags_are_taken(fake: FakeServer) -> None:
    assert (
        bench(fake, "-s", "-t", "3", "--api_key", "sk-1", "--api_header", "X-API-Key", "--max_errors", "0")
        == 0
    )
    sent: Any = fake.requests[-1][1]
    assert sent["X-API-Key"] == "sk-1"
