"""What is read at each scrape of /metrics: how busy the models are, what they hold, how they were loaded."""

import logging
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.engine import machine
from app.engine.registry import ModelRegistry
from app.engine.types import Engine
from app.services.admission import Admission
from app.settings import VERSION

log = logging.getLogger(__name__)


class Monitor(Collector):
    """Asks the loaded models for their numbers; one that cannot answer just now is left out."""

    def __init__(self, registry: ModelRegistry, admission: Admission) -> None:
        self._registry = registry
        self._admission = admission

    def collect(self) -> Iterator[Metric]:
        """All families; those of models are empty while none is loaded."""
        yield _gauge("build_info", "The version that runs.", ["version"], {(VERSION,): 1})
        inside = self._admission.count()
        yield _gauge("active_generations", "Generations that run, wait or prepare.", [], {(): inside})
        preparing = self._admission.preparing()
        about = (
            "Generations that no model has got yet: it loads, or their session's turn or prompt is not ready."
        )
        yield _gauge("preparing_generations", about, [], {(): preparing})
        states = {(spec.id, self._registry.status(spec.id)[0]): 1.0 for spec in self._registry.catalog}
        yield _gauge("model_state", "1 for the state that a model is in.", ["model", "state"], states)
        seconds = {(model,): seconds for model, seconds in self._registry.load_seconds().items()}
        yield _gauge("model_load_seconds", "Seconds that a model's last load took.", ["model"], seconds)
        yield from self._of_engines()

    def _of_engines(self) -> Iterator[Metric]:
        gauges = {
            "running": _gauge("running", "Generations that are computed.", ["model"]),
            "waiting": _gauge("waiting", "Generations that wait for their turn.", ["model"]),
            "weights": _gauge("model_memory_bytes", "Bytes of a model's weights.", ["model"]),
            "capacity": _gauge(
                "kv_cache_capacity_tokens", "Tokens that the KV cache has room for.", ["model"]
            ),
            "held": _gauge(
                "kv_cache_tokens",
                "Tokens of the KV cache, of running generations or kept from finished ones.",
                ["model", "state"],
            ),
            "used": _gauge("device_memory_used_bytes", "Memory that this process holds.", ["device"]),
            "total": _gauge("device_memory_total_bytes", "Memory that a device has.", ["device"]),
        }
        counters = {
            "hits": _counter("vision_cache_hits", "Pictures whose features were known."),
            "misses": _counter("vision_cache_misses", "Pictures that the vision tower looked at."),
        }
        memory = {"cpu": (machine.process_memory(), machine.total_memory())}
        for engine in self._registry.engines():
            try:
                _add(engine, gauges, counters, memory)
            except Exception:  # it was closed a moment ago, or its device is dead; the others still count
                log.warning("%s told no numbers", engine.spec.id, exc_info=True)
        for device, (used, total) in memory.items():
            gauges["used"].add_metric([device], used)
            gauges["total"].add_metric([device], total)
        yield from gauges.values()
        yield from counters.values()


def _add(
    engine: Engine,
    gauges: dict[str, GaugeMetricFamily],
    counters: dict[str, CounterMetricFamily],
    memory: dict[str, tuple[int, int]],
) -> None:
    model = [engine.spec.id]
    running, waiting = engine.busy()
    weights, stats = engine.memory_bytes(), engine.stats()
    # Nothing above has been added yet: an engine that raises adds nothing.
    gauges["running"].add_metric(model, running)
    gauges["waiting"].add_metric(model, waiting)
    gauges["weights"].add_metric(model, weights)
    if stats.kv_capacity:
        gauges["capacity"].add_metric(model, stats.kv_capacity)
        gauges["held"].add_metric([*model, "running"], stats.kv_running)
        gauges["held"].add_metric([*model, "kept"], stats.kv_kept)
    if "image" in engine.modalities:
        counters["hits"].add_metric(model, stats.vision_hits)
        counters["misses"].add_metric(model, stats.vision_misses)
    if stats.device_memory is not None:
        memory[engine.device] = stats.device_memory


def _gauge(
    name: str, about: str, labels: list[str], values: Mapping[Any, float] = MappingProxyType({})
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"vlserve_{name}", about, labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family


def _counter(name: str, about: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"vlserve_{name}", about, labels=["model"])
