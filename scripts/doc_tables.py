"""Write the tables of the docs that repeat what the code says; with --check only compare.

usage: python scripts/doc_tables.py [--check]
A table stands between <!-- NAME --> and <!-- /NAME --> in one of the files of docs/.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from app import errors  # noqa: E402
from app.settings import Settings, flags, shown_default, variable  # noqa: E402
from tests import attacks  # noqa: E402


def settings_table() -> str:
    """One row for each flag."""
    lines = ["| flag | environment | default | |", "|---|---|---|---|"]
    for row in fields(Settings):
        names = ", ".join(f"`{name}`" for name in flags(row))
        choices = f" ({', '.join(row.metadata['choices'])})" if row.metadata["choices"] else ""
        names_env = ", ".join(f"`{name}`" for name in (variable(row), row.metadata["env"]) if name)
        lines.append(f"| {names} | {names_env} | {shown_default(row)} | {row.metadata['help']}{choices} |")
    return "\n".join(lines)


def errors_table() -> str:
    """One row for each type of error."""
    lines = ["| status | `type` | `code` | when |", "|---|---|---|---|"]
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ApiError)
    ]
    for kind in sorted(kinds, key=lambda kind: kind.status):
        if kind is not errors.ApiError:
            when = (kind.__doc__ or "").splitlines()[0]
            lines.append(f"| {kind.status} | `{kind.type}` | `{kind.code}` | {when} |")
    return "\n".join(lines)


def attacks_table() -> str:
    """One row for each attack, under the headings of their groups."""
    lines: list[str] = []
    for title, group in attacks.GROUPS.items():
        lines += ["", f"## {title}", "", "| what is sent | answer | |", "|---|---|---|"]
        for attack in group:
            shown = attack.what if attack.make else f"`{repr(attack.what)[1:-1]}`"
            answer = f"{attack.status} `{attack.code}`" if attack.code else str(attack.status)
            lines.append(f"| {shown} | {answer} | {attack.message} |")
    return "\n".join(lines[1:])


TABLES: dict[str, Callable[[], str]] = {
    "settings": settings_table,
    "errors": errors_table,
    "attacks": attacks_table,
}


def renewed(text: str) -> str:
    """The text with its tables made anew."""
    for name, table in TABLES.items():
        block = f"<!-- {name} -->\n{table()}\n<!-- /{name} -->"
        text = re.sub(
            rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _, block=block: block, text, flags=re.DOTALL
        )
    return text


def main(arguments: list[str]) -> int:
    """Renew all docs, or with --check say which are stale; returns the exit code."""
    stale = []
    for file in sorted((ROOT / "docs").glob("*.md")):
        text = file.read_text(encoding="utf-8")
        if renewed(text) != text:
            stale.append(file.name)
            if "--check" not in arguments:
                file.write_text(renewed(text), encoding="utf-8")
    if stale and "--check" in arguments:
        sys.stderr.write(f"stale tables in {', '.join(stale)}: run python scripts/doc_tables.py\n")
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
