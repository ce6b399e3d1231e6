"""A picture into fields of a class, with LangChain (pip install langchain-openai).

usage: python examples/langchain_client.py [PICTURE]
"""

import base64
import os
import sys
from typing import Literal

from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Thing(BaseModel):
    """What stands out most in a picture."""

    colour: Literal["red", "orange", "yellow", "green", "blue", "purple", "black"]
    shape: Literal["circle", "square", "triangle", "star"]


path = sys.argv[1] if len(sys.argv) > 1 else "docs/scene.png"
model = ChatOpenAI(
    model=os.environ.get("VLSERVE_MODEL", "demo"),
    base_url=os.environ.get("VLSERVE_URL", "http://127.0.0.1:8000") + "/v1",
    api_key=os.environ.get("VLSERVE_API_KEY", "none"),
)
with open(path, "rb") as file:
    picture = base64.b64encode(file.read()).decode()
question = HumanMessage(
    [
        {"type": "image", "base64": picture, "mime_type": "image/png"},
        {"type": "text", "text": "What is in this picture?"},
    ]
)
for chunk in model.stream([question]):
    print(chunk.content, end="", flush=True)
print()
# The server holds the answer to the class's schema, token by token. The demo model has never seen JSON: its
# fields are words of the class, but not of the picture. Others look.
print(repr(model.with_structured_output(Thing, method="json_schema").invoke([question])))
