"""What Helm makes of the chart, read as a cluster and the gateway would (made by test-deploy)."""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import kubernetes_validate
import pytest
import yaml

from smg import __version__
from smg.directory import ModelDirectory
from smg.settings import Settings, add_flags, new_parser, read
from smg.web.health import new_router
from tests.deploy.chart import (
    CASES,
    CHART,
    FINGERPRINT,
    Json,
    documents,
    fingerprint,
    golden_of,
    values_of,
)

KUBERNETES = "1.37"
FOREIGN = {"ServiceMonitor", "HTTPRoute"}
"""Kinds that are no part of Kubernetes, and of which there is no schema here."""

ALWAYS = {"Deployment", "PodDisruptionBudget", "Service"}
KINDS = {
    "default": {"ConfigMap", "Role", "RoleBinding", "ServiceAccount"},
    "everywhere": {"ClusterRole", "ClusterRoleBinding", "ConfigMap", "HTTPRoute"}
    | {"NetworkPolicy", "ServiceAccount"},
    "scaled": {"ConfigMap", "HorizontalPodAutoscaler", "Ingress", "NetworkPolicy", "Role"}
    | {"RoleBinding", "ServiceAccount", "ServiceMonitor"},
    "static": set(),
}


@cache
def rendered(case: str) -> list[Json]:
    return documents(golden_of(case).read_text("utf-8"))


def only(case: str, kind: str) -> Any:
    [found] = [entry for entry in rendered(case) if entry["kind"] == kind]
    return found


def pod_of(case: str) -> Any:
    return only(case, "Deployment")["spec"]["template"]


def container_of(case: str) -> Any:
    [container] = pod_of(case)["spec"]["containers"]
    return container


def settings_of(case: str) -> Settings:
    """What the gateway reads in such a pod."""
    container = container_of(case)
    parser = new_parser("")
    add_flags(parser)
    secret = {"SMG_DATABASE_URL": "postgresql://x/y", "SMG_API_KEY": "one two"}
    environment = {entry["name"]: entry.get("value", "secret") for entry in container["env"]}
    return read(vars(parser.parse_args(container["args"])), {**environment, **secret})


def selected(selector: Json, labels: Json) -> bool:
    return selector.items() <= labels.items()


def test_what_was_rendered_is_of_this_chart() -> None:
    assert fingerprint() == FINGERPRINT.read_text("utf-8"), (
        "the chart has changed: make test-deploy ARGS=--update-golden"
    )
    assert {path.stem for path in FINGERPRINT.parent.glob("*.yaml")} == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_kubernetes_knows_every_field(case: str) -> None:
    entries = rendered(case)
    assert {entry["kind"] for entry in entries} == ALWAYS | KINDS[case]
    for entry in entries:
        if entry["kind"] not in FOREIGN:
            kubernetes_validate.validate(entry, KUBERNETES, strict=True)


def test_the_schema_names_the_values_that_there_are_and_the_image_is_of_this_version() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    # Helm adds `global` itself when a chart is part of another one.
    assert set(schema["properties"]) - {"global"} == set(values)
    for name, part in schema["properties"].items():
        if "properties" in part:
            assert set(part["properties"]) == set(values[name]), name
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__


def value_paths(values: Json, before: str = "") -> Iterator[str]:
    for name, value in values.items():
        is_ours = isinstance(value, dict) and value and name not in {"config", "annotations"}
        if is_ours and name != "resources":
            yield from value_paths(value, f"{before}.{name}")
        else:
            yield f"{before}.{name}"


def test_every_value_is_used() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    used = "".join(path.read_text() for path in (CHART / "templates").iterdir())
    used = used.replace("$secret.", ".Values.secret.")
    assert [path for path in value_paths(values) if f".Values{path}" not in used] == []


@pytest.mark.parametrize("case", CASES)
def test_the_gateway_understands_its_flags_and_variables(case: str) -> None:
    settings = settings_of(case)
    discovery = case != "static"
    assert settings.service_discovery is discovery
    assert settings.log_json
    assert settings.database_url == "postgresql://x/y"
    assert settings.api_key == ("one", "two")
    assert (settings.admin_key, settings.seal_key) == ("secret", "secret")
    mounts = {entry["mountPath"] for entry in container_of(case)["volumeMounts"]}
    assert (settings.mcp_config_path or "").rpartition("/")[0] in mounts
    ports = {entry["name"]: entry["containerPort"] for entry in container_of(case)["ports"]}
    assert ports == {"http": settings.port, "metrics": settings.metrics_port}
    assert settings.host == settings.metrics_host


def test_values_reach_the_flags_they_are_about() -> None:
    scaled, static, everywhere = map(settings_of, ("scaled", "static", "everywhere"))
    assert scaled.selector == ("app=vllm", "tier=gpu")
    assert scaled.service_discovery_port == 50052
    assert scaled.service_discovery_namespace == "engines"
    assert scaled.shutdown_grace_seconds == 120
    assert everywhere.service_discovery_namespace is None
    assert (everywhere.policy, everywhere.max_concurrent_requests) == ("least_load", 200)
    assert settings_of("default").service_discovery_namespace == "llm"
    assert static.worker_urls == ("grpc://10.0.0.7:50051", "https://llm.example.com/v1")
    assert static.model_path == "/models/qwen3"
    assert static.host == "::"


