"""A chat in the terminal, short enough to copy (pip install requests). `python -m app chat` is the whole one.

usage: python examples/api_client_example.py     then a message, /image PATH, /think on, reset, status or quit
"""

import base64
import json
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import requests

URL = os.environ.get("VLSERVE_URL", "http://127.0.0.1:8000")
KEY = {"Authorization": f"Bearer {os.environ['VLSERVE_API_KEY']}"} if "VLSERVE_API_KEY" in os.environ else {}


def answer(messages: list[dict[str, Any]], thinking: bool) -> str:
    """Print the answer as it comes; returns what came, also if Ctrl-C stopped it."""
    body = {"messages": messages, "stream": True, "enable_thinking": thinking}
    said = ""
    response = requests.post(f"{URL}/v1/chat/completions", json=body, headers=KEY, stream=True, timeout=600)
    with closing(response):  # which also stops the server
        try:
            if not response.ok:
                print("error:", response.json()["error"]["message"])
                return said
            for line in response.iter_lines():
                if line.startswith(b"data: {"):
                    event = json.loads(line[6:])
                    if "error" in event:
                        print("\nerror:", event["error"]["message"])
                        break
                    for choice in event["choices"]:
                        thought = choice["delta"].get("reasoning_content") or ""
                        text = choice["delta"].get("content") or ""
                        print(f"\033[2m{thought}\033[0m" if thought else text, end="", flush=True)
                        said += text
        except KeyboardInterrupt:
            print(" (stopped)", end="")
    print()
    return said


def main() -> None:
    """Read lines until quit."""
    messages: list[dict[str, Any]] = []
    pictures: list[dict[str, Any]] = []
    thinking = False
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            return
        word, _, rest = line.partition(" ")
        if line == "quit":
            return
        if line == "reset":
            messages, pictures = [], []
        elif line == "status":
            print(requests.get(f"{URL}/status", headers=KEY, timeout=20).json())
        elif word == "/think":
            thinking = rest == "on"
        elif word == "/image":
            data = base64.b64encode(Path(rest).expanduser().read_bytes()).decode()
            pictures.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
        elif line:
            messages.append({"role": "user", "content": [*pictures, {"type": "text", "text": line}]})
            if said := answer(messages, thinking):
                messages.append({"role": "assistant", "content": said})
                pictures = []
            else:
                messages.pop()


if __name__ == "__main__":
    try:
        main()
    except (OSError, KeyboardInterrupt) as error:
        sys.exit(f"{URL}: {error}" if isinstance(error, OSError) else 130)
