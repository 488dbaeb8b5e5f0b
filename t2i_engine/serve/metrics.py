"""Prometheus metrics of a server."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from t2i_engine.serve.queue import Drawn

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counts what a server does; each server has its own registry."""

    def __init__(self, waiting: Callable[[], float], restarts: Callable[[], float], ready: Callable[[], float]) -> None:
        """The arguments are called when the metrics are read."""
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "t2i_requests", "Requests answered, by route and status.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "t2i_request_seconds", "From a request's headers to its answer.", ["route"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.pictures = Counter("t2i_pictures_drawn", "Pictures drawn.", ["bundle"], registry=self.registry)
        self.stages = Histogram(
            "t2i_picture_seconds", "A picture's time in each stage.", ["stage"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        for name, help_text, value in (
            ("t2i_queue_pictures", "Pictures waiting for a worker.", waiting),
            ("t2i_worker_restarts", "Workers that died and were replaced.", restarts),
            ("t2i_ready", "1 if requests are accepted.", ready),
        ):
            Gauge(name, help_text, registry=self.registry).set_function(value)

    def drew(self, bundle: str, drawn: Drawn) -> None:
        """Counts a picture."""
        self.pictures.labels(bundle).inc()
        for stage in ("queue", "draw", "encode"):
            self.stages.labels(stage).observe(getattr(drawn, stage) / 1000)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Counts a request."""
        self.requests.labels(route, status).inc()
        self.seconds.labels(route).observe(seconds)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
