"""A chat in the terminal, short enough to copy (pip install requests). `python -m app chat` is the whole one.

usage: python examples/api_client_example.py
Type a message, /image PATH, /video PATH, /think on|off, reset, status or quit; Ctrl-C stops an answer.
"""

import base64
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests

with suppress(ImportError):
    import readline  # noqa: F401 - input() then has line editing and a history

URL = os.environ.get("VLSERVE_URL", "http://127.0.0.1:8000")
KEY = {"Authorization": f"Bearer {os.environ['VLSERVE_API_KEY']}"} if "VLSERVE_API_KEY" in os.environ else {}


def answer(messages: list[dict[str, Any]], thinking: bool) -> str:
    """Print the answer as it comes; returns what came, also if Ctrl-C stopped it, here and at the server."""
    body = {"messages": messages, "stream": True, "enable_thinking": thinking}
    said = ""
    with requests.post(f"{URL}/v1/chat/completions", json=body, headers=KEY, stream=True, timeout=600) as got:
        try:
            if not got.ok:
                print("error:", got.json()["error"]["message"])
                return said
            for line in got.iter_lines():
                if line.startswith(b"data: {"):
                    event = json.loads(line[6:])
                    if "error" in event:
                        print("\nerror:", event["error"]["message"])
                        break
                    for choice in event["choices"]:
                        thought = choice["delta"].get("reasoning_content") or ""
                        text = choice["delta"].get("content") or ""
                        gap = "\n" * bool(text and thinking and not said)
                        print(f"\033[2m{thought}\033[0m" if thought else gap + text, end="", flush=True)
                        said += text
        except KeyboardInterrupt:
            print(" (stopped)", end="")
    print()
    return said


def shown(kind: str, path: str) -> dict[str, Any]:
    """The part of a message that shows a file, an image or a video; its bytes say of what format."""
    data = base64.b64encode(Path(path).expanduser().read_bytes()).decode()
    return {"type": f"{kind}_url", f"{kind}_url": {"url": f"data:{kind}/any;base64,{data}"}}


def main() -> None:
    """Read lines until quit."""
    messages: list[dict[str, Any]] = []
    files: list[dict[str, Any]] = []
    thinking = False
    while (line := input("> ").strip()) != "quit":
        word, _, rest = line.partition(" ")
        if line == "reset":
            messages, files = [], []
        elif line == "status":
            print(requests.get(f"{URL}/status", headers=KEY, timeout=20).json())
        elif word == "/think":
            thinking = rest == "on"
        elif word in ("/image", "/video"):
            try:
                files.append(shown(word[1:], rest))
            except OSError as error:
                print(error)
        elif line:
            messages.append({"role": "user", "content": [*files, {"type": "text", "text": line}]})
            files = []
            if said := answer(messages, thinking):
                messages.append({"role": "assistant", "content": said})
            else:
                messages.pop()


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"{URL}: {error}")
    except (EOFError, KeyboardInterrupt):
        print()
