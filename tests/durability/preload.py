"""C libraries that are put between a process and its system, by LD_PRELOAD."""

import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest


def built(name: str, folder: Path) -> Path:
    """The library of `name`.c beside this; a test that cannot have it is skipped."""
    compiler = which("cc") or which("gcc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("putting something between a process and its system needs Linux and a compiler")
    source, library = Path(__file__).with_name(f"{name}.c"), folder / f"{name}.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run([*command, "-lpthread"], check=True, timeout=60)
    return library
