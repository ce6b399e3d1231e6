"""Everything that comes from outside: one table of settings, from flags, then environment, then defaults.

`Settings` holds plain validated values; each field's metadata is its row of the table: flags, help and kind.
A field's environment variable is VLSERVE_ and its name in capitals; dashes and underscores in flags are one.
"""

import argparse
import math
import os
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from app.flags import FlagHelp, OneModel, Parser, nearest
from app.flags import SettingsError as SettingsError

VERSION = "0.1.0"
DEVICE = r"auto|cpu|mps|(cuda|tpu)(:\d{1,3})?|\d{1,3}"
STREAMS = {"transformers": 32, "bmrt": 10}
"""Streams at once, by a model's engine, where no number is asked for."""
KEY_CHARACTER = r"[!#-&(-+\--\[\]-~]"
KEY = KEY_CHARACTER + "{4,512}"
"""Long enough to be hidden in a log; visible ASCII but , " ' \\, which part keys or are written otherwise."""
ORIGIN = r"\*|[A-Za-z][A-Za-z0-9+.-]*://[^/\s*,]+"
DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("none", "int8")
PROJECT = Path(__file__).resolve().parent.parent


def setting(
    default: Any,
    help_text: str,
    *flags: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    pattern: str = "",
    metavar: str = "",
    env: str = "",
    secret: bool = False,
    group: str = "",
) -> Any:
    """One row of the table; its range, choices or pattern are checked when the settings are made. A tuple is
    of texts: its flag may be repeated. The value of a secret is in no repr and no error. A group is a heading
    of --help, for this row and for those below it that name none.
    """
    row = {"help": help_text, "flags": flags, "low": low, "high": high, "choices": choices}
    row |= {"pattern": pattern, "metavar": metavar, "env": env, "secret": secret, "group": group}
    return field(default=default, metadata=row, repr=not secret)


