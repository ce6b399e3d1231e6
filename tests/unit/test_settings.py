"""Settings: one table for flags, environment and defaults, checked at the start."""

import dataclasses
import math
import re
from typing import Any

import pytest

from app import settings as table
from app.settings import Settings, SettingsError

ROWS = dataclasses.fields(Settings)
BY_NAME = {row.name: row for row in ROWS}

OTHER: dict[str, Any] = {
    "model": "qwen3-4b",
    "host": "0.0.0.0",
    "port": 9000,
    "device": "cuda:1",
    "dtype": "bfloat16",
    "quantization": "int8",
    "kv_cache_gb": 1.5,
    "max_concurrent": 7,
    "tpu_libraries": "/somewhere/lib",
    "max_queue": 9,
    "request_timeout": 12.5,
    "drain_timeout": 3.5,
    "idle_unload": 60.25,
    "preload": True,
    "catalog": "/somewhere/else.yaml",
    "max_body_mb": 2.5,
    "max_image_mp": 0.5,
    "max_total_mp": 7.5,
    "max_images": 3,
    "max_videos": 2,
    "max_frames": 64,
    "max_video_seconds": 90.5,
    "max_media_mb": 8.5,
    "max_total_media_mb": 9.5,
    "max_redirects": 1,
    "media_timeout": 7.5,
    "max_pixels": 100352,
    "video_fps": 1.5,
    "video_ratio": 0.25,
    "allowed_media_path": ("/pictures", "/videos"),
    "allowed_media_domain": ("media.example", "127.0.0.1:8080"),
    "api_key": ("sk-one", "sk-two"),
    "api_keys_file": "keys.txt",
    "api_header": "X-API-Key",
    "api_prefix": "Token",
    "disable_api_auth": True,
    "cors_origin": ("https://one.example", "http://two.example:8080"),
    "database": "/somewhere/else.db",
    "log_level": "DEBUG",
    "log_format": "json",
}
"""A value for every field that is not its default."""


def text_of(value: Any) -> str:
    """A value as variables have it."""
    return ",".join(value) if isinstance(value, tuple) else str(value)


def given_by(flag: str, value: Any) -> list[str]:
    """The arguments that give a flag its value, one after the other if it is repeatable."""
    if value is True:
        return [flag]
    return [word for one in (value if isinstance(value, tuple) else (value,)) for word in (flag, str(one))]


def test_without_anything_the_defaults_hold() -> None:
    assert Settings.from_args([], {}) == Settings.from_env({}) == Settings()
    assert {name for name, value in OTHER.items() if getattr(Settings(), name) == value} == set()


def test_streams_are_as_many_as_the_device_is_good_for() -> None:
    assert (Settings().streams(), Settings().streams("bmrt")) == (32, 10)
    assert Settings(max_concurrent=4).streams("bmrt") == Settings(max_concurrent=4).streams() == 4


def test_this_test_knows_every_field() -> None:
    assert set(OTHER) == set(BY_NAME)


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_every_field_has_a_flag_a_variable_and_a_help(name: str) -> None:
    row, value = BY_NAME[name], OTHER[name]
    flag = table.flags(row)[0]
    assert flag == "--" + name.replace("_", "-")
    assert getattr(Settings.from_args(given_by(flag, value), {}), name) == value
    assert getattr(Settings.from_env({f"VLSERVE_{name.upper()}": text_of(value)}), name) == value
    assert len(row.metadata["help"]) > 10
    text = " ".join(table.parser().format_help().split())
    assert flag in text
    assert row.metadata["help"] in text


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_a_flag_wins_over_the_environment(name: str) -> None:
    value = OTHER[name]
    flag = table.flags(BY_NAME[name])[0]
    environ = Settings().to_env()
    assert getattr(Settings.from_args(given_by(flag, value), environ), name) == value


@pytest.mark.parametrize("name", sorted(name for name in BY_NAME if "_" in name))
def test_underscores_in_flags_are_dashes(name: str) -> None:
    value = OTHER[name]
    if value is True:
        assert getattr(Settings.from_args([f"--{name}"], {}), name) is True
        return
    words = given_by(f"--{name}", value)
    assert getattr(Settings.from_args(words, {}), name) == value
    joined = ["=".join(pair) for pair in zip(words[::2], words[1::2], strict=True)]
    assert getattr(Settings.from_args(joined, {}), name) == value


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "qwen3-4b"],
        ["--model=qwen3-4b"],
        ["--model-path", "qwen3-4b"],
        ["--model_path", "qwen3-4b"],
        ["--model_dir", "qwen3-4b"],
        ["--model-dir", "qwen3-4b"],
    ],
)
def test_the_model_has_other_flags(arguments: list[str]) -> None:
    assert Settings.from_args(arguments, {}).model == "qwen3-4b"


