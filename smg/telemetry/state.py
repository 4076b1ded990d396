"""What is: workers, the line at the door, caches, responses, the database; looked at when asked.

Nothing here waits: what takes long to find out is found out in the background (`sizes.py`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from smg.tokens.cache import Hits
from smg.workers.breaker import BreakerState
from smg.workers.worker import Worker

WORKER: Final = ("model", "worker")


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

    def responses(self) -> Mapping[str, int]:
        """How many responses of this process are in which state."""
        ...


def names_of(worker: Worker) -> tuple[str, str]:
    """A worker's labels."""
    return worker.info.model if worker.info else "", worker.address


Value = Callable[[Worker], float]

WORKER_STATES: Final[Mapping[str, tuple[str, Value]]] = {
    "health": ("Whether it is up", lambda worker: worker.is_up),
    "cb_state": ("Its breaker: 0 closed, 1 open, 2 half open", lambda w: w.breaker.state),
    "requests_active": ("Generations of this gateway on it", lambda worker: worker.in_flight),
    "foreign_requests": ("Generations of others, by its last word", lambda w: w.foreign),
    "queued_tokens": ("Prompt tokens that wait for a first token", lambda w: w.queued_tokens),
    "running_tokens": ("Tokens of generations that have begun", lambda w: w.running_tokens),
}
ENGINE_STATES: Final[Mapping[str, tuple[str, Value]]] = {
    "running_requests": ("Generations it runs", lambda w: w.load.running if w.load else 0),
    "waiting_requests": ("Generations that wait in it", lambda w: w.load.waiting if w.load else 0),
    "token_usage": (
        "Part of its KV cache in use",
        lambda worker: worker.load.token_usage if worker.load else 0.0,
    ),
}
"""By the worker's last word; of those that say it."""


class State(Collector):
    """A gateway, at the moment somebody asks."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterator[Metric]:
        """Everything there is."""
        workers = list(self._fleet.workers())
        yield from _gauges("smg_worker_", WORKER_STATES, workers)
        yield from _gauges("smg_engine_", ENGINE_STATES, [w for w in workers if w.load])
        yield _gaps(workers)
        yield _breaker_changes(workers)
        yield from _doors(self._fleet.doors())
        yield from _caches(self._fleet.hits())
        states = GaugeMetricFamily(
            "smg_responses", "Responses of this process that have not ended", labels=("state",)
        )
        for state, count in self._fleet.responses().items():
            states.add_metric((state,), count)
        yield states


def _gauges(
    prefix: str, states: Mapping[str, tuple[str, Value]], workers: Sequence[Worker]
) -> Iterator[Metric]:
    for name, (told, value) in states.items():
        gauge = GaugeMetricFamily(f"{prefix}{name}", told, labels=WORKER)
        for worker in workers:
            gauge.add_metric(names_of(worker), value(worker))
        yield gauge


def _gaps(workers: Sequence[Worker]) -> Metric:
    gaps = HistogramMetricFamily(
        "smg_router_itl_seconds", "Between two tokens of a stream, as they came", labels=WORKER
    )
    for worker in workers:
        gaps.add_metric(names_of(worker), worker.gaps.buckets(), worker.gaps.seconds)
    return gaps


def _breaker_changes(workers: Sequence[Worker]) -> Metric:
    changes = CounterMetricFamily(
        "smg_worker_cb_transitions",
        "How often its breaker came into a state",
        labels=(*WORKER, "state"),
    )
    for worker in workers:
        for state in BreakerState:
            labels = (*names_of(worker), state.name.lower())
            changes.add_metric(labels, worker.breaker.changes[state])
    return changes


def _doors(states: Mapping[str, int]) -> Iterator[Metric]:
    yield GaugeMetricFamily("smg_requests_running", "Requests let in", states["running"])
    yield GaugeMetricFamily("smg_requests_waiting", "Requests in line", states["waiting"])
    yield GaugeMetricFamily(
        "smg_background_waiting", "Background responses in line", states["promised"]
    )
    yield GaugeMetricFamily("smg_websockets", "WebSockets that are open", states["sockets"])
    refused = CounterMetricFamily("smg_requests_refused", "429 at the door", labels=("limit",))
    for limit, key in (
        ("gateway", "refused"),
        ("key", "refused_keys"),
        ("model", "refused_models"),
        ("websockets", "refused_sockets"),
    ):
        refused.add_metric((limit,), states[key])
    yield refused


def _caches(caches: Mapping[str, Hits]) -> Iterator[Metric]:
    found = CounterMetricFamily(
        "smg_tokenizer_cache",
        "Look-ups of prompts and pieces",
        labels=("model", "level", "hit"),
    )
    letters = CounterMetricFamily(
        "smg_tokenizer_letters", "Letters of prompts", labels=("model", "encoded")
    )
    for model, hits in caches.items():
        found.add_metric((model, "whole", "true"), hits.whole_hits)
        found.add_metric((model, "whole", "false"), hits.whole_misses)
        found.add_metric((model, "piece", "true"), hits.piece_hits)
        found.add_metric((model, "piece", "false"), hits.piece_misses)
        letters.add_metric((model, "true"), hits.letters_encoded)
        letters.add_metric((model, "false"), hits.letters_found)
    yield found
    yield letters
