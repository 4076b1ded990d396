"""The chart through a real Helm (make test-deploy); tests/test_deploy.py reads what it renders."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.chart import (
    CASES,
    CHART,
    FINGERPRINT,
    NAMESPACE,
    RELEASE,
    documents,
    fingerprint,
    golden_of,
    values_of,
)


def helm(*words: str) -> "subprocess.CompletedProcess[str]":
    program = os.environ.get("SMG_HELM") or shutil.which("helm")
    assert program, "no helm: use make test-deploy, or set SMG_HELM"
    return subprocess.run(
        [program, *words], capture_output=True, text=True, check=False, timeout=30
    )


def rendered(*words: str, command: str = "template") -> str:
    answer = helm(command, RELEASE, str(CHART), "--namespace", NAMESPACE, *words)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.mark.parametrize("case", CASES)
def test_helm_has_nothing_to_complain_of(case: str) -> None:
    answer = helm("lint", "--strict", str(CHART), "--values", str(values_of(case)))
    assert answer.returncode == 0, answer.stdout


@pytest.mark.parametrize("case", CASES)
def test_what_helm_renders_is_what_was_looked_at(case: str, request: pytest.FixtureRequest) -> None:
    text = rendered("--values", str(values_of(case)))
    if request.config.getoption("--update-golden"):
        golden_of(case).write_text(text, "utf-8")
        FINGERPRINT.write_text(fingerprint(), "utf-8")
    assert documents(text) == documents(golden_of(case).read_text("utf-8"))


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ("replicas=many", "replicas"),
        ("replica=1", "replica"),
        ("discovery.selector={app}", "discovery"),
        ("discovery.selector=null", "selector"),
        ("podAnnotations.x=true", "podAnnotations"),
        ("httpRoute.enabled=true", "parentRefs"),
        ("workerUrls={10.0.0.1:50051}", "workerUrls"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(given: str, where: str) -> None:
    answer = helm("template", RELEASE, str(CHART), "--set", given)
    assert answer.returncode != 0
    assert where in answer.stderr


def test_two_releases_of_one_namespace_have_no_name_in_common() -> None:
    flags = ("--values", str(values_of("scaled")), "--namespace", NAMESPACE)
    names = [
        {(d["kind"], d["metadata"]["name"]) for d in documents(answer.stdout)}
        for answer in (helm("template", name, str(CHART), *flags) for name in ("smg", "smg-two"))
    ]
    assert names[0]
    assert not names[0] & names[1]


@pytest.mark.parametrize(
    ("case", "line"),
    [
        ("default", "curl http://127.0.0.1:30000/v1/models"),
        ("scaled", "curl https://llm.example.com/v1/models"),
    ],
)
def test_the_notes_say_how_to_ask_for_the_models(case: str, line: str) -> None:
    if helm("version", "--short").stdout.startswith("v3"):
        pytest.skip("Helm 3 asks a cluster before it shows the notes")
    notes = rendered("--dry-run=client", "--values", str(values_of(case)), command="install")
    assert line in notes.partition("NOTES:")[2]


def test_the_package_has_what_the_chart_needs(tmp_path: Path) -> None:
    answer = helm("package", str(CHART), "--destination", str(tmp_path))
    assert answer.returncode == 0, answer.stderr
    [package] = tmp_path.glob("smg-*.tgz")
    answer = helm("template", RELEASE, str(package), "--values", str(values_of("scaled")))
    assert documents(answer.stdout)
