#!/usr/bin/env bash
# Set up what is missing in .venv, then serve:   ./start_api.sh [flags]     (--help lists them)
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)
. "$root/scripts/environment.sh"
environment "$root/requirements.txt"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONSAFEPATH=1 # the folder one stands in may hold an app/ of its own
exec "$python" -m app serve "$@"