@dataclass(frozen=True)
class Settings:
    """The process's settings; `from_env` and `from_args` raise SettingsError for a value that cannot be."""

    model: str = setting(
        "demo",
        "catalogue id, hub id (owner/name) or folder of the default model",
        "-m",
        "--model-path",
        "--model_dir",
        metavar="MODEL",
        env="NANOVLLM_MODEL_PATH",
        group="models",
    )
    host: str = setting("127.0.0.1", "address to listen on", metavar="ADDRESS", group="the address")
    port: int = setting(8000, "port to listen on; 0 takes a free one", "-p", low=0, high=65535)
    device: str = setting(
        "auto",
        "auto, cpu, cuda, cuda:N, mps, tpu, tpu:N, or the number of a GPU or TPU",
        "-d",
        "--devid",
        pattern=DEVICE,
        metavar="DEVICE",
        group="computing",
    )
    dtype: str = setting("auto", "number format of the weights", choices=DTYPES)
    quantization: str = setting("none", "int8: the language model in 8 bits, on a CPU", choices=QUANTIZATIONS)
    tpu_libraries: str = setting("", "folder of a TPU's libbmlib.so and libbmrt.so", metavar="FOLDER")
    kv_cache_gb: float = setting(
        0.0, "memory of the KV cache in GB; 0: 40 % of what is free when the model has loaded", low=0
    )
    max_concurrent: int = setting(
        0, "streams at once; 0: 32, and 10 on a TPU", "-c", low=0, high=1024, group="load and time"
    )
    max_queue: int = setting(128, "requests that may wait beyond them; over both: 429", low=0, high=4096)
    request_timeout: float = setting(600.0, "seconds a request may take, waiting included", low=1)
    drain_timeout: float = setting(
        30.0, "seconds that running requests get at a stop before they end with an error", low=0, high=3600
    )
    idle_unload: float = setting(
        0.0,
        "unload a model that was idle for so many seconds; 0: never",
        low=0,
        metavar="SECONDS",
        group="models",
    )
    preload: bool = setting(False, "load the default model at start, not at the first request")
    catalog: str = setting(
        str(PROJECT / "models" / "catalog.yaml"), "the file that names the models", metavar="FILE"
    )
    max_body_mb: float = setting(
        16.0, "largest request body in MiB", low=0.1, high=4096, group="limits of one request"
    )
    max_image_mp: float = setting(70.0, "largest picture in megapixels", low=0.01, high=1000)
    max_total_mp: float = setting(
        200.0,
        "all pictures of one request, or all frames of an animated GIF or WEBP, together in megapixels",
        low=0.01,
        high=10000,
    )
    max_images: int = setting(32, "pictures in one request", low=0, high=4096)
    max_videos: int = setting(4, "videos in one request", low=0, high=256)
    max_frames: int = setting(768, "frames that are kept of a video, or that a list has", low=2, high=10000)
    max_video_seconds: float = setting(3600.0, "longest video", low=1, high=86400, metavar="SECONDS")
    max_media_mb: float = setting(64.0, "largest picture or video, fetched or uploaded, in MiB", low=0.01)
    max_total_media_mb: float = setting(256.0, "all of one request together, in MiB", low=0.01)
    max_redirects: int = setting(5, "redirects that a download follows", low=0, high=20)
    media_timeout: float = setting(
        30.0, "seconds in which a request's media must be fetched", low=0.1, high=3600, metavar="SECONDS"
    )
    max_pixels: int = setting(0, "pixels of a resized picture or frame; 0: as the model says", low=0)
    video_fps: float = setting(2.0, "frames per second that are taken of a video", low=0.01, high=120)
    video_ratio: float = setting(0.5, "the share of them that is kept", "-v", low=0, high=1)
    allowed_media_path: tuple[str, ...] = setting(
        (), "a folder whose files requests may name; repeatable", metavar="FOLDER"
    )
    allowed_media_domain: tuple[str, ...] = setting(
        (),
        "a host, or host:port, that media may come from although it is not on the public net; repeatable",
        pattern=r"[A-Za-z0-9._:\[\]-]{1,300}",
        metavar="HOST",
    )
    api_key: tuple[str, ...] = setting(
        (),
        "a key for clients to send, 4 or more visible ASCII but commas, quotes and backslashes; repeatable",
        pattern=KEY,
        metavar="KEY",
        secret=True,
        group="keys, and pages of other sites",
    )
    api_keys_file: str = setting("", "a file with more keys, one a line; # begins a comment", metavar="FILE")
    api_header: str = setting(
        "Authorization",
        "the header for keys, of letters, digits and dashes",
        pattern=r"[A-Za-z][A-Za-z0-9-]*",
        metavar="NAME",
    )
    api_prefix: str = setting(
        "Bearer",
        "the word before the key, of letters, digits and dashes; none: there is no word",
        pattern=r"[A-Za-z][A-Za-z0-9-]*",
        metavar="WORD",
    )
    disable_api_auth: bool = setting(False, "ask for no key, wherever the server listens")
    cors_origin: tuple[str, ...] = setting(
        (),
        "an origin whose pages may call, as https://host:port, or * for all of them; repeatable",
        pattern=ORIGIN,
        metavar="ORIGIN",
    )
    database: str = setting(
        str(PROJECT / "vlserve.db"),
        "the file of the conversations of /chat",
        metavar="FILE",
        group="conversations and logs",
    )
    log_level: str = setting(
        "INFO", "how much is logged", "-l", choices=("DEBUG", "INFO", "WARNING", "ERROR")
    )
    log_format: str = setting("text", "text for people, json for machines", choices=("text", "json"))

    def __post_init__(self) -> None:
        for row in fields(self):
            _check(row, getattr(self, row.name))

    def streams(self, engine: str = "transformers") -> int:
        """Streams that a model of that engine computes at once."""
        return self.max_concurrent or STREAMS.get(engine, STREAMS["transformers"])

    @property
    def max_body_bytes(self) -> int:
        """The limit of a body in bytes."""
        return int(self.max_body_mb * 1024 * 1024)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Settings from VLSERVE_… variables, else the defaults."""
        return cls(**_from_env(os.environ if environ is None else environ))

    @classmethod
    def from_args(
        cls, arguments: Sequence[str], environ: Mapping[str, str] | None = None, command: str = "serve"
    ) -> "Settings":
        """Settings from the command's flags, then the environment, then the defaults."""
        parsed = vars(parser(command).parse_args(list(arguments)))
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in parsed.items()}
        return cls(**(_from_env(os.environ if environ is None else environ, set(given)) | given))

    def to_env(self) -> dict[str, str]:
        """The variables that make `from_env` return these settings in another process."""
        return {variable(row): _as_text(getattr(self, row.name)) for row in fields(self)}


def variable(row: Field[Any]) -> str:
    """The environment variable of a field."""
    return f"VLSERVE_{row.name.upper()}"


def flags(row: Field[Any]) -> list[str]:
    """A field's flags, the canonical one first."""
    return [f"--{row.name.replace('_', '-')}", *row.metadata["flags"]]


