"""The Helm chart as far as it can be read without Helm: names, values, and YAML once filled in."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from smg.settings import Settings, variable_of

ROOT = Path(__file__).parent.parent
CHART = ROOT / "deploy/helm/smg"
TEMPLATES = sorted((CHART / "templates").glob("*.yaml"))
VALUE = re.compile(r"\.Values((?:\.\w+)+)")
ACTION = re.compile(r"\{\{.*?\}\}", re.DOTALL)
KINDS = {
    *("ConfigMap", "Deployment", "PodDisruptionBudget", "Role", "RoleBinding", "Service"),
    "ServiceAccount",
}


def values() -> Any:
    return yaml.safe_load((CHART / "values.yaml").read_text())


def filled(path: Path) -> Any:
    """A template without the lines that are only actions, and a word for every other action."""
    lines = path.read_text().splitlines()
    kept = [line for line in lines if not re.fullmatch(r"\s*\{\{.*\}\}", line)]
    return yaml.safe_load("\n".join(ACTION.sub("filled", line) for line in kept))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_template_uses_values_that_there_are_and_is_yaml(path: Path) -> None:
    text = path.read_text()
    for name in VALUE.findall(text):
        found = values()
        for part in name.split(".")[1:]:
            assert part in found, name
            found = found[part]
    opened = len(re.findall(r"\{\{-? *(?:if|with|range|define) ", text))
    assert opened == len(re.findall(r"\{\{-? *end *-?\}\}", text))
    assert {"apiVersion", "kind", "metadata"} <= filled(path).keys()


def test_every_kind_is_there_and_every_name_that_is_included_is_defined() -> None:
    assert {filled(path)["kind"] for path in TEMPLATES} == KINDS
    named = "".join(path.read_text() for path in (CHART / "templates").iterdir())
    assert set(re.findall(r'include "([^"]+)"', named)) <= set(
        re.findall(r'define "([^"]+)"', named)
    )
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["name"] == "smg"


def test_the_gateway_is_run_by_variables_and_probes_that_it_has() -> None:
    pod = filled(CHART / "templates/deployment.yaml")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    known = {variable_of(name) for name in Settings.__dataclass_fields__}
    assert {entry["name"] for entry in container["env"]} <= known
    assert container["readinessProbe"]["httpGet"]["path"] == "/readiness"
    assert container["livenessProbe"]["httpGet"]["path"] == "/liveness"
    given = values()
    assert given["terminationGracePeriodSeconds"] > given["shutdownGraceSeconds"]
