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
# Two files at a time, each on one core: threads of two processes that wait for each other at every product are far slower.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$python" -m pytest -n 2 --dist loadfile --durations 20
