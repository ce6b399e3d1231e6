"""What the process counts and times for /metrics. What engines and models know by themselves is not counted
here but read at each scrape, by services/monitoring.py.

Label values are bounded: rules of routes, ids of the catalogue, never what a client wrote.
"""

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE

__all__ = ["CONTENT_TYPE", "Metrics"]

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each, which Prometheus does not need

REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 2.5, 5, 10, 30, 60, 120, 300)
PER_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
QUEUE_SECONDS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
POSITIONS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class Metrics:
    """The counters and histograms of one application, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests answered.", "route", "method", "status")
        self.request_seconds = self._histogram(
            "request_seconds", "Seconds from a request to its last byte.", REQUEST_SECONDS, "route"
        )
        self.generations = self._counter("generations", "Generations, by how they ended.", "model", "finish")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts.", "model")
        self.known_tokens = self._counter(
            "prefix_cache_hit_tokens", "Tokens of prompts that were known and not computed again.", "model"
        )
        self.generated_tokens = self._counter("generated_tokens", "Tokens generated.", "model")
        self.first_token = self._histogram(
            "time_to_first_token_seconds", "Seconds from a request to its first token.", FIRST_TOKEN_SECONDS
        )
        self.per_token = self._histogram(
            "time_per_output_token_seconds",
            "Mean seconds from one token of a generation to its next.",
            PER_TOKEN_SECONDS,
        )
        self.queue_seconds = self._histogram(
            "queue_seconds", "Seconds that a generation waited for its turn.", QUEUE_SECONDS
        )
        self.queue_position = self._histogram(
            "queue_position", "Generations that waited already when one came.", POSITIONS
        )

    def text(self) -> bytes:
        """All of it in Prometheus' text format, of type CONTENT_TYPE."""
        return generate_latest(self.registry)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"vlserve_{name}", about, labels, registry=self.registry)

    def _histogram(
        self, name: str, about: str, buckets: tuple[float, ...], label: str = "model"
    ) -> Histogram:
        return Histogram(f"vlserve_{name}", about, [label], buckets=buckets, registry=self.registry)
