"""Write the table of docs/clients.md from the report of the clients' tests.

    scripts/client_matrix.py build/clients.xml [--check]

In: pytest's JUnit report of tests/clients, with the clients' versions as properties of the suite.
Out: the part of the page between its two markers; a test's name is the sentence on the page. With
--check nothing is written, and the exit status says whether the page is what the report says.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

PAGE = Path(__file__).resolve().parent.parent / "docs/clients.md"
BEGIN = "<!-- from here on: scripts/client_matrix.py -->"
END = "<!-- to here -->"

CLIENTS = {  # Test module: what people call the client, and the packages it is.
    "test_openai_python": ("openai-python", ("pypi:openai",)),
    "test_openai_agents": ("OpenAI Agents SDK (Python)", ("pypi:openai-agents",)),
    "test_langchain": ("LangChain ChatOpenAI", ("pypi:langchain-openai",)),
    "test_openai_node": ("openai-node", ("npm:openai",)),
    "test_ai_sdk": ("Vercel AI SDK", ("npm:ai", "npm:@ai-sdk/openai")),
    "test_codex": ("Codex CLI", ("npm:@openai/codex",)),
}


@dataclass(frozen=True, slots=True)
class Report:
    """What a run of the tests found."""

    versions: Mapping[str, str]
    passed: Mapping[str, Mapping[str, bool]]
    """Test module to sentence to whether all its cases passed."""


def read_report(path: Path) -> Report:
    """The report in a file of pytest's.

    Raises:
        SystemExit: it holds a test module that is no client here, or lacks one.
    """
    suites = ElementTree.parse(path).getroot()
    found = {entry.get("name", ""): entry.get("value", "") for entry in suites.iter("property")}
    passed: dict[str, dict[str, bool]] = {module: {} for module in CLIENTS}
    for case in suites.iter("testcase"):
        module = case.get("classname", "").rpartition(".")[2]
        if module not in passed:
            raise SystemExit(f"{path}: {module} is no client that scripts/client_matrix.py knows")
        sentence = _sentence(case.get("name", ""))
        fine = not any(case.find(tag) is not None for tag in ("failure", "error", "skipped"))
        passed[module][sentence] = fine and passed[module].get(sentence, True)
    if absent := [module for module, sentences in passed.items() if not sentences]:
        raise SystemExit(f"{path}: no tests of {', '.join(absent)}: run all of tests/clients")
    return Report(found, passed)


def _sentence(test: str) -> str:
    """A test's name in words, without its case."""
    return test.partition("[")[0].removeprefix("test_").replace("_", " ")


def write_table(report: Report) -> str:
    """The table, and under it what each client was seen to do."""
    lines = ["| client | packages | passes |", "|---|---|---|"]
    for module, (name, packages) in CLIENTS.items():
        versions = ", ".join(_package(package, report) for package in packages)
        sentences = report.passed[module]
        lines.append(f"| {name} | {versions} | {sum(sentences.values())} of {len(sentences)} |")
    for module, (name, _packages) in CLIENTS.items():
        lines += ["", f"### {name}", ""]
        for sentence, fine in report.passed[module].items():
            lines.append(f"- {sentence}" if fine else f"- **fails:** {sentence}")
    return "\n".join(lines)


def _package(package: str, report: Report) -> str:
    registry, _, name = package.partition(":")
    version = report.versions.get(package, "not installed")
    return f"`{name}` {version} ({'PyPI' if registry == 'pypi' else 'npm'})"


def fill(page: str, table: str) -> str:
    """The page with this table between its markers.

    Raises:
        SystemExit: the page lacks a marker.
    """
    before, begin, rest = page.partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE}: needs the lines {BEGIN} and {END}")
    return f"{before}{begin}\n\n{table}\n\n{end}{after}"


def main(words: Sequence[str] | None = None) -> int:
    """Write or check the page; the exit status."""
    parser = argparse.ArgumentParser(description="Write the table of docs/clients.md.")
    parser.add_argument("report", type=Path, help="pytest's JUnit report of tests/clients")
    parser.add_argument("--check", action="store_true", help="only compare")
    arguments = parser.parse_args(words)
    page = PAGE.read_text("utf-8")
    filled = fill(page, write_table(read_report(arguments.report)))
    if arguments.check and filled != page:
        sys.stderr.write("docs/clients.md is not what the tests say: run make test-clients\n")
        return 1
    PAGE.write_text(filled, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
