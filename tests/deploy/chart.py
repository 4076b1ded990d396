"""The Helm chart, the values it is tried with, and where it is kept what Helm makes of them.

`make test-deploy` renders with a real Helm; plain tests read what it rendered. The fingerprint
beside the rendered files says which chart, and which values, they are of.
"""

import hashlib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "deploy/helm/smg"
VALUES = Path(__file__).parent / "values"
GOLDEN = ROOT / "tests/golden/deploy"
FINGERPRINT = GOLDEN / "chart.sha256"
CASES = sorted(path.stem for path in VALUES.glob("*.yaml"))
RELEASE = "gateway"
NAMESPACE = "llm"

Json = dict[str, Any]


def values_of(case: str) -> Path:
    """The values of a case."""
    return VALUES / f"{case}.yaml"


def golden_of(case: str) -> Path:
    """What Helm makes of them."""
    return GOLDEN / f"{case}.yaml"


def fingerprint() -> str:
    """One hash of all files of the chart and all values, by name."""
    files = [path for folder in (CHART, VALUES) for path in folder.rglob("*") if path.is_file()]
    whole = hashlib.sha256()
    for path in sorted(files):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        whole.update(f"{content}  {path.relative_to(ROOT).as_posix()}\n".encode())
    return whole.hexdigest() + "\n"


def documents(text: str) -> list[Json]:
    """The objects of rendered YAML, in an order that does not depend on Helm's version."""
    found = [entry for entry in yaml.safe_load_all(text) if entry is not None]
    return sorted(found, key=lambda entry: (entry["kind"], entry["metadata"]["name"]))
