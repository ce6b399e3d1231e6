"""argparse as all commands here use it: dashes or underscores, and one helpful line for a wrong flag."""

import argparse
import difflib
from collections.abc import Iterable
from typing import Any, NoReturn

ELSEWHERE = {
    "--allowed-local-media-path": "--allowed-media-path",
    "--api-key-header": "--api-header",
    "--api-key-prefix": "--api-prefix",
    "--force-model": "--model",
    "--gpu-memory-utilization": "--kv-cache-gb, in GB",
    "--limit-mm-per-prompt": "--max-images, --max-videos, --max-frames",
    "--max-model-len": "context_length in the catalogue",
    "--max-num-seqs": "--max-concurrent",
    "--served-model-name": "id and aliases in the catalogue",
}
"""Flags of the servers of docs/migrate.md, and what says the same of this one."""

SPELT = {"fp16": "float16", "half": "float16", "fp32": "float32", "warn": "warning"}
"""Values as other tools spell them."""


class SettingsError(ValueError):
    """A setting from a flag or the environment that cannot be; its text is one line for a person."""


def nearest(wrong: str, right: Iterable[str]) -> str:
    """The end of a message about a wrong word: the right one that is most like it, if one is."""
    by_lower = {one.lower(): one for one in right}
    near = difflib.get_close_matches(SPELT.get(wrong.lower(), wrong.lower()), by_lower, 1)
    return f"; did you mean {by_lower[near[0]]}?" if near else ""


class OneModel(argparse.Action):
    """--model and what is short for it, of which there can be one."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if hasattr(namespace, self.dest):
            parser.error(f"{option_string}: a model is named already; one can be the default")
        setattr(namespace, self.dest, values if self.const is None else self.const)


class FlagHelp(argparse.HelpFormatter):
    """A flag's value is shown once, behind its last spelling."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


class Parser(argparse.ArgumentParser):
    """argparse that takes --max_queue for --max-queue and names the nearest flag to a wrong one."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        known = self._option_string_actions
        by_dashes = {name.replace("_", "-"): name for name in known}
        dashed = []
        for argument in args or []:
            name, equals, value = argument.partition("=")
            if name.startswith("--"):
                name = by_dashes.get(name.replace("_", "-"), name)
            dashed.append(name + equals + value)
        found, rest = super().parse_known_args(dashed, namespace)
        for argument in rest:
            name = argument.partition("=")[0]  # without the value, which may be a secret
            if name.startswith("-"):
                there = ELSEWHERE.get(name.replace("_", "-")) if "--catalog" in known else None
                hint = f"; here that is {there}" if there else nearest(name, known)
                self.error(f"there is no flag {name}{hint}")
            meant = f"; did you mean --model {name}?" if "--model" in known else ""
            self.error(f"{name} belongs to no flag{meant}")
        return found, rest

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = [] if action.choices is None else list(action.choices)
        if choices and value not in choices:
            flag = action.option_strings[-1]
            self.error(f"{flag} {value}: choose one of {', '.join(choices)}{nearest(value, choices)}")

    def error(self, message: str) -> NoReturn:
        raise SettingsError(message)
