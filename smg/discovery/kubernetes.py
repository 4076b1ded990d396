"""Pods of a Kubernetes cluster to workers: those with the right labels that are ready.

The cluster's API says which pods there are; worker URLs are added and removed. It must not know
what a worker is. Needs the package `kubernetes` (the extra `k8s`), and only when it is used.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from smg.discovery.candidates import Candidate
from smg.discovery.fleet import Fleet
from smg.errors import ConfigError, Conflict
from smg.settings import Settings

log = logging.getLogger(__name__)

PORTS: Final = "smg.ai/worker-ports"
"""The annotation that says a pod's ports, with commas between them."""

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 30.0
STEADY_S = 5.0
"""A watch that lasted so long has worked: the next pause is a short one again."""
RELIST_S = 60
RETRY_S = 1.0
SLACK_S = 15.0
"""How much later than asked for the server may end a watch."""
LIST_TIMEOUT_S = 30.0
LARGEST_PORT = 65535
GONE = 410
IN_CLUSTER = "KUBERNETES_SERVICE_HOST"

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


@asynccontextmanager
async def discovering(
    settings: Settings, fleet: Fleet, environment: Mapping[str, str]
) -> AsyncGenerator[None, None]:
    """Follow the cluster's pods within the block, if the settings say so.

    Raises:
        ConfigError: the settings are wrong, or it is not known where the cluster is.
    """
    wanted = read_wanted(settings)
    if wanted is None:
        yield
        return
    api = await _new_api(environment)
    following = asyncio.create_task(PodDiscovery(api, wanted, fleet).run())
    try:
        yield
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await api.api_client.close()


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


class PodDiscovery:
    """Pods as they come and go."""

    def __init__(self, api: Any, wanted: Wanted, fleet: Fleet) -> None:
        """`api` is the client's CoreV1Api."""
        self._api = api
        self._wanted = wanted
        self._fleet = fleet
        self._pods: dict[str, frozenset[str]] = {}
        self._joined: dict[str, Candidate] = {}
        self._applying = asyncio.Lock()

    async def run(self) -> None:
        """List the pods and watch them, again and again.

        While the cluster's API does not answer, the workers stay as they were.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ask_for_ever())
            group.create_task(self._retry_for_ever())

    async def _retry_for_ever(self) -> None:
        """Take back workers that were still on their way out when their pods were ready again."""
        while True:
            await asyncio.sleep(RETRY_S)
            await self._apply()

    async def _ask_for_ever(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            began_at = time.monotonic()
            try:
                await self._watch(await self._list())
            except Exception as error:  # noqa: BLE001 - the client raises errors of many kinds
                self._tell(error)
            if time.monotonic() - began_at >= STEADY_S:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _tell(self, error: Exception) -> None:
        if getattr(error, "status", None) == GONE:
            log.info("Kubernetes: the watch is too old; pods are listed again")
        else:
            reason = f"{type(error).__name__}: {error}".strip()
            log.warning("Kubernetes does not tell of pods, trying again: %s", reason)

    async def _list(self) -> str:
        """Take over the pods as they are; the version of the list."""
        from kubernetes.aio.client import ApiException  # noqa: PLC0415 - an extra

        question, names = self._question()
        ask = getattr(self._api, f"{question.__name__}_without_preload_content")
        response = await ask(**names, _request_timeout=LIST_TIMEOUT_S)
        body = await response.text()
        if response.status != 200:
            raise ApiException(status=response.status, reason=body)
        listing: Json = json.loads(body)
        self._pods = {_key(pod): self._urls(pod) for pod in listing.get("items") or ()}
        await self._apply()
        version: str = listing["metadata"]["resourceVersion"]
        return version

    async def _watch(self, version: str) -> None:
        """Follow the pods from this version on, until it is time to list them again."""
        from kubernetes.aio.watch import Watch  # noqa: PLC0415 - an extra

        question, names = self._question()
        wait_s = self._wanted.relist_s
        async with asyncio.timeout(wait_s + SLACK_S), Watch("object") as watch:
            events = watch.stream(
                question, **names, resource_version=version, timeout_seconds=wait_s
            )
            async for event in events:
                await self._follow(event["type"], event["raw_object"])

    async def _follow(self, kind: str, pod: Json) -> None:
        if kind == "DELETED":
            self._pods.pop(_key(pod), None)
        elif kind in {"ADDED", "MODIFIED"}:
            self._pods[_key(pod)] = self._urls(pod)
        await self._apply()

    def _question(self) -> tuple[Any, Json]:
        names: Json = {"label_selector": self._wanted.selector}
        if self._wanted.namespace is None:
            return self._api.list_pod_for_all_namespaces, names
        return self._api.list_namespaced_pod, {**names, "namespace": self._wanted.namespace}

    def _urls(self, pod: Json) -> frozenset[str]:
        return worker_urls(pod, self._wanted.port)

    async def _apply(self) -> None:
        """Let come who is new, and go who is gone."""
        async with self._applying:
            await self._apply_now()

    async def _apply_now(self) -> None:
        urls: frozenset[str] = frozenset().union(*self._pods.values())
        for url in self._joined.keys() - urls:
            candidate = self._joined.pop(url)
            if candidate in self._fleet.candidates:  # An administrator may have removed it.
                log.info("Worker %s leaves: its pod is gone, or not ready", url)
                self._fleet.remove(candidate, self._wanted.grace_s)
        for url in sorted(urls - self._joined.keys()):
            try:
                self._joined[url] = await self._fleet.add(url)
            except Conflict:  # It is on its way out, or is there by a flag: tried again soon.
                log.debug("Worker %s is known already", url)
            else:
                log.info("Worker %s comes: its pod is ready", url)


def _key(pod: Json) -> str:
    uid: str = pod["metadata"]["uid"]
    return uid


async def _new_api(environment: Mapping[str, str]) -> Any:
    """The cluster's API: the one we run in, else the one that KUBECONFIG names."""
    try:
        from kubernetes.aio import client, config  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError("--service-discovery: needs pip install 'smg[k8s]'") from error
    configuration = client.Configuration()
    try:
        if IN_CLUSTER in environment:
            config.load_incluster_config(client_configuration=configuration)
        else:
            await config.load_kube_config(
                config_file=environment.get("KUBECONFIG"),
                client_configuration=configuration,
                persist_config=False,
            )
    except config.ConfigException as error:
        raise ConfigError(f"--service-discovery: where is the cluster? {error}") from error
    return client.CoreV1Api(client.ApiClient(configuration))
