"""The real templates that the project's shared folder holds, where there is one."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "shared" / "templates"
REFERENCE = sorted(FOLDER.glob("*.jinja"))

each_reference = pytest.mark.parametrize(
    "path",
    REFERENCE or [pytest.param(None, marks=pytest.mark.skip(reason=f"no templates in {FOLDER}"))],
    ids=lambda path: path.stem if path else "none",
)
