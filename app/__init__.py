"""vlserve: an OpenAI-compatible server for vision-language and text models.

Imports are in the functions, so that the clients (`python -m app chat`, `bench`) start without the server.
"""

import atexit
import functools
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from app.settings import Settings, SettingsError

if TYPE_CHECKING:
    from flask import Flask

    from app.engine.catalog import Catalog
    from app.engine.registry import ModelRegistry


def check(settings: Settings) -> "Catalog":
    """The catalogue, if all that the settings name is there; raises SettingsError, before anything starts."""
    from app.engine import machine
    from app.routes import keys
    from app.services.conversations import Conversations

    keys.read(settings)
    if settings.device == "cpu" and settings.kv_cache_gb * 1e9 > machine.total_memory():
        there = machine.total_memory() / 1e9
        raise SettingsError(f"--kv-cache-gb {settings.kv_cache_gb:g}: there are {there:.1f} GB of memory")
    _check_folders(settings)
    Conversations(Path(settings.database))
    return _catalog(settings)


def _check_folders(settings: Settings) -> None:
    named = [("--allowed-media-path", folder) for folder in settings.allowed_media_path]
    for flag, folder in (*named, ("--tpu-libraries", settings.tpu_libraries)):
        if folder and not Path(folder).is_dir():
            raise SettingsError(f"{flag} {folder}: is no folder")


def create_app(settings: Settings) -> "Flask":
    """The WSGI application: registry, services and blueprints wired together, here and nowhere else.

    Raises SettingsError for a catalogue, a default model, a file of keys or a database that cannot be.
    """
    from flask import Flask

    from app import telemetry
    from app.metrics import Metrics
    from app.routes import docs, health, hooks, legacy, media, models, openai, playground, scrape
    from app.services.admission import Admission
    from app.services.completion import Completions
    from app.services.conversations import Conversations
    from app.services.monitoring import Monitor
    from app.services.turn import Turns

    telemetry.configure(settings.log_level, settings.log_format)
    app = Flask("vlserve", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    registry = _registry(settings)
    admission = Admission(settings.streams() + settings.max_queue)
    app.extensions["drain"] = admission.drain
    metrics = Metrics()
    metrics.registry.register(Monitor(registry, admission))
    app.extensions["settings"] = settings
    app.extensions["registry"] = registry
    app.extensions["metrics"] = metrics
    completions = Completions(registry, admission, settings, metrics)
    app.extensions["completions"] = completions
    conversations = Conversations(Path(settings.database))
    app.extensions["conversations"] = conversations
    app.extensions["turns"] = Turns(completions, conversations, registry)
    hooks.install(app)
    for module in (openai, media, models, health, legacy, scrape, docs, playground):
        app.register_blueprint(module.bp)
    atexit.register(registry.close)
    atexit.register(conversations.close)
    if settings.preload:
        threading.Thread(target=_preload, args=(registry,), name="preload", daemon=True).start()
    return app


def _catalog(settings: Settings) -> "Catalog":
    from app.engine import catalog

    return catalog.read(
        Path(settings.catalog),
        settings.model,
        device=settings.device,
        dtype=settings.dtype,
        quantization=settings.quantization,
    )


def _registry(settings: Settings) -> "ModelRegistry":
    from app.engine import loader
    from app.engine.registry import ModelRegistry

    return ModelRegistry(
        _catalog(settings),
        functools.partial(
            loader.load,
            max_concurrent=settings.max_concurrent,
            kv_bytes=int(settings.kv_cache_gb * 1e9),
            tpu_libraries=settings.tpu_libraries,
        ),
        settings.idle_unload,
    )


def _preload(registry: "ModelRegistry") -> None:
    from app.errors import ApiError

    try:
        registry.get(None).release()
    except ApiError:
        return  # the registry has logged it; the first request tries again and gets the reason
