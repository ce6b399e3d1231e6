"""The simple API with requests: a conversation that the server keeps (pip install requests).

usage: python examples/requests_client.py [PICTURE]
"""

import base64
import os
import sys
import uuid

import requests

url = os.environ.get("VLSERVE_URL", "http://127.0.0.1:8000")
key = os.environ.get("VLSERVE_API_KEY")
path = sys.argv[1] if len(sys.argv) > 1 else "docs/scene.png"

session = requests.Session()
if key:
    session.headers["Authorization"] = f"Bearer {key}"
name = f"example-{uuid.uuid4().hex}"
with open(path, "rb") as file:
    picture = f"data:image/png;base64,{base64.b64encode(file.read()).decode()}"


def say(message: str, **more: object) -> str:
    """One message of the conversation, and its answer."""
    body = {"message": message, "session_id": name, "temperature": 0, **more}
    answer = session.post(f"{url}/chat", json=body, timeout=600)
    if not answer.ok:
        sys.exit(f"{answer.status_code}: {answer.json()['error']}")
    return str(answer.json()["response"])


print(say("What is in this picture?", images=[picture]))
print(say("How many objects are there?"))
session.delete(f"{url}/sessions/{name}", timeout=60)
