"""The server's app as a deployment of Ray Serve, which starts, checks and scales its replicas (docs/deploying.md)."""

from functools import cache
from pathlib import Path

from t2i_engine.errors import needs_extra

with needs_extra("serving on Ray", "ray"):
    from ray import serve
    from ray.serve.metrics import Gauge
    from starlette.applications import Starlette
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from t2i_engine.serve.app import make_app
    from t2i_engine.serve.service import Service, Settings


@serve.deployment
@serve.ingress()
class Pictures:
    """Replicas that serve bundles as `t2i-engine serve` does: `Pictures.bind("birds", settings=Settings(workers=1))`.

    Each has workers and a queue of its own. Where a bundle cannot be served, Ray reports the `UserError`.
    """

    def __init__(self, *bundles: str | Path, settings: Settings) -> None:
        self.service = Service.open(bundles, settings)

    def __serve_build_asgi_app__(self) -> Starlette:
        """Makes the app for Ray, which also runs its lifespan: a replica draws what it accepted before it ends."""
        app = make_app(self.service)
        app.add_middleware(_IdOfRay)
        return app

    def check_health(self) -> None:
        """Tells Ray the metrics, and raises `RuntimeError` unless requests are accepted; Ray calls it periodically."""
        for family in self.service.metrics.registry.collect():
            for sample in family.samples:
                _gauge(sample.name, family.documentation, tuple(sample.labels)).set(sample.value, sample.labels)
        if reason := self.service.not_ready():
            raise RuntimeError(reason)


@cache
def _gauge(name: str, description: str, labels: tuple[str, ...]) -> Gauge:
    """A Ray gauge; Ray adds labels for the replica. Counters are gauges too: Ray's counters cannot be set."""
    return Gauge(name, description, labels)


class _IdOfRay:
    """Removes the app's X-Request-Id: Ray's proxies add the same header, and clients would read the two as one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [header for header in message["headers"] if header[0] != b"x-request-id"]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, answer)
