"""Decant as a Ray Serve application: the same ASGI application in each replica, with engines of its own.

    serve run deploy/ray/local.yaml

Serve gives replicas, autoscaling and restarts; what a request gets is the server's own code.
"""

import asyncio
import os
from typing import Any

import ray
from ray import serve
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import DeploymentUnavailableError

from deploy.ray.placement import placement
from deploy.ray.proxy import IMPORT_PATH, VARIABLE
from deploy.ray.settings import Arguments, read
from server.config import ConfigError

PROBES = 16  # requests beside those that generate: /health, /metrics, /v1/models
ABORTS = 15.0  # seconds beyond the drain that a replica may take to end
METRICS_TIMEOUT = 5.0  # seconds that a replica has to tell its metrics
GONE = (ActorDiedError, ActorUnavailableError)  # of a replica: Serve replaces it
HEALTH = 3.0  # seconds between looks at a replica's engines; three failures replace it


@serve.deployment(name="Decant", health_check_period_s=HEALTH, health_check_timeout_s=30)
@serve.ingress()
class Replica:
    """One server: its engines and its ASGI application, started when the replica is."""

    async def __init__(self, arguments: Arguments) -> None:
        from server.cli import set_up

        self.settings = read(arguments)
        if self.settings.threads_per_engine is None:
            # Ray gives each worker a share of the node, and vLLM would take every core it sees.
            cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1.0)
            self.settings.threads_per_engine = max(1, int(cpus) // len(self.settings.engine_table()))
        set_up(self.settings)

        from server.assembly import assemble  # imports vLLM, which reads the environment

        self.made = await assemble(self.settings)
        self.state = self.made.state
        runs = [self.made.supervisor.run(), *(watch.run() for watch in self.state.watches)]
        self.watching = [asyncio.create_task(run) for run in runs]

    async def __serve_build_asgi_app__(self) -> Any:
        from deploy.ray.metrics import AllReplicas

        self.made.app.add_middleware(AllReplicas, collect=self._all_metrics)
        return self.made.app

    async def check_health(self) -> None:
        """Raise when an engine is lost for good, so that Serve replaces this replica."""
        if dead := self.state.engine.dead_engines():
            raise RuntimeError(f"engine {dead[0]} is {self.state.engine.condition(dead[0])}")

    async def metrics(self) -> tuple[str, str]:
        """This replica's id and its exposition."""
        from server.routes.operate import metrics

        response = await metrics(self.state)
        return serve.get_replica_context().replica_id.unique_id, bytes(response.body).decode()

    async def _all_metrics(self) -> bytes:
        """The exposition of every replica. Errors: TimeoutError, Incomplete if a live one tells none."""
        from deploy.ray.metrics import Incomplete, shares, together

        context = serve.get_replica_context()
        handle = serve.get_deployment_handle(context.deployment, context.app_name)
        try:
            told = await handle.broadcast("metrics").results_async(
                timeout_s=METRICS_TIMEOUT, return_exceptions=True
            )
        except DeploymentUnavailableError as error:
            raise Incomplete("Serve knows of no replica") from error
        return await asyncio.to_thread(together, shares(told, GONE))

    async def __del__(self) -> None:
        if (made := getattr(self, "made", None)) is not None:
            for task in self.watching:
                task.cancel()
            await made.close()


def build(arguments: Arguments) -> serve.Application:
    """The application, for `import_path` in a Serve configuration. Errors: ConfigError."""
    if os.environ.get(VARIABLE) != IMPORT_PATH:
        raise ConfigError(
            f"start Ray with {VARIABLE}={IMPORT_PATH}: without it, requests whose replica dies get answers "
            "that no OpenAI client understands"
        )
    settings = read(arguments)
    limits = settings.limits
    return Replica.options(
        # Decant's own limits decide who runs, waits or is refused.
        max_ongoing_requests=limits.concurrent_requests + limits.queued_requests + PROBES,
        graceful_shutdown_timeout_s=settings.drain_seconds + ABORTS,
        **placement(settings),
    ).bind(arguments)