@pytest.mark.parametrize(
    ("flag", "model"), [("--qwen", "qwen2.5-7b-instruct"), ("--llama", "llama-3.1-8b-instruct")]
)
def test_there_are_short_forms_for_two_models(flag: str, model: str) -> None:
    assert Settings.from_args([flag], {}).model == model


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["-p", "81"], "port", 81),
        (["-d", "mps"], "device", "mps"),
        (["--devid", "cuda:0"], "device", "cuda:0"),
        (["-c", "4"], "max_concurrent", 4),
        (["--devid", "tpu:1"], "device", "tpu:1"),
        (["--devid", "1"], "device", "1"),
        (["-l", "debug"], "log_level", "DEBUG"),
        (["--dtype", "Float16"], "dtype", "float16"),
        (["--no-preload"], "preload", False),
        (["--no_preload"], "preload", False),
        (["--catalog", "a_b-c.yaml"], "catalog", "a_b-c.yaml"),
        (["--catalog=a_b-c.yaml"], "catalog", "a_b-c.yaml"),
        (["--request-timeout", "1e3"], "request_timeout", 1000.0),
        (["--port", "1", "--port", "2"], "port", 2),
        (["--api-key", "aaaa", "--api_key", "bbbb"], "api_key", ("aaaa", "bbbb")),
        (["--cors-origin=*"], "cors_origin", ("*",)),
        (
            ["--cors-origin", "app://x", "--cors-origin", "http://[::1]:3"],
            "cors_origin",
            ("app://x", "http://[::1]:3"),
        ),
    ],
)
def test_flags_are_read(arguments: list[str], name: str, value: Any) -> None:
    assert getattr(Settings.from_args(arguments, {"VLSERVE_PRELOAD": "yes"}), name) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", True),
        ("TRUE", True),
        ("yes", True),
        ("On", True),
        ("0", False),
        ("false", False),
        ("off", False),
    ],
)
def test_switches_in_the_environment_are_words(text: str, value: bool) -> None:
    assert Settings.from_env({"VLSERVE_PRELOAD": text}).preload is value


def test_an_empty_variable_is_no_setting() -> None:
    assert Settings.from_env(dict.fromkeys(Settings().to_env(), "")) == Settings()


def test_the_old_variable_names_the_model() -> None:
    assert Settings.from_env({"NANOVLLM_MODEL_PATH": "/a/b"}).model == "/a/b"
    both = {"NANOVLLM_MODEL_PATH": "/a/b", "VLSERVE_MODEL": "qwen3-4b"}
    assert Settings.from_env(both).model == "qwen3-4b"
    assert Settings.from_env({"NANOVLLM_MODEL_PATH": "/a/b", "VLSERVE_MODEL": ""}).model == "/a/b"
    assert Settings.from_args(["-m", "demo"], both).model == "demo"


@pytest.mark.parametrize("made", [Settings(), Settings(**OTHER)], ids=["defaults", "all others"])
def test_the_environment_carries_the_settings_to_another_process(made: Settings) -> None:
    assert Settings.from_env(made.to_env()) == made
    assert Settings.from_env({"NANOVLLM_MODEL_PATH": "/other"} | made.to_env()) == made


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--max-queu", "3"], ["--max-queu", "--max-queue"]),
        (["--max_queu=3"], ["--max_queu", "--max-queue"]),
        (["--xyzzy"], ["--xyzzy"]),
        (["stray"], ["stray"]),
        (["--port"], ["--port"]),
        (["--port", "many"], ["--port", "'many'", "whole number"]),
        (["--port", "80.5"], ["--port", "whole number"]),
        (["--request-timeout", "long"], ["--request-timeout", "number"]),
        (["--log-format", "jsn"], ["--log-format jsn", "text, json", "did you mean json?"]),
        (["--dtype", "bfloat61"], ["--dtype", "did you mean bfloat16?"]),
        (["--dtype", "fp16"], ["did you mean float16?"]),
        (["--dtype", "Half"], ["did you mean float16?"]),
        (["--log-level", "warn"], ["did you mean WARNING?"]),
        (["--log-level", "inf"], ["did you mean INFO?"]),
        (["--qwen", "--llama"], ["--llama: a model is named already"]),
        (["--qwen", "--model", "demo"], ["--model: a model is named already"]),
        (["--device", "gpu"], ["--device gpu", "cuda:N", "did you mean cuda?"]),
        (["--device", "GPU:0"], ["--device GPU:0", "did you mean cuda?"]),
        (["--device", "tpo"], ["--device tpo", "did you mean tpu?"]),
        (["--device", "cuda:x"], ["--device cuda:x"]),
        (["--model", ""], ["--model", "empty"]),
        (["--host", "  "], ["--host", "empty"]),
        (["--preload=yes"], ["--preload"]),
        (["--api-keys-file", ""], ["--api-keys-file", "empty"]),
        (["--api-key", ""], ["--api-key", "empty"]),
        (["--api-key", "  "], ["--api-key", "empty"]),
        (["--api-key", "a,b"], ["--api-key", "commas", "repeatable"]),
        (["--api-key", "a b"], ["--api-key", "visible ASCII"]),
        (["--cors-origin", "http://a.example,http://b.example"], ["--cors-origin", "repeatable"]),
        (["--api-header", "X_Key"], ["--api-header X_Key", "dashes"]),
        (["--api-prefix", "Bea rer"], ["--api-prefix", "none"]),
        (["--cors-origin", "page.example"], ["--cors-origin page.example", "https://host:port"]),
        (["--cors-origin", "https://page.example/"], ["--cors-origin", "https://host:port"]),
        (["--cors-origin", "null"], ["--cors-origin", "https://host:port"]),
    ],
)
def test_a_wrong_flag_is_named_in_one_line_with_the_nearest_right_one(
    arguments: list[str], parts: list[str]
) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_args(arguments, {})
    text = str(caught.value)
    assert "\n" not in text
    assert [part for part in parts if part not in text] == []


