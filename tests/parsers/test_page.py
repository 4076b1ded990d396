"""docs/parsers.md is what scripts/parsers_page.py writes."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_page_about_parsers_is_current() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "parsers_page.py"))
    assert (ROOT / "docs" / "parsers.md").read_text("utf-8") == script["page"]()