@pytest.mark.parametrize("case", CASES)
def test_the_pod_outlives_the_gateways_own_grace_period(case: str) -> None:
    before_s = container_of(case)["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace_s = pod_of(case)["spec"]["terminationGracePeriodSeconds"]
    assert before_s > 0
    assert grace_s > before_s + settings_of(case).shutdown_grace_seconds + 10


@pytest.mark.parametrize("case", CASES)
def test_probes_ask_what_there_is(case: str) -> None:
    there = {getattr(route, "path", "") for route in _health_routes()}
    container = container_of(case)
    paths = {
        name: container[f"{name}Probe"]["httpGet"]["path"]
        for name in ("startup", "liveness", "readiness")
    }
    assert set(paths.values()) <= there
    # A gateway whose workers are gone is not to be started again.
    assert paths["startup"] == paths["liveness"] == "/liveness"
    assert paths["readiness"] == "/readiness"


def _health_routes() -> Any:
    def unasked(*_: Any) -> Any:
        raise NotImplementedError

    return new_router(ModelDirectory((), {}), unasked, unasked, unasked).routes


@pytest.mark.parametrize("case", CASES)
def test_the_gateway_runs_with_as_little_as_it_can(case: str) -> None:
    pod, container = pod_of(case)["spec"], container_of(case)
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is settings_of(case).service_discovery
    assert pod["enableServiceLinks"] is False  # SMG_PORT=tcp://... of a Service named smg.
    volumes = {entry["name"]: entry for entry in pod["volumes"]}
    for mount in container["volumeMounts"]:
        assert mount.get("readOnly", False) is ("emptyDir" not in volumes[mount["name"]])
    assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/home/smg", "/tmp"}


@pytest.mark.parametrize("case", CASES)
def test_selectors_find_the_pods_and_only_what_a_pod_has_is_pointed_at(case: str) -> None:
    pod, ports = pod_of(case), {entry["name"] for entry in container_of(case)["ports"]}
    labels = pod["metadata"]["labels"]
    services = [entry for entry in rendered(case) if entry["kind"] == "Service"]
    for service in services:
        assert selected(service["spec"]["selector"], labels)
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert selected(only(case, kind)["spec"]["selector"]["matchLabels"], labels)
    for spread in pod["spec"].get("topologySpreadConstraints", ()):
        assert selected(spread["labelSelector"]["matchLabels"], labels)
    if "NetworkPolicy" in KINDS[case]:
        policy = only(case, "NetworkPolicy")["spec"]
        assert selected(policy["podSelector"]["matchLabels"], labels)
        assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == ports
    if "ServiceMonitor" in KINDS[case]:
        spec = only(case, "ServiceMonitor")["spec"]
        [found] = [
            service
            for service in services
            if selected(spec["selector"]["matchLabels"], service["metadata"]["labels"])
        ]
        assert [e["port"] for e in spec["endpoints"]] == [p["name"] for p in found["spec"]["ports"]]


@pytest.mark.parametrize(
    ("case", "kind", "namespace"),
    [
        ("default", "Role", "llm"),
        ("scaled", "Role", "engines"),
        ("everywhere", "ClusterRole", None),
    ],
)
def test_the_account_may_see_pods_there_and_nothing_else(
    case: str, kind: str, namespace: str | None
) -> None:
    role, binding = only(case, kind), only(case, f"{kind}Binding")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]
    for entry in (role, binding):
        assert entry["metadata"].get("namespace") == namespace
    assert binding["roleRef"]["kind"] == kind
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    account = only(case, "ServiceAccount")["metadata"]["name"]
    assert pod_of(case)["spec"]["serviceAccountName"] == account
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "llm"}]


def test_an_autoscaler_decides_how_many_there_are() -> None:
    assert "replicas" not in only("scaled", "Deployment")["spec"]
    assert only("default", "Deployment")["spec"]["replicas"] == 2
    target = only("scaled", "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target["name"] == only("scaled", "Deployment")["metadata"]["name"]


def test_changed_tool_servers_make_new_pods_and_are_the_file_that_is_read() -> None:
    sums = {case: pod_of(case)["metadata"]["annotations"]["checksum/mcp"] for case in CASES}
    assert sums["default"] == sums["everywhere"]
    assert len(set(sums.values())) == 3
    given = yaml.safe_load(values_of("scaled").read_text())["mcp"]["config"]
    assert json.loads(only("scaled", "ConfigMap")["data"]["mcp.json"]) == given


def test_events_are_not_held_back_by_an_ingress_and_an_answer_may_take_its_time() -> None:
    ingress = only("scaled", "Ingress")
    annotations = ingress["metadata"]["annotations"]
    settings = settings_of("scaled")
    assert annotations["nginx.ingress.kubernetes.io/proxy-buffering"] == "off"
    read_timeout = annotations["nginx.ingress.kubernetes.io/proxy-read-timeout"]
    assert int(read_timeout) >= settings.response_timeout_secs
    body_size = annotations["nginx.ingress.kubernetes.io/proxy-body-size"]
    assert body_size == f"{settings.max_body_mib}m"
    [rule] = only("everywhere", "HTTPRoute")["spec"]["rules"]
    assert rule["timeouts"] == {"request": "0s"}
