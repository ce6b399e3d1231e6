"""Tries a grammar out, in a process of its own that the kernel ends when its time is up.

The grammar library has limits of its own, but they do not hold for all that a client can send: some schemas
take it minutes, some grammars overflow its stack. So before a grammar is compiled where the streams are, it
is compiled here, for a vocabulary of bytes, and a text of it is begun. One JSON line in, one out; nothing of
the server is imported.
"""

import contextlib
import json
import random
import re
import signal
import sys

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import gbnf_to_lark

ASCII = {"d": "[0-9]", "w": "[0-9A-Za-z_]", "s": r"[ \t\n\r\f\v]"}
"""What these mean in an expression, as in JSON Schema's patterns; the library takes digits of all scripts."""
CPU_SECONDS = 0.5
MEMORY = 1 << 30
WALK = 100
"""Bytes of a random text that are tried."""


def limits() -> LLParserLimits:
    """The library's limits on a grammar: what a token's mask may cost, and the memory."""
    return LLParserLimits(
        step_max_items=20_000, max_lexer_states=50_000, precompute_large_lexemes=False, verbose_errors=False
    )


def trouble(text: str) -> str | None:
    """What is wrong with a grammar, if anything."""
    matcher = LLMatcher(LLTokenizer("byte"), text, log_level=0, limits=limits())
    chance = random.Random(0)  # noqa: S311
    for step in range(WALK):
        if matcher.is_error():
            break
        open_bytes = [byte for byte, mark in enumerate(matcher.compute_logit_bias()) if mark]
        if matcher.is_error():
            break
        if not open_bytes:
            return "nothing fits it"
        if not step and all(byte > 255 for byte in open_bytes):
            return "only the empty text fits it"
        if not matcher.consume_token(chance.choice(open_bytes)) or matcher.is_stopped():
            break
    error = matcher.get_error() if matcher.is_error() else ""
    if "NoExtension" in error:
        return "nothing fits it"
    return error or None


def _lark(kind: str, source: str) -> str:
    """A grammar in the library's language; raises ValueError."""
    if kind == "regex":
        plain = re.sub(r"\\(.)", lambda found: ASCII.get(found[1], found[0]), source, flags=re.DOTALL)
        return str(json.loads(LLMatcher.grammar_from_regex(plain))["grammars"][0]["lark_grammar"])
    if kind == "gbnf":
        try:
            return str(gbnf_to_lark(source))
        except Exception as error:  # it raises Exception itself, for a rule that there is not
            raise ValueError(str(error)) from None
    return source


def _answer(asked: dict[str, str]) -> dict[str, str]:
    try:
        text = _lark(asked["kind"], asked["source"]) + asked["options"]
        error = trouble(text)
    except (ValueError, RecursionError) as problem:
        error = str(problem)
    return {"error": error} if error else {"lark": text}


def main() -> None:
    """Answer lines until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on every system
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # its signal ends the process
        answer = json.dumps(_answer(json.loads(line)))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