def parser(command: str = "serve") -> argparse.ArgumentParser:
    """The command line of `serve`, made from the table; absent flags leave no attribute."""
    what = {
        "serve": "Serve vision-language and text models with an OpenAI-compatible API.",
        "models": "List the models of the catalogue.",
    }
    result = Parser(
        prog=f"python -m app {command}",
        description=what[command],
        epilog="Each flag has an environment variable: --max-queue is VLSERVE_MAX_QUEUE. Flags win. "
        "Dashes and underscores in them are the same.",
        usage="%(prog)s [flags]",
        formatter_class=FlagHelp,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    groups: dict[str, Any] = {}
    title = ""
    for row in fields(Settings):
        title = row.metadata["group"] or title
        if title not in groups:
            groups[title] = result.add_argument_group(title)
        # Of serve's flags all are taken by `models`, which two of them mean something to.
        hidden = command == "models" and row.name not in ("model", "catalog")
        options: dict[str, Any] = {"dest": row.name, "help": argparse.SUPPRESS if hidden else _help(row)}
        if isinstance(row.default, bool):
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["type"] = lambda text, row=row: _for_argparse(row, text)
            options["metavar"] = row.metadata["metavar"] or (
                "N" if type(row.default) in (int, float) else "X"
            )
            several = "extend" if isinstance(row.default, tuple) else "store"
            options["action"] = OneModel if row.name == "model" else several
            if row.metadata["choices"]:
                options["metavar"] = "|".join(row.metadata["choices"])
        groups[title].add_argument(*flags(row), **options)
    for name, source in (("--qwen", "qwen2.5-7b-instruct"), ("--llama", "llama-3.1-8b-instruct")):
        about = f"short for --model {source}"
        groups["models"].add_argument(name, dest="model", action=OneModel, nargs=0, const=source, help=about)
    return result


def shown_default(row: Field[Any]) -> str:
    """A field's default as people write it."""
    shown = "off" if row.default is False else "none" if row.default in ("", ()) else row.default
    return str(shown).replace(str(PROJECT) + os.sep, "").removesuffix(".0")


def _help(row: Field[Any]) -> str:
    return f"{row.metadata['help']} (default: {shown_default(row)})".replace("%", "%%")


def _for_argparse(row: Field[Any], text: str) -> Any:
    try:
        if not text.strip():  # a shell's unset variable, not a choice
            raise SettingsError("is empty")
        # A flag is given once for each; only a variable is a list.
        return (text.strip(),) if isinstance(row.default, tuple) else _parse(row, text)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _from_env(environ: Mapping[str, str], but: Set[str] = frozenset()) -> dict[str, Any]:
    """The values of the variables, but those of settings that a flag has given already."""
    result = {}
    for row in fields(Settings):
        if row.name in but:
            continue
        for name in (variable(row), row.metadata["env"]):
            if name and environ.get(name, "") != "":
                try:
                    result[row.name] = _parse(row, environ[name])
                    _check(row, result[row.name])
                except SettingsError as error:
                    raise SettingsError(f"{name}: {error}") from None
                break
    return result


def _parse(row: Field[Any], text: str) -> Any:
    kind: type = type(row.default)
    if kind is str:
        return _nearest_case(text, row.metadata["choices"])
    if kind is bool:
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off"):
            return False
        raise SettingsError(f"{text!r} is neither true nor false")
    if kind is tuple:
        if not (found := tuple(part for part in re.split(r"[\s,]+", text) if part)):
            raise SettingsError("is empty")
        return found
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise SettingsError(f"{text!r} is not {what}") from None


def _nearest_case(text: str, choices: tuple[str, ...]) -> str:
    return next((choice for choice in choices if choice.lower() == text.lower()), text)


def _check(row: Field[Any], value: Any) -> None:
    if isinstance(value, tuple):
        for item in value:
            _check(row, item)
        return
    name = flags(row)[0] if row.metadata["secret"] else f"{flags(row)[0]} {value}"
    if isinstance(value, float) and math.isinf(value):
        raise SettingsError(f"{name}: must be finite")
    low, high, choices = row.metadata["low"], row.metadata["high"], row.metadata["choices"]
    if low is not None and not value >= low:  # `not >=` refuses NaN as well
        raise SettingsError(f"{name}: the least is {low:g}")
    if high is not None and value > high:
        raise SettingsError(f"{name}: the most is {high:g}")
    if choices and value not in choices:
        others = (flags(one)[0] for one in fields(Settings) if value in one.metadata["choices"])
        hint = next((f"; did you mean {other} {value}?" for other in others), nearest(value, choices))
        raise SettingsError(f"{name}: choose one of {', '.join(choices)}{hint}")
    if (pattern := row.metadata["pattern"]) and not re.fullmatch(pattern, value):
        kind = value.partition(":")[0].lower()
        hint = nearest({"gpu": "cuda"}.get(kind, value), re.findall("[a-z]{3,}", pattern))
        raise SettingsError(f"{name}: expected {row.metadata['help']}{hint}")
    if isinstance(value, str) and not value.strip() and value != row.default:
        raise SettingsError(f"{flags(row)[0]}: is empty")


def _as_text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
