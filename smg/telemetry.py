"""What Prometheus reads: facts come in, text goes out, and nothing depends on it.

What happens is counted when it happens, once a generation and never once a token. What is (workers,
queues, caches) is looked at when somebody asks. Labels are bounded by what the operator configured:
models, workers, routes, kinds of failure; never by what clients send.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from smg.errors import ConfigError, EngineError
from smg.tokens.cache import Hits
from smg.workers.worker import Visit, Worker

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
TOKEN_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 5)
WORKER: Final = ("model", "worker")

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Fleet(Protocol):
    """What is looked at when somebody asks."""

    def workers(self) -> Iterable[Worker]:
        """Every worker."""
        ...

    def hits(self) -> Mapping[str, Hits]:
        """What was found in the tokenizer cache of each model."""
        ...

    def doors(self) -> Mapping[str, int]:
        """How many requests run, wait, and were refused."""
        ...


class Telemetry:
    """One gateway's metrics; an `Observer` of its pools."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = self._counter(
            "smg_http_requests", "Requests", ("route", "method", "status")
        )
        self._durations = self._histogram(
            "smg_http_request_duration_seconds",
            "From a request's first byte to its answer's last",
            ("route",),
            SECONDS,
        )
        self._placed = self._counter("smg_worker_selection", "Generations sent", WORKER)
        self._errors = self._counter("smg_worker_errors", "Tries that failed", (*WORKER, "error"))
        self._retries = self._counter(
            "smg_worker_retries", "Pauses before another round of tries", ()
        )
        self._first_tokens = self._histogram(
            "smg_router_ttft_seconds",
            "From asking for a generation to its first token, retries included",
            WORKER,
            SECONDS,
        )
        self._next_tokens = self._histogram(
            "smg_router_tpot_seconds",
            "Mean time between the tokens of a generation",
            WORKER,
            TOKEN_SECONDS,
        )
        self._tokens = self._counter(
            "smg_router_tokens", "Tokens read (input, cached) and written", (*WORKER, "type")
        )

    def _counter(self, name: str, told: str, labels: Sequence[str]) -> Counter:
        return Counter(name, told, labels, registry=self.registry)

    def _histogram(
        self, name: str, told: str, labels: Sequence[str], buckets: Sequence[float]
    ) -> Histogram:
        return Histogram(name, told, labels, buckets=buckets, registry=self.registry)

    def watch(self, fleet: Fleet) -> None:
        """Look at this fleet whenever somebody asks."""
        self.registry.register(_State(fleet))

    def watch_database(self, bytes_of: Callable[[], float]) -> None:
        """Look at the database's size whenever somebody asks."""
        size = Gauge("smg_database_bytes", "Its file, log included", registry=self.registry)
        size.set_function(bytes_of)

    def page(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self.registry)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an HTTP request that is over."""
        self._requests.labels(route, method, str(status)).inc()
        self._durations.labels(route).observe(seconds)

    # ---- as an observer of pools

    def placed(self, worker: Worker, reason: str) -> None:
        """Count a generation sent."""
        del reason
        self._placed.labels(*_names(worker)).inc()

    def first_token(self, worker: Worker, seconds: float) -> None:
        """Measure a first token."""
        self._first_tokens.labels(*_names(worker)).observe(seconds)

    def finished(self, worker: Worker, seconds: float, visit: Visit) -> None:
        """Count a generation's tokens and measure their pace."""
        names = _names(worker)
        if visit.answer_tokens > 1:
            self._next_tokens.labels(*names).observe(seconds / (visit.answer_tokens - 1))
        for kind, count in (
            ("input", visit.prompt_tokens),
            ("cached", visit.cached_tokens),
            ("output", visit.answer_tokens),
        ):
            self._tokens.labels(*names, kind).inc(count)

    def failed(self, worker: Worker, error: EngineError) -> None:
        """Count a try that failed."""
        self._errors.labels(*_names(worker), type(error).__name__).inc()

    def retried(self, pause_s: float) -> None:
        """Count a pause."""
        del pause_s
        self._retries.inc()


@contextmanager
def published(telemetry: Telemetry, host: str, port: int) -> Generator[int, None, None]:
    """Metrics on a port of their own, for as long as the block lasts; gives the port.

    Raises:
        ConfigError: the port is taken.
    """
    try:
        server, thread = start_http_server(port, host, registry=telemetry.registry)
    except OSError as error:
        raise ConfigError(f"--metrics-port {port}: {error.strerror}") from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _State(Collector):
    """What is, at the moment somebody asks."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterator[Metric]:
        workers = list(self._fleet.workers())
        for name, (told, value) in WORKER_STATES.items():
            gauge = GaugeMetricFamily(f"smg_worker_{name}", told, labels=WORKER)
            for worker in workers:
                gauge.add_metric(_names(worker), value(worker))
            yield gauge
        yield from self._doors()
        yield from self._caches()

    def _doors(self) -> Iterator[Metric]:
        states = self._fleet.doors()
        yield GaugeMetricFamily("smg_requests_running", "Requests let in", states["running"])
        yield GaugeMetricFamily("smg_requests_waiting", "Requests in line", states["waiting"])
        yield CounterMetricFamily("smg_requests_refused", "429 at the door", states["refused"])

    def _caches(self) -> Iterator[Metric]:
        found = CounterMetricFamily(
            "smg_tokenizer_cache",
            "Look-ups of prompts and pieces",
            labels=("model", "level", "hit"),
        )
        letters = CounterMetricFamily(
            "smg_tokenizer_letters", "Letters of prompts", labels=("model", "encoded")
        )
        for model, hits in self._fleet.hits().items():
            found.add_metric((model, "whole", "true"), hits.whole_hits)
            found.add_metric((model, "whole", "false"), hits.whole_misses)
            found.add_metric((model, "piece", "true"), hits.piece_hits)
            found.add_metric((model, "piece", "false"), hits.piece_misses)
            letters.add_metric((model, "true"), hits.letters_encoded)
            letters.add_metric((model, "false"), hits.letters_found)
        yield found
        yield letters


WORKER_STATES: Final[Mapping[str, tuple[str, Callable[[Worker], float]]]] = {
    "health": ("Whether it is up", lambda worker: worker.is_up),
    "cb_state": ("Its breaker: 0 closed, 1 open, 2 half open", lambda w: w.breaker.state),
    "requests_active": ("Generations of this gateway on it", lambda worker: worker.in_flight),
    "foreign_requests": ("Generations of others, by its last word", lambda w: w.foreign),
    "queued_tokens": ("Prompt tokens that wait for a first token", lambda w: w.queued_tokens),
    "running_tokens": ("Tokens of generations that have begun", lambda w: w.running_tokens),
    "token_usage": (
        "Part of its KV cache in use, by its last word",
        lambda worker: worker.load.token_usage if worker.load else 0.0,
    ),
}


def _names(worker: Worker) -> tuple[str, str]:
    return worker.info.model if worker.info else "", worker.address
