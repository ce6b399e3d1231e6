#!/usr/bin/env bash
# The same with curl alone: a question, a stream, and a picture.
#   examples/curl.sh [PICTURE]
set -eu
url=${VLSERVE_URL:-http://127.0.0.1:8000}
picture=${1:-docs/scene.png}

ask() { # the body comes on standard input, since a picture may be too long for the command line
  curl -sS --fail-with-body --no-buffer "$url$1" -H 'Content-Type: application/json' \
    -H "Authorization: Bearer ${VLSERVE_API_KEY:-none}" --data-binary @-
}

echo '{"messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 100}' | ask /v1/chat/completions
echo
echo '{"messages": [{"role": "user", "content": "Who are you?"}], "stream": true}' | ask /v1/chat/completions
{
  printf '{"message": "What is in this picture?", "temperature": 0, "session_id": "curl-example", "images": ["data:image/png;base64,'
  base64 <"$picture" | tr -d '\n'
  printf '"]}'
} | ask /chat
echo
