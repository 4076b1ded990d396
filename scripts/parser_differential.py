"""Our parsers against vLLM's, over every golden transcript and over outputs that users report.

Both read each text whole. A difference must be named in docs/parser-differences.md, where it is
judged; one that is not makes this fail. `make parser-differential` runs it.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from smg.parsers.lab import Parsed, parse
from tests.parsers.transcripts import OFFERED, Transcript, transcripts

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "parser-differences.md"
RESULTS = ROOT / "build" / "parser-differential.json"
WILD = ROOT / "scripts" / "wild_outputs.json"
TOKENIZER = ROOT / "smg" / "testing" / "model" / "tokenizer.json"

# What vLLM calls our families. It has no parser of bare JSON.
TOOL_PARSERS = {
    "llama": "llama3_json",
    "pythonic": "pythonic",
    "deepseek": "deepseek_v3",
    "deepseek31": "deepseek_v31",
    "deepseek_dsml": "deepseek_v32",
    "mistral": "mistral",
    "qwen": "hermes",
    "qwen_coder": "qwen3_coder",
    "glm45_moe": "glm45",
    "glm47_moe": "glm47",
    "step3": "step3",
    "kimik2": "kimi_k2",
    "kimi_k3": "kimi_k3",
    "minimax_m2": "minimax_m2",
    "cohere": "cohere_command3",
    "harmony": "openai",
    "gemma4": "gemma4",
}
REASONING_PARSERS = {
    "deepseek_r1": "deepseek_r1",
    "deepseek_v31": "deepseek_v3",
    "qwen3": "qwen3",
    "qwen3_thinking": "qwen3",
    "kimi_k25": "kimi_k2",
    "kimi_k3": "kimi_k3",
    "glm45": "glm45",
    "step3": "step3",
    "minimax": "minimax_m2",
    "cohere_cmd": "cohere_command3",
    "mistral": "mistral",
    "gemma4": "gemma4",
    "harmony": "openai_gptoss",
}
MARKER = re.compile(r"</?[^<>\s=\"]{2,40}>|\[/?[A-Z_]{4,}\]|｜DSML｜")
# Of the models that write lists; vLLM knows them by a vocabulary that has no [ARGS].
OLD_MISTRAL = re.compile(r"\[TOOL_CALLS\]\s*\[")

Finding = dict[str, Any]


def texts() -> list[Transcript]:
    """All that both sides read. Nobody has written down what the wild ones mean."""
    golden = [one for one in transcripts() if one.family in TOOL_PARSERS]
    wild = json.loads(WILD.read_text("utf-8")).items()
    return golden + [
        Transcript(family, name, text, expected=[])
        for family, outputs in wild
        for name, text in outputs.items()
    ]


def markers(transcript: Transcript, family: Sequence[Transcript]) -> list[str]:
    """The tokens that the vocabulary of the model would have: all that its family's texts hold."""
    found = {"<think>", "</think>"}
    for one in family:
        found.update(MARKER.findall(one.text))
    if OLD_MISTRAL.search(transcript.text):
        found.discard("[ARGS]")
    return sorted(found)


def dsml_parser(text: str) -> str:
    """DeepSeek V4 differs from V3.2 in the name of the outer block, and vLLM has two parsers."""
    return "deepseek_v4" if "<｜DSML｜tool_calls" in text else "deepseek_v32"


def case(transcript: Transcript, everything: Sequence[Transcript]) -> Finding:
    """One transcript as vLLM gets it."""
    family, text = transcript.family, transcript.text
    tools = dsml_parser(text) if family == "deepseek_dsml" else TOOL_PARSERS[family]
    reasoning = REASONING_PARSERS.get(transcript.reasoning)
    return {
        "text": text,
        "tool_parser": tools,
        "reasoning_parser": reasoning,
        "markers": markers(transcript, [one for one in everything if one.family == family]),
    }


def ours(transcript: Transcript) -> Finding:
    """What our parser finds; calls that never closed are left out, as in /parse/function_call."""
    found: Parsed = parse(
        [transcript.text],
        tools=transcript.family,
        reasoning=transcript.reasoning,
        offered=transcript.offered,
        starts_open=transcript.starts_open,
    )
    return {
        "content": found.content,
        "reasoning": found.reasoning,
        "calls": [[call.name, call.arguments] for call in found.calls if call.complete],
    }


