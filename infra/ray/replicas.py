"""The function on Ray Serve: replicas on the machines of a cluster, none while nobody asks. `serve deploy serve.yaml`.

Ray's proxies take the requests, choose the replicas and count them; each replica is a whole function with an engine of
its own. Its requests wait in it while it boots, as they do elsewhere.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from ray import serve
from ray.serve import metrics

from handler.asgi import application
from handler.errors import EngineLostError
from handler.service import Service

METRICS_PREFIX = "pilotlight_"
"""Ray puts its own `ray_` before it, and prometheus.yml takes both away."""


@serve.deployment
@serve.ingress(application)
class Function:
    """One replica."""

    def __init__(self) -> None:
        self._export: MetricsExport | None = None

    async def check_health(self) -> None:
        """Called by Ray again and again. What is exported is as old as the last call.

        Raises:
            EngineLostError: the engine is gone for good, and Ray is to start another replica.
        """
        service: Service = self.app.state.service  # type: ignore[attr-defined]  (Ray's wrapper has it)
        if self._export is None:
            self._export = MetricsExport(service.metrics.registry)
        self._export.publish()
        if service.is_lost:
            raise EngineLostError(service.loss)


class MetricsExport:
    """Hands the replica's metrics to Ray, which exports those of all replicas at each machine's own address.

    Every sample is one of Ray's gauges, counters and buckets too: they only ever grow, whatever Ray calls them.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._gauges: dict[str, metrics.Gauge] = {}

    def publish(self) -> None:
        """Export what the metrics are now."""
        for family in self._registry.collect():
            for sample in family.samples:
                gauge = self._gauges.get(sample.name)
                if gauge is None:
                    name = METRICS_PREFIX + sample.name
                    gauge = metrics.Gauge(name, family.documentation, tuple(sample.labels))
                    self._gauges[sample.name] = gauge
                gauge.set(sample.value, sample.labels)


app = Function.bind()  # type: ignore[attr-defined]  (Ray's decorator makes it)
