"""What the documents say is true: links lead somewhere, flags exist, examples run."""

import ast
import asyncio
import dataclasses
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from smg.settings import Settings, flag_of, variable_of
from smg.testing import engine
from tests.e2e.gateway import served

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# A fence may be longer than three backticks, to hold shorter ones.
FENCED = re.compile(
    r"^(?P<fence>`{3,})(?P<kind>\w*)\n(?P<text>.*?)^(?P=fence)$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")
FLAG = re.compile(r"`(--[a-z][a-z-]*)")
VARIABLE = re.compile(r"\bSMG_[A-Z_]+\b")

OTHER_FLAGS = {
    *("--help", "--version", "--once", "--restore"),  # smg, smg demo, smg doctor
    *("--update-golden", "--update-cassettes"),  # pytest
}
OTHER_VARIABLES = {
    "SMG_API_KEY",  # Also the client's, in docs/clients.md.
    *("SMG_VLLM_PYTHON", "SMG_MLX_PYTHON"),  # make test-engines
    "SMG_FAULT",  # smg/faults.py
}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, kind: str) -> Iterator[str]:
    for block in FENCED.finditer(page.read_text()):
        if block["kind"] == kind:
            yield block["text"]


def prose(page: Path) -> str:
    return FENCED.sub("", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    links = LINK.findall(prose(page))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_flags_and_variables_that_a_page_names_exist(page: Path) -> None:
    fields = [entry.name for entry in dataclasses.fields(Settings)]
    known = {flag_of(field) for field in fields} | OTHER_FLAGS
    known |= {option for action in engine._parser()._actions for option in action.option_strings}
    aliases = {alias for e in dataclasses.fields(Settings) for alias in e.metadata["aliases"]}
    assert set(FLAG.findall(prose(page))) - known - aliases == set()
    variables = {variable_of(field) for field in fields} | OTHER_VARIABLES
    assert set(VARIABLE.findall(page.read_text())) - variables == set()


READERS: dict[str, Any] = {
    "json": json.loads,
    "yaml": yaml.safe_load,
    "toml": tomllib.loads,
    "python": lambda text: compile(text, "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT),
}


@pytest.mark.parametrize(
    ("page", "kind", "text"),
    [(name(page), kind, text) for page in PAGES for kind in READERS for text in blocks(page, kind)],
)
def test_a_block_of_code_can_be_read(page: str, kind: str, text: str) -> None:
    assert READERS[kind](text) is not None


def test_the_targets_that_the_pages_name_are_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        target
        for page in PAGES
        for target in re.findall(r"(?:^    |`)make ([a-z-]+)", page.read_text(), re.MULTILINE)
    }
    assert named
    assert named <= targets


async def test_the_readmes_first_program_runs(tmp_path: Path) -> None:
    [program, *_] = blocks(ROOT / "README.md", "python")
    async with served(tmp_path, served_model_name="Qwen/Qwen3-8B") as running:
        said = await asyncio.to_thread(run, program, running.url)
    # The scripted engine answers; it finds the product, and the clock of the tools.
    assert said["response"].output_text.startswith("21 times 2 is 42")
    assert said["more"].previous_response_id == said["response"].id


async def test_the_clients_pages_first_program_runs(tmp_path: Path) -> None:
    [program, *_] = blocks(ROOT / "docs/clients.md", "python")
    async with served(tmp_path, tools=False) as running:
        await asyncio.to_thread(run, program, running.url)
        assert len(running.engine.requests) == 1


def run(program: str, url: str) -> dict[str, Any]:
    """Run a page's program against this gateway; the names it has made."""
    names: dict[str, Any] = {"print": lambda *words: None}
    assert "http://127.0.0.1:30000/v1" in program
    exec(compile(program.replace("http://127.0.0.1:30000", url), "page", "exec"), names)
    names["client"].close()
    return names
