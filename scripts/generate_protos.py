"""Generate smg/engines/_generated from proto/.

With --check nothing is written: the committed files are compared with fresh ones, and the exit
status says whether they are the same. The files register under `smg/engines/_generated/`, so
that imports between them work and no other package's `common.proto` is meant.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "smg/engines/_generated"
COMMITTED = ROOT / PACKAGE
INIT = '"""Protobuf messages of the engines: made by scripts/generate_protos.py, not by hand."""\n'


def generate(out: Path) -> None:
    """Write the package's files below a folder.

    Raises:
        SystemExit: protoc refused a file; it has said why.
    """
    sources = sorted(path.name for path in (ROOT / "proto").glob("*.proto"))
    well_known = Path(protoc.__file__).parent / "_proto"
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={PACKAGE}={ROOT / 'proto'}",
            f"--proto_path={well_known}",
            f"--python_out={out}",
            f"--pyi_out={out}",
            *(f"{PACKAGE}/{name}" for name in sources),
        ]
    )
    if status != 0:
        raise SystemExit(status)
    (out / PACKAGE / "__init__.py").write_text(INIT)


def stale(fresh: Path) -> list[str]:
    """Names of files that differ from fresh ones, are missing, or have no source any more."""
    new, old = _contents(fresh), _contents(COMMITTED)
    return sorted(name for name in new.keys() | old.keys() if new.get(name) != old.get(name))


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.py*") if path.is_file()}


def main() -> int:
    """Generate or check; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare only")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = Path(folder) / PACKAGE
        names = stale(fresh)
        if check and names:
            print(f"{PACKAGE} is not current ({', '.join(names)}): run scripts/generate_protos.py")
            return 1
        if not check:
            for name in names:
                (COMMITTED / name).unlink(missing_ok=True)
            COMMITTED.mkdir(exist_ok=True)
            for path in fresh.iterdir():
                (COMMITTED / path.name).write_bytes(path.read_bytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
