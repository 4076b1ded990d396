"""Pods of a Kubernetes cluster to workers: those with the right labels that are ready.

The cluster says which pods there are; worker URLs are added and removed. It must not know what a
worker is, nor how the cluster is asked.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from smg.discovery.candidates import Candidate
from smg.discovery.cluster import GONE, SLACK_S, ClusterError, Json, PodApi, connect
from smg.discovery.fleet import Fleet
from smg.discovery.named import Description, Named
from smg.discovery.pods import Pod, Wanted, read_pod, read_wanted
from smg.errors import Conflict
from smg.settings import Settings

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 30.0
STEADY_S = 5.0
"""A watch that lasted so long has worked: the next pause is a short one again."""
RETRY_S = 1.0
FORBIDDEN = 403


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
    api = await connect(environment)
    pods = PodApi(api, wanted.selector, wanted.namespace)
    following = asyncio.create_task(PodDiscovery(pods, wanted, fleet).run())
    try:
        yield
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await api.api_client.close()


@dataclass(frozen=True, slots=True)
class Member:
    """A worker, and the pod that it is in."""

    pod: str
    candidate: Candidate


class PodDiscovery:
    """Pods as they come and go."""

    def __init__(self, api: PodApi, wanted: Wanted, fleet: Fleet) -> None:
        self._api = api
        self._wanted = wanted
        self._fleet = fleet
        self._pods: dict[str, Pod] = {}
        self._members: dict[str, Member] = {}
        self._leaving: dict[str, Member] = {}
        self._applying = asyncio.Lock()

    async def run(self) -> None:
        """List the pods and watch them, again and again.

        While the cluster's API does not answer, the workers stay as they were.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ask_for_ever())
            group.create_task(self._retry_for_ever())

    async def _retry_for_ever(self) -> None:
        """Take in workers at whose address another one was still on its way out."""
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
        status = error.status if isinstance(error, ClusterError) else None
        if status == GONE:
            log.info("Kubernetes: the watch is too old; pods are listed again")
            return
        reason = str(error) if status else f"{type(error).__name__}: {error}"
        advice = ""
        if status == FORBIDDEN:
            namespace = self._wanted.namespace
            where = f"in the namespace {namespace}" if namespace else "of all namespaces"
            advice = f" (the gateway's account needs list and watch for pods {where})"
        log.warning("Kubernetes does not tell of pods, trying again: %s%s", reason, advice)

    async def _list(self) -> str:
        """Take over the pods as they are; the version of the list."""
        pods, version = await self._api.list()
        found = [read_pod(pod, self._wanted.port) for pod in pods]
        self._pods = {pod.uid: pod for pod in found}
        await self._apply()
        return version

    async def _watch(self, version: str) -> None:
        """Follow the pods from this version on, until it is time to list them again."""
        seconds = self._wanted.relist_s
        async with (
            asyncio.timeout(seconds + SLACK_S),
            aclosing(self._api.watch(version, seconds)) as events,
        ):
            async for kind, pod in events:
                await self._follow(kind, pod)

    async def _follow(self, kind: str, pod: Json) -> None:
        if kind == "DELETED":
            self._pods.pop(pod["metadata"]["uid"], None)
        elif kind in {"ADDED", "MODIFIED"}:
            found = read_pod(pod, self._wanted.port)
            self._pods[found.uid] = found
        await self._apply()

    async def _apply(self) -> None:
        """Let come who is new, and go who is gone."""
        async with self._applying:
            pods = {url: pod for pod in self._pods.values() for url in pod.urls}
            for url, member in list(self._members.items()):
                # An address of a pod that is gone may be given to another one.
                if url not in pods or pods[url].uid != member.pod:
                    self._let_go(url)
            for url in sorted(pods.keys() - self._members.keys()):
                await self._let_come(url, pods[url])
            there = self._fleet.candidates
            self._leaving = {u: m for u, m in self._leaving.items() if m.candidate in there}

    def _let_go(self, url: str) -> None:
        member = self._members.pop(url)
        if member.candidate in self._fleet.candidates:  # An administrator may have removed it.
            log.info("Worker %s leaves: its pod is gone, or not ready", url)
            self._fleet.remove(member.candidate, self._wanted.grace_s)
            self._leaving[url] = member

    async def _let_come(self, url: str, pod: Pod) -> None:
        left = self._leaving.get(url)
        departures = self._fleet.departures
        if left and left.pod == pod.uid and departures.keep(left.candidate.address):
            log.info("Worker %s stays: its pod is ready again", url)
            self._members[url] = self._leaving.pop(url)
            return
        try:
            named = Named(url=url, description=Description(labels=pod.labels))
            candidate = await self._fleet.add(named)
        except Conflict:  # It is on its way out, or is there by a flag: tried again soon.
            log.debug("Worker %s is known already", url)
        else:
            log.info("Worker %s comes: its pod is ready", url)
            self._members[url] = Member(pod.uid, candidate)
