"""What lies around the routes: who is let in, what is counted, and the outermost edge.

An application without them comes in and has them when it leaves.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace

from fastapi import FastAPI

from smg.directory import ModelDirectory
from smg.errors import ConfigError
from smg.measuring import lag_measured
from smg.model import ServedModel
from smg.settings import Settings
from smg.telemetry.counters import Telemetry
from smg.telemetry.page import CONTENT_TYPE, page_of, published
from smg.telemetry.state import State
from smg.tokens.cache import Hits
from smg.tracing import Traced, tracing
from smg.web import metrics
from smg.web.admission import Admission
from smg.web.auth import owner_check
from smg.web.doors import DoorRules, Doors
from smg.web.edge import Edge
from smg.web.gate import GateRules
from smg.web.measured import Measured
from smg.web.weight import Scales, Weighed
from smg.workers.worker import Worker

MIB = 1024 * 1024


def new_doors(settings: Settings, telemetry: Telemetry) -> Doors:
    """How much work is let in.

    Raises:
        ConfigError: a limit of one model is ill-formed.
    """
    common = GateRules(
        places=settings.max_concurrent_requests,
        waiting=settings.queue_size,
        wait_s=settings.queue_timeout_secs,
        per_second=settings.rate_limit_tokens_per_second,
    )
    return Doors(
        DoorRules(
            common=common,
            key=replace(
                common,
                places=settings.key_max_concurrent_requests,
                per_second=settings.key_rate_limit_tokens_per_second,
            ),
            model=replace(
                common,
                places=settings.model_max_concurrent_requests,
                per_second=settings.model_rate_limit_tokens_per_second,
            ),
            models=_model_limits(settings),
            promised=settings.background_queue_size,
            sockets=settings.key_max_websockets,
        ),
        lambda priority, seconds: telemetry.waited(priority.name.lower(), seconds),
    )


def _model_limits(settings: Settings) -> Mapping[str, int]:
    """Single models' places: `qwen=8`. Aliases are refused: they are no models of their own."""
    aliases = {alias.partition("=")[0] for alias in settings.model_alias}
    limits: dict[str, int] = {}
    for text in settings.model_limit:
        name, _, places = text.rpartition("=")
        if not name or not places.isdecimal():
            raise ConfigError(f"--model-limit: expected NAME=N, got {text!r}")
        if name in aliases:
            raise ConfigError(f"--model-limit: {name!r} is an alias; name the model itself")
        limits[name] = int(places)
    return limits


class Watched:
    """What there is to be looked at while the gateway runs."""

    def __init__(
        self,
        models: ModelDirectory,
        entrance: Doors,
        responses: Callable[[], Mapping[str, int]],
    ) -> None:
        """`responses` counts those of this process by their state."""
        self._models = models
        self.entrance = entrance
        self.responses = responses

    def workers(self) -> Sequence[Worker]:
        """Every worker of every model."""
        return [worker for model in self._models.all() for worker in model.pool.workers]

    def hits(self) -> Mapping[str, Hits]:
        """What was found in the tokenizer caches."""
        models = (model for model in self._models.all() if isinstance(model, ServedModel))
        return {model.name: model.builder.hits for model in models}

    def doors(self) -> Mapping[str, int]:
        """How many requests run, wait, and were refused."""
        return self.entrance.states


@asynccontextmanager
async def surrounded(
    app: FastAPI, settings: Settings, watched: Watched, telemetry: Telemetry
) -> AsyncGenerator[None, None]:
    """Put the layers around an application; metrics on a port of their own end with the block.

    Raises:
        ConfigError: that port is taken, or what sends traces is not installed.
    """
    owner_of = owner_check(settings.api_key)
    registry = telemetry.registry
    registry.register(State(watched))
    if settings.metrics_port is None:
        app.include_router(metrics.new_router(lambda: page_of(registry), CONTENT_TYPE, owner_of))
    app.add_middleware(Weighed, scales=Scales(settings.max_bodies_mib * MIB))
    app.add_middleware(Admission, doors=watched.entrance, owner_of=owner_of)
    app.add_middleware(Measured, record=telemetry.request)
    port = settings.metrics_port
    with nullcontext() if port is None else published(registry, settings.metrics_host, port):
        async with tracing(settings.otlp_endpoint) as tracer, lag_measured(telemetry):
            app.add_middleware(Traced, tracer=tracer)
            app.add_middleware(Edge)
            yield
