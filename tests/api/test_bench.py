"""python -m app bench at a real server."""

import json
import pathlib
import subprocess
import sys

from tests.conftest import ROOT, Server


def bench(server: Server, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app", "bench", "--url", server.url, *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)


def test_a_mixed_load_is_measured(server: Server, tmp_path: pathlib.Path) -> None:
    files = ("--json", str(tmp_path / "load.json"), "--plot", str(tmp_path / "load.png"))
    done = bench(server, "-c", "4", "-n", "12", "-t", "16", "--case", "mixed", "--seed", "1", *files)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "demo at" in done.stdout
    found = json.loads((tmp_path / "load.json").read_text())
    assert (found["good"], found["tokens"]) == (12, 12 * 16)
    assert 0 < found["ttft_ms"]["p50"] <= found["ttft_ms"]["p99"] <= found["e2e_ms"]["max"]
    assert found["tpot_ms"]["mean"] > 0
    plain, shown = (
        [one["prompt_tokens"] for one in found["answers"] if one["picture"] is kind] for kind in (False, True)
    )
    assert sum(shown) > sum(plain) + 50  # the pictures were seen
    assert (tmp_path / "load.png").stat().st_size > 10_000


def test_requests_arrive_at_a_rate_and_whole_answers_are_timed(server: Server) -> None:
    done = bench(server, "--rate", "20", "-n", "10", "-t", "4", "--no-stream", "--warmup", "0", "--json", "-")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    starts = [one["start"] for one in found["answers"]]
    assert starts == sorted(starts)
    assert starts[-1] > 0.05
    assert found["tokens"] == 40
    assert "ttft_ms" not in found


def test_a_limit_that_is_missed_fails_the_command(server: Server) -> None:
    done = bench(server, "-c", "1", "-n", "2", "-t", "4", "--warmup", "0", "--max-ttft-p95", "0.001")
    assert done.returncode == 1
    assert done.stderr.startswith("missed: --max-ttft-p95 0.001: it was ")


def test_what_the_server_refuses_is_counted_by_kind(server: Server) -> None:
    done = bench(server, "-n", "3", "-t", "999999", "--warmup", "0")
    assert done.returncode == 1
    assert "400 context_length_exceeded" in done.stdout