SECRET = "sk-very-secret"


@pytest.mark.parametrize(
    "arguments", [["--api-key", f'"{SECRET}'], [f"--api-kay={SECRET}"], ["--api-key", f"{SECRET}\u00e9"]]
)
def test_a_key_is_in_no_error(arguments: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_args(arguments, {})
    assert "--api-k" in str(caught.value)
    assert SECRET not in str(caught.value)
    with pytest.raises(SettingsError, match=r"VLSERVE_API_KEY") as caught:
        Settings.from_env({"VLSERVE_API_KEY": f"\\{SECRET}"})
    assert SECRET not in str(caught.value)


def test_a_key_is_in_no_repr() -> None:
    settings = Settings(api_key=(SECRET,))
    assert SECRET not in repr(settings)
    assert SECRET not in f"{settings}"
    assert "port=8000" in repr(settings)


def test_a_variable_lists_keys_by_commas_or_blanks() -> None:
    assert Settings.from_env({"VLSERVE_API_KEY": " aaaa, bbbb\ncccc,"}).api_key == ("aaaa", "bbbb", "cccc")
    assert Settings.from_args(["--api-key", "dddd"], {"VLSERVE_API_KEY": "aaaa"}).api_key == ("dddd",)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("VLSERVE_PORT", "many"),
        ("VLSERVE_PORT", "-1"),
        ("VLSERVE_PRELOAD", "maybe"),
        ("VLSERVE_LOG_LEVEL", "LOUD"),
        ("VLSERVE_DEVICE", "gpu"),
        ("VLSERVE_REQUEST_TIMEOUT", "nan"),
    ],
)
def test_a_wrong_variable_is_named(variable: str, text: str) -> None:
    with pytest.raises(SettingsError, match=f"^{variable}: ") as caught:
        Settings.from_env({variable: text})
    assert text in str(caught.value)


BOUNDS = [
    (row.name, row.metadata[side], side)
    for row in ROWS
    for side in ("low", "high")
    if row.metadata[side] is not None
]


@pytest.mark.parametrize(("name", "bound", "side"), BOUNDS)
def test_a_range_holds_its_bounds_and_nothing_beyond(name: str, bound: float, side: str) -> None:
    kind: Any = type(BY_NAME[name].default)
    flag = table.flags(BY_NAME[name])[0]
    assert getattr(Settings.from_args([flag, str(kind(bound))], {}), name) == bound
    step = 1 if kind is int else 0.001
    beyond = kind(bound) - step if side == "low" else kind(bound) + step
    word = "least" if side == "low" else "most"
    with pytest.raises(SettingsError, match=f"{flag} .*the {word} is {re.escape(f'{bound:g}')}"):
        Settings.from_args([f"{flag}={beyond}"], {})


@pytest.mark.parametrize("name", [row.name for row in ROWS if type(row.default) is float])
def test_nan_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="nan"):
        Settings.from_args([table.flags(BY_NAME[name])[0], "nan"], {})
    nan: dict[str, Any] = {name: math.nan}
    with pytest.raises(SettingsError, match="nan"):
        Settings(**nan)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]  # that is the test


def test_the_body_limit_is_in_mebibytes() -> None:
    assert Settings(max_body_mb=1.5).max_body_bytes == 1_572_864


def test_help_is_printed_and_ends_the_process_well(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        Settings.from_args(["--help"], {})
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "(default: models/catalog.yaml)" in " ".join(text.split())
    assert "VLSERVE_MAX_QUEUE" in text
