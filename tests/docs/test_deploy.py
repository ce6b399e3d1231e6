"""The files of deploy/ say what the code says."""

import json
import re
import shutil
import subprocess

import pytest

from app import create_app
from app.settings import Settings
from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"


def test_every_metric_of_the_dashboard_exists_and_every_metric_is_on_it() -> None:
    families = create_app(Settings()).extensions["metrics"].registry.collect()
    there = {
        {"counter": f"{one.name}_total", "histogram": f"{one.name}_bucket"}.get(one.type, one.name)
        for one in families
    }
    panels = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    assert set(re.findall(r"vlserve_[a-z_]+", " ".join(queries))) == there
    for query in queries:
        assert query.count("(") == query.count(")"), query


def test_the_labels_of_the_dashboard_exist() -> None:
    families = create_app(Settings()).extensions["metrics"].registry.collect()
    text = (ROOT / "docs" / "run.md").read_text(encoding="utf-8")
    assert families
    known = {*re.findall(r"`([a-z]+)`", " ".join(re.findall(r"^\| `vlserve_\w+` \|([^|]*)\|", text, re.M)))}
    panels = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))["panels"]
    for target in (target for panel in panels for target in panel["targets"]):
        grouped = {
            name.strip()
            for names in re.findall(r"by \(([^)]*)\)", target["expr"])
            for name in names.split(",")
        }
        shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert grouped | shown <= known | {"le"}, target


def test_nginx_lets_through_what_the_server_takes() -> None:
    site = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    body = re.search(r"client_max_body_size (\d+)m;", site)
    silence = re.search(r"proxy_read_timeout (\d+)s;", site)
    assert body
    assert float(body[1]) > Settings().max_body_mb
    assert silence
    assert float(silence[1]) > Settings().request_timeout
    assert f"server 127.0.0.1:{Settings().port} " in site


def test_the_image_gets_what_it_copies_and_nothing_else() -> None:
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]}
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert "*" in ignored
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_the_unit_waits_longer_than_the_drain_and_is_one() -> None:
    unit = (DEPLOY / "vlserve.service").read_text(encoding="utf-8")
    stop = re.search(r"TimeoutStopSec=(\d+)", unit)
    assert stop
    assert float(stop[1]) > Settings().drain_timeout + 10
    if (tool := shutil.which("systemd-analyze")) is None:
        pytest.skip("systemd-analyze is not installed")
    done = subprocess.run([tool, "verify", DEPLOY / "vlserve.service"], capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if "is not executable" not in line]
    assert not complaints
