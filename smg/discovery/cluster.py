"""The cluster's API, as far as discovery needs it: pods listed, and watched from there on.

Questions go out over HTTP, pods as JSON come in. It must not know which pod is a worker. Needs the
package `kubernetes` (the extra `k8s`), and only when it is used.
"""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import closing
from typing import Any, Final

from smg.errors import ConfigError

IN_CLUSTER: Final = "KUBERNETES_SERVICE_HOST"
LIST_TIMEOUT_S: Final = 30.0
SLACK_S: Final = 15.0
"""How much later than asked for the server may end a watch."""
GONE: Final = 410

Json = dict[str, Any]


class ClusterError(Exception):
    """Raised when the cluster's API refuses; the message is the cluster's own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status} {message}")
        self.status = status


class PodApi:
    """The pods with these labels, in one namespace or (`None`) in all."""

    def __init__(self, api: Any, selector: str, namespace: str | None) -> None:
        """`api` is the client's CoreV1Api."""
        self._ask = api.list_pod_for_all_namespaces_without_preload_content
        self._question: Json = {"label_selector": selector}
        if namespace is not None:
            self._ask = api.list_namespaced_pod_without_preload_content
            self._question["namespace"] = namespace

    async def list(self) -> tuple[Sequence[Json], str]:
        """The pods as they are, and the version of the list.

        Raises:
            ClusterError: the cluster refuses.
        """
        response = await self._ask(**self._question, _request_timeout=LIST_TIMEOUT_S)
        with closing(response):
            await _check(response)
            listing: Json = json.loads(await response.text())
        version: str = listing["metadata"]["resourceVersion"]
        return listing.get("items") or (), version

    async def watch(self, version: str, seconds: int) -> AsyncGenerator[tuple[str, Json], None]:
        """Follow what happens to the pods after this version: the kind of event, and the pod.

        Raises:
            ClusterError: the cluster refuses, or ends it with an error.
        """
        response = await self._ask(
            **self._question,
            resource_version=version,
            timeout_seconds=seconds,
            watch=True,
            _request_timeout=seconds + SLACK_S,
        )
        with closing(response):
            await _check(response)
            while line := await response.content.readline():
                event: Json = json.loads(line)
                if event["type"] == "ERROR":
                    raise _refusal(event["object"].get("code", 0), event["object"])
                yield event["type"], event["object"]


async def _check(response: Any) -> None:
    if response.status == 200:
        return
    text = await response.text()
    try:
        said = json.loads(text)
    except ValueError:  # Of something between us and the cluster.
        said = None
    raise _refusal(response.status, said if isinstance(said, dict) else {"message": text[:200]})


def _refusal(status: int, said: Json) -> ClusterError:
    return ClusterError(status, said.get("message") or said.get("reason") or "without a reason")


async def connect(environment: Mapping[str, str]) -> Any:
    """The client of the cluster that we run in, else of the one that KUBECONFIG names.

    Raises:
        ConfigError: it is not known where the cluster is.
    """
    try:
        from kubernetes.aio import client, config  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError("--service-discovery: needs pip install 'smg[k8s]'") from error
    configuration = client.Configuration()
    try:
        if IN_CLUSTER in environment:
            # Reads the account's token again every minute: Kubernetes changes it.
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
