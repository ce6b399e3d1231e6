"""Fixtures for all tests: real servers in processes of their own, pictures, and waiting without sleeping."""

import base64
import contextlib
import functools
import io
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import openai
import pytest
import requests
from PIL import Image, ImageDraw

ROOT = pathlib.Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    about = "random requests of each operation that tests/api/test_openapi.py asks schemathesis for"
    parser.addoption("--examples", type=int, default=10, help=about)
    about = "held-out scenes of each skill and language that tests/api/test_tpu.py asks both engines about"
    parser.addoption("--scenes", type=int, default=1, help=about)


def wait_until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Poll until the condition is true and return its value; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.02)
    return value


def as_url(data: bytes, kind: str = "image/png") -> str:
    """Bytes as a data: URL that calls them so."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def png(image: Image.Image) -> bytes:
    """A picture as a file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def data_url(image: Image.Image, kind: str = "PNG", **options: Any) -> str:
    """A picture as a data: URL."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return as_url(buffer.getvalue(), f"image/{kind.lower()}")


def scene(*, colour: str = "red", shape: str = "circle", size: tuple[int, int] = (448, 448)) -> Image.Image:
    """One large object in the middle of a white picture."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    width, height = size
    reach = 0.2 * min(size)
    box = (width / 2 - reach, height / 2 - reach, width / 2 + reach, height / 2 + reach)
    if shape == "circle":
        draw.ellipse(box, fill=colour)
    elif shape == "square":
        draw.rectangle(box, fill=colour)
    else:
        draw.polygon([(width / 2, box[1]), (box[2], box[3]), (box[0], box[3])], fill=colour)
    return image


def asks(text: str, *pictures: Image.Image) -> list[dict[str, Any]]:
    """A conversation of one user message with pictures and a text."""
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": data_url(picture)}} for picture in pictures
    ]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def reset(connection: socket.socket) -> None:
    """Close with a TCP reset, as a killed process does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@dataclass(frozen=True)
class Server:
    """A running vlserve: gunicorn in a process of its own."""

    url: str
    process: subprocess.Popen[str]
    log_file: pathlib.Path

    @functools.cached_property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8")

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=20)

    def post(self, path: str, body: Any, **options: Any) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=60, **options)

    def details(self) -> dict[str, Any]:
        """What /health says about the process."""
        details: dict[str, Any] = self.get("/health").json()["details"]
        return details

    def worker(self) -> int:
        """The process id of gunicorn's worker."""
        return int(re.findall(r"Booting worker with pid: (\d+)", self.log)[-1])


@contextlib.contextmanager
def running(
    folder: pathlib.Path,
    *flags: str,
    env: dict[str, str] | None = None,
    command: Sequence[str] = (sys.executable, "-m", "app", "serve"),
    cwd: pathlib.Path = ROOT,
) -> Iterator[Server]:
    """A server with these flags, ended with the block."""
    log_file = folder / "server.log"
    with log_file.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [*command, "--port", "0", *flags],
            cwd=cwd,
            env={name: value for name, value in os.environ.items() if not name.startswith("VLSERVE_")}
            | {"VLSERVE_DATABASE": str(folder / "vlserve.db")}
            | (env or {}),
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        url = wait_until(lambda: _url(log_file, process), 30)
        wait_until(lambda: _answers(url), 30)
        server = Server(url, process, log_file)
        yield server
        server.client.close()
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _url(log_file: pathlib.Path, process: subprocess.Popen[str]) -> str | None:
    assert process.poll() is None, log_file.read_text(encoding="utf-8")
    found = re.search(r"on (http://\S+)", log_file.read_text(encoding="utf-8"))
    return found[1] if found else None


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=5).ok
    except requests.ConnectionError:
        return False


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server as it starts without flags: the demo model on a free port of 127.0.0.1."""
    with running(tmp_path_factory.mktemp("server"), "--log-level", "DEBUG") as started:
        yield started


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], pathlib.Path]:
    """Folders of tiny random models, by family, built once."""
    from tests import tiny_models

    root = tmp_path_factory.mktemp("models")

    def folder(family: str) -> pathlib.Path:
        path = root / family
        return path if path.exists() else tiny_models.build(family, path)

    return folder


@pytest.fixture(scope="session")
def endless(tiny: Callable[[str], pathlib.Path]) -> pathlib.Path:
    """The folder of a tiny text model whose answers go on until somebody stops them."""
    from tests import tiny_models

    folder = tiny("qwen2").parent / "endless"
    return folder if folder.exists() else tiny_models.make_endless(shutil.copytree(tiny("qwen2"), folder))


@pytest.fixture(scope="session")
def compiled(
    tmp_path_factory: pytest.TempPathFactory, tiny: Callable[[str], pathlib.Path]
) -> Callable[..., pathlib.Path]:
    """Folders of models compiled for the TPU's stand-in: the demo model, or a tiny family, each way once."""
    from tests import tiny_models  # prepares torchvision

    # isort: split
    import torch
    import transformers

    from tests.standin.export import Build, export

    assert tiny_models
    root = tmp_path_factory.mktemp("compiled")

    @functools.cache
    def model(weights: pathlib.Path) -> Any:
        sees = "vision_config" in (weights / "config.json").read_text(encoding="utf-8")
        kind: Any = transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM
        return kind.from_pretrained(weights, dtype=torch.float32).eval()

    def folder(family: str = "demo", **options: Any) -> pathlib.Path:
        weights = ROOT / "models" / "demo" / "weights" if family == "demo" else tiny(family)
        name = "-".join([family, *(f"{option}={value}" for option, value in sorted(options.items()))])
        path = root / re.sub(r"[^\w=-]", "", name)
        return path if path.exists() else export(model(weights), weights, path, Build(**options))

    return folder
