"""What happens, counted when it happens: once a request, a generation, a call, never once a token.

Facts come in, one method each; a registry of metrics goes out. Labels are bounded by what the
operator configured: models, workers, routes, tool servers, kinds of failure; never by what clients
send.
"""

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from smg.errors import EngineError
from smg.telemetry.state import WORKER, names_of
from smg.workers.worker import Visit, Worker

LONG: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
SHORT: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
TOKEN: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 5)

COUNTERS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "smg_http_requests": ("Requests", ("route", "method", "status")),
    "smg_worker_selection": ("Generations sent", WORKER),
    "smg_worker_errors": ("Tries that failed", (*WORKER, "error")),
    "smg_worker_retries": ("Generations tried again, by the last failure", ("model", "error")),
    "smg_worker_retries_exhausted": ("Generations that no worker took", ("model", "error")),
    "smg_router_tokens": ("Tokens read (input, cached) and written", (*WORKER, "type")),
    "smg_mcp_tool_calls": ("Calls of tool servers", ("server", "outcome")),
    "smg_db_operations": ("Transactions", ("kind", "outcome")),
}
HISTOGRAMS: Final[Mapping[str, tuple[str, tuple[str, ...], tuple[float, ...]]]] = {
    "smg_http_request_duration_seconds": (
        "From a request's first byte to its answer's last",
        ("route",),
        LONG,
    ),
    "smg_request_wait_seconds": (
        "In line for a place, of all that were let in",
        ("priority",),
        LONG,
    ),
    "smg_router_ttft_seconds": (
        "From asking for a generation to its first token, retries included",
        WORKER,
        LONG,
    ),
    "smg_router_tpot_seconds": ("Mean time between the tokens of a generation", WORKER, TOKEN),
    "smg_mcp_tool_duration_seconds": ("A call, to its result", ("server",), LONG),
    "smg_db_operation_duration_seconds": (
        "A transaction, with the wait for its turn",
        ("kind",),
        SHORT,
    ),
    "smg_event_loop_lag_seconds": ("How late the event loop came to what was due", (), SHORT),
}


class Telemetry:
    """One gateway's counters; an `Observer` of its pools."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counters = {
            name: Counter(name, told, labels, registry=self.registry)
            for name, (told, labels) in COUNTERS.items()
        }
        self._histograms = {
            name: Histogram(name, told, labels, buckets=buckets, registry=self.registry)
            for name, (told, labels, buckets) in HISTOGRAMS.items()
        }
        self._worst_lag = Gauge(
            "smg_event_loop_lag_worst_seconds",
            "The longest of these in the last minute",
            registry=self.registry,
        )

    def _count(self, name: str, *labels: str, by: float = 1) -> None:
        self._counters[name].labels(*labels).inc(by)

    def _observe(self, name: str, seconds: float, *labels: str) -> None:
        self._histograms[name].labels(*labels).observe(seconds)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an HTTP request that is over."""
        self._count("smg_http_requests", route, method, str(status))
        self._observe("smg_http_request_duration_seconds", seconds, route)

    def waited(self, priority: str, seconds: float) -> None:
        """Measure how long somebody waited for a place."""
        self._observe("smg_request_wait_seconds", seconds, priority)

    def called(self, server: str, outcome: str, seconds: float) -> None:
        """Count a call of a tool that is over."""
        self._count("smg_mcp_tool_calls", server, outcome)
        self._observe("smg_mcp_tool_duration_seconds", seconds, server)

    def stored(self, kind: str, outcome: str, seconds: float) -> None:
        """Count a transaction that is over."""
        self._count("smg_db_operations", kind, outcome)
        self._observe("smg_db_operation_duration_seconds", seconds, kind)

    def lagged(self, seconds: float, worst: float) -> None:
        """Measure how late the event loop was, now and in the last minute."""
        self._histograms["smg_event_loop_lag_seconds"].observe(seconds)
        self._worst_lag.set(worst)

    # ---- as an observer of pools

    def placed(self, worker: Worker, reason: str) -> None:
        """Count a generation sent."""
        del reason
        self._count("smg_worker_selection", *names_of(worker))

    def first_token(self, worker: Worker, seconds: float) -> None:
        """Measure a first token."""
        self._observe("smg_router_ttft_seconds", seconds, *names_of(worker))

    def finished(self, worker: Worker, seconds: float, visit: Visit) -> None:
        """Count a generation's tokens and measure their pace."""
        names = names_of(worker)
        if visit.answer_tokens > 1:
            pace = seconds / (visit.answer_tokens - 1)
            self._observe("smg_router_tpot_seconds", pace, *names)
        for kind, count in (
            ("input", visit.prompt_tokens),
            ("cached", visit.cached_tokens),
            ("output", visit.answer_tokens),
        ):
            self._count("smg_router_tokens", *names, kind, by=count)

    def failed(self, worker: Worker, error: EngineError) -> None:
        """Count a try that failed."""
        self._count("smg_worker_errors", *names_of(worker), type(error).__name__)

    def retried(self, model: str, error: EngineError) -> None:
        """Count another round of tries."""
        self._count("smg_worker_retries", model, type(error).__name__)

    def gave_up(self, model: str, error: EngineError) -> None:
        """Count a generation that came to nothing."""
        self._count("smg_worker_retries_exhausted", model, type(error).__name__)