def theirs(cases: Sequence[Transcript], python: str) -> list[Finding]:
    """What vLLM's parsers find."""
    tools = [
        {"type": "function", "function": {"name": tool.name, "parameters": tool.parameters or {}}}
        for tool in OFFERED
    ]
    given_cases = [case(one, cases) for one in cases]
    work = {"tools": tools, "tokenizer": str(TOKENIZER), "cases": given_cases}
    quiet = {"VLLM_LOGGING_LEVEL": "CRITICAL", "HF_HUB_OFFLINE": "1"}
    with TemporaryDirectory() as folder:
        given, found = Path(folder) / "cases.json", Path(folder) / "found.json"
        given.write_text(json.dumps(work), "utf-8")
        script = ROOT / "scripts" / "vllm_parse.py"
        command = [python, str(script), str(given), str(found)]
        subprocess.run(command, check=True, timeout=600, env=os.environ | quiet)
        return list(json.loads(found.read_text("utf-8")))


def meaning(found: Finding) -> Finding:
    """What is compared: white space at the ends and the way JSON is written are not."""
    calls = [[name, value(arguments)] for name, arguments in found["calls"]]
    return {
        "content": found["content"].strip(),
        "reasoning": found["reasoning"].strip(),
        "calls": calls,
    }


def value(arguments: str) -> Any:
    """Arguments as a JSON value; text that is none stays as it is."""
    try:
        return json.loads(arguments)
    except ValueError:
        return ["not JSON", arguments]


def verdict(own: Finding, other: Finding) -> str:
    """One word for a pair."""
    if "raised" in other:
        return "raised"
    return "equal" if meaning(own) == meaning(other) else "different"


def table(verdicts: Sequence[tuple[str, str]]) -> Iterator[str]:
    """A row for each family."""
    yield "| family | vLLM's parser | texts | equal | different | vLLM raised |"
    yield "|---|---|---|---|---|---|"
    for family, name in TOOL_PARSERS.items():
        counts = Counter(word for of, word in verdicts if of == family)
        row = [family, name, counts.total(), *(counts[w] for w in ("equal", "different", "raised"))]
        yield "| " + " | ".join(map(str, row)) + " |"
    total = Counter(word for _, word in verdicts)
    row = ["all", "", total.total(), *(total[w] for w in ("equal", "different", "raised"))]
    yield "| " + " | ".join(map(str, row)) + " |"


def main() -> int:
    """Compare, print the table, and fail if the page has another or leaves a difference out."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--python", default=os.environ.get("SMG_VLLM_PYTHON"))
    arguments.add_argument("--show", action="store_true", help="print every pair that differs")
    chosen = arguments.parse_args()
    if chosen.python is None:
        arguments.error("--python or SMG_VLLM_PYTHON must name a Python that has vLLM")
    cases = texts()
    pairs = [
        {"name": f"{one.family}/{one.name}", "text": one.text, "ours": ours(one), "vllm": found}
        for one, found in zip(cases, theirs(cases, chosen.python), strict=True)
    ]
    for pair in pairs:
        pair["verdict"] = verdict(pair["ours"], pair["vllm"])
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(pairs, ensure_ascii=False, indent=1), "utf-8")
    rows = table([(pair["name"].split("/")[0], pair["verdict"]) for pair in pairs])
    shown = "\n".join(rows) + "\n"
    sys.stdout.write(shown)
    unequal = [pair for pair in pairs if pair["verdict"] != "equal"]
    if chosen.show:
        sys.stdout.write(json.dumps(unequal, ensure_ascii=False, indent=1) + "\n")
    return outdated(shown, [pair["name"] for pair in unequal])


def outdated(shown: str, names: Sequence[str]) -> int:
    """The exit status: 1 if the page has another table, or does not name exactly these."""
    page = PAGE.read_text("utf-8")
    judged = set(re.findall(r"`([a-z0-9_]+/[a-z0-9_]+)`", page))
    complaints = [f"{name}: not judged" for name in names if name not in judged]
    complaints += [f"{name}: equal by now" for name in sorted(judged.difference(names))]
    if shown not in page:
        complaints.append("the table is another one")
    for complaint in complaints:
        sys.stdout.write(f"{PAGE.relative_to(ROOT)}: {complaint}\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
