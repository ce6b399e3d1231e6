#!/usr/bin/env bash
# Set up what is missing in .venv, then check format, lint, types and run the tests:   ./run_tests.sh [pytest arguments]
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)
. "$root/scripts/environment.sh"
environment "$root/requirements-dev.txt"
cd "$root"
"$python" -m ruff format --check .
"$python" -m ruff check .
"$python" -m mypy
if [ $# -gt 0 ]; then
  exec "$python" -m pytest "$@"
fi
"$python" -m coverage erase
"$python" -m coverage run -m pytest
"$python" -m coverage combine --quiet
"$python" -m coverage report
