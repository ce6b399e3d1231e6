"""A picture described, streamed, with the official client (pip install openai).

usage: python examples/openai_client.py [PICTURE] [QUESTION]
"""

import base64
import mimetypes
import os
import sys

from openai import OpenAI

path = sys.argv[1] if len(sys.argv) > 1 else "docs/scene.png"
question = sys.argv[2] if len(sys.argv) > 2 else "What is in this picture?"

client = OpenAI(
    base_url=os.environ.get("VLSERVE_URL", "http://127.0.0.1:8000") + "/v1",
    api_key=os.environ.get("VLSERVE_API_KEY", "none"),
)
with open(path, "rb") as file:
    picture = base64.b64encode(file.read()).decode()
kind = mimetypes.guess_type(path)[0] or "image/png"
stream = client.chat.completions.create(
    model=os.environ.get("VLSERVE_MODEL", "demo"),
    messages=[
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{picture}"}},
                {"type": "text", "text": question},
            ],
        }
    ],
    stream=True,
    stream_options={"include_usage": True},
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    elif chunk.usage:
        print(f"\n({chunk.usage.prompt_tokens} + {chunk.usage.completion_tokens} tokens)")
