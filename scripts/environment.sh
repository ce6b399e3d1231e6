# Sourced by start_api.sh and run_tests.sh: makes .venv and installs a requirements file into it, once.
# usage: environment REQUIREMENTS_FILE      sets $python; every failure is one line and exit code 1

fail() {
  printf 'vlserve: %s\n' "$*" >&2
  exit 1
}

environment() {
  local wanted=$1 base=${PYTHON:-python3} stamp log space
  local venv=$root/.venv
  python=$venv/bin/python
  stamp=$venv/.installed-$(basename "$wanted")
  if [ -x "$python" ] && [ -f "$stamp" ] && cat "$root"/requirements*.txt | cmp -s - "$stamp"; then
    return
  fi
  command -v "$base" >/dev/null 2>&1 || fail "there is no $base; install Python 3.11 or newer, or set PYTHON"
  "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "$("$base" --version 2>&1) is too old; Python 3.11 or newer is needed (set PYTHON to choose one)"
  space=$(df -Pk "$root" | awk 'NR == 2 {print int($4 / 1024)}')
  [ "$space" -ge "${VLSERVE_MIN_DISK_MB:-2500}" ] ||
    fail "the disk is full: $space MB are free in $root, the packages need about 2500 (10000 with CUDA)"
  log=$(mktemp 2>/dev/null) || fail "the disk is full, or there is no folder for temporary files"
  if ! "$python" -m pip --version >/dev/null 2>&1; then # none, or one that was left half made
    "$base" -m venv --clear "$venv" >"$log" 2>&1 || fail "$base cannot make $venv: $(tail -n 1 "$log")"
  fi
  echo "vlserve: installing $(basename "$wanted") into .venv (once, a few minutes)" >&2
  "$python" -m pip install --quiet --disable-pip-version-check -r "$wanted" >"$log" 2>&1 || {
    if grep -q 'No space left' "$log"; then fail "the disk became full while packages were installed"; fi
    fail "pip could not install $(basename "$wanted"): $( (grep -E '^ERROR' "$log" || cat "$log") | tail -n 1) ($log)"
  }
  rm -f "$log"
  cat "$root"/requirements*.txt 2>/dev/null >"$stamp" || fail "the disk is full: $stamp cannot be written"
}
