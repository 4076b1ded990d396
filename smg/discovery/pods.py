"""Which pods are workers, and where.

Settings, and pods as the cluster describes them, go in; worker URLs come out. Decides only: it must
not know how pods are found out.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from smg.errors import ConfigError
from smg.settings import Settings

log = logging.getLogger(__name__)

PORTS: Final = "smg.ai/worker-ports"
"""The annotation that says a pod's ports, with commas between them."""

NOTED: Final = {
    "smg.ai/pod-name": "name",
    "smg.ai/pod-namespace": "namespace",
    "smg.ai/pod-uid": "uid",
}
"""The labels of a pod's workers, and where in its metadata they come from."""

RELIST_S = 60
LARGEST_PORT = 65535

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which pods are workers, and where."""

    selector: str
    port: int
    grace_s: float
    """How long the worker of a pod that goes may take to end what it runs."""
    namespace: str | None = None
    relist_s: int = RELIST_S
    """Longest time that a missed event can stay unnoticed."""


def read_wanted(settings: Settings) -> Wanted | None:
    """Which pods the settings want; `None`: there is no discovery.

    Raises:
        ConfigError: the selector is missing, wrong, or without use.
    """
    if not settings.service_discovery:
        if settings.selector:
            raise ConfigError("--selector: needs --service-discovery")
        return None
    if not settings.selector:
        raise ConfigError("--service-discovery: --selector must say which pods are workers")
    for label in settings.selector:
        key, equals, _ = label.partition("=")
        if not key or not equals or "," in label:
            raise ConfigError(f"--selector: expected LABEL=VALUE, got {label!r}")
    return Wanted(
        selector=",".join(settings.selector),
        port=settings.service_discovery_port,
        grace_s=settings.response_timeout_secs,  # Nothing is cut off by us: no response is longer.
        namespace=settings.service_discovery_namespace,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod, and where its workers are."""

    uid: str
    labels: Mapping[str, str]
    """What its workers are noted with."""
    urls: frozenset[str]


def read_pod(pod: Json, port: int) -> Pod:
    """A pod as the cluster describes it."""
    metadata = pod["metadata"]
    labels = {name: metadata[key] for name, key in NOTED.items() if key in metadata}
    return Pod(uid=metadata["uid"], labels=labels, urls=worker_urls(pod, port))


def worker_urls(pod: Json, port: int) -> frozenset[str]:
    """Where a pod's workers are; none while it is not ready, or is about to end."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    address = status.get("podIP")
    if metadata.get("deletionTimestamp") or not address or not _is_ready(status):
        return frozenset()
    said = (metadata.get("annotations") or {}).get(PORTS)
    try:
        ports = [port] if said is None else _ports(said)
    except ValueError:
        log.warning("Pod %s is left out: %s is %r", _name(pod), PORTS, said)
        return frozenset()
    host = f"[{address}]" if ":" in address else address
    return frozenset(f"grpc://{host}:{port}" for port in ports)


def _is_ready(status: Json) -> bool:
    conditions = {entry["type"]: entry["status"] for entry in status.get("conditions") or ()}
    return status.get("phase") == "Running" and conditions.get("Ready") == "True"


def _ports(said: str) -> Sequence[int]:
    ports = [int(text) for text in said.split(",")]
    if not all(0 < port <= LARGEST_PORT for port in ports):
        raise ValueError(said)
    return ports


def _name(pod: Json) -> str:
    metadata = pod["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata.get('name', '')}"
