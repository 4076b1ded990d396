"""Writes docs/parsers.md: a section for each family, with one of its transcripts as the example."""

import json
import sys
from pathlib import Path

from smg.parsers.registry import REASONING, REASONING_ALIASES, TOOL_ALIASES, TOOLS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "parsers.md"
GOLDEN = ROOT / "tests" / "golden" / "parsers"

HEAD = """# Output parsers

<!-- Written by scripts/parsers_page.py from tests/golden/parsers; do not edit. -->

A model's output is text in which reasoning, the answer and tool calls are told apart by markers of
its family. `--tool-call-parser` and `--reasoning-parser` name the families; without them they are
found from the chat template, the configuration, the name and the special tokens, in this order,
and start-up says why. Any reasoning parser goes with any tool-call parser.

## What holds for every family

- Where the text is cut does not matter, and text that is no call comes back to the last character.
- A call's name comes first and whole, its arguments as soon as they are certain. Arguments of
  formats that are JSON pass through as the model wrote them; values of formats that are text are
  typed by the tool's schema: a string is kept byte for byte, what fits no other type is a string.
- A call of an unknown tool is reported. A block that is no call is text; once its name is out, the
  call stays open instead. An output that ends inside a call leaves the call open.
- Reasoning begins where the prompt left it: inside an open block, or behind a closed one. A start
  tag counts at the beginning only. A call ends reasoning that is never closed; calls in a block
  that is closed are drafts, so calls found in open reasoning wait until that is certain.
- White space beside a marker means nothing and is dropped.
- A marker quoted in prose is text: what must follow it tells. Only markers that frame an answer
  (cohere, kimi_k3, harmony) are dropped wherever they stand.

## Trying one

```sh
smg parse --tool-call-parser qwen --reasoning-parser qwen3 --tools tools.json output.txt
smg parse --tool-call-parser qwen --cuts output.txt
curl localhost:30000/parse/function_call -d '{"text": "...", "tool_call_parser": "qwen"}'
curl localhost:30000/parse/reasoning -d '{"text": "...", "reasoning_parser": "deepseek_r1"}'
```

The first prints reasoning, content and calls (a file `-` is standard input). The second shows what
is known after every character, and ends with status 1 if a cut changes what is found, which is a
bug. The endpoints answer with `remaining_text` and `tool_calls`, or `normal_text` and
`reasoning_text`; they need an API key where the gateway has any. Tools come in chat's form or flat,
and decide what type an argument has.

## What the engine is held to

- `tool_choice` required or named: a structural tag of calls in the family's own form. Five families
  have none that a tag can hold (json, pythonic, step3, gemma4, kimi_k3): they get the schema of a
  JSON list of calls.
- `strict` functions, or `parallel_tool_calls: false`, where the model is free: the same tag, which
  holds once the model calls. The five get nothing: a second call is not listened to, and arguments
  are as good as the model.
- A JSON format of the answer: its schema; with tools, a tag of either, the answer or calls.
- A named custom tool with a grammar: that grammar, and the output is the call's input.

Reasoning may end first wherever the prompt leaves it open, or the family may open it. A Lark
grammar goes to vLLM only, and only where no reasoning comes first; elsewhere it stands in the
tool's description, and the call is forced in its usual form. MLX takes no constraints: calls that
must be made and formats of answers are refused (400). `tests/engines_real` compiles every tag with
xgrammar and checks what it lets through.

## Speed

```sh
python -m benchmarks.parsers             # microseconds for a piece of four characters, by family
python -m benchmarks.parsers --megabyte  # hostile text: 1 MB against 10 kB
```

Results are in [benchmarks/RESULTS.md](../benchmarks/RESULTS.md).

## Beside vLLM's parsers

`make parser-differential` has both read the same texts;
[parser-differences.md](parser-differences.md) judges every difference.

## Tool-call parsers
"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *map(_tool_section, sorted(TOOLS)), _reasoning_section()])


def _tool_section(name: str) -> str:
    path = GOLDEN / name / "two.json"
    aliases = sorted(alias for alias, family in TOOL_ALIASES.items() if family == name)
    title = f"### {name}\n" + (f"\nAlso: {', '.join(aliases)}.\n" if aliases else "")
    if not path.exists():
        return f"{title}\nEverything is content.\n"
    written = json.loads(path.read_text("utf-8"))
    # Four backticks: DeepSeek's format has three in it.
    return f"{title}\n````text\n{written['text']}\n````\n\n{_calls(written['expected'])}\n"


def _calls(parts: list[dict[str, str]]) -> str:
    rows = [f"- `{part['call']}` with `{part['arguments']}`" for part in parts if "call" in part]
    return "\n".join(rows)


def _reasoning_section() -> str:
    rows = ["## Reasoning parsers", "", "| parser | tags | starts | also |", "|---|---|---|---|"]
    for name, family in sorted(REASONING.items()):
        tags = family.tags
        pairs = zip(tags.starts, tags.ends, strict=True)
        shown = ", ".join(f"`{start}` … `{end}`" for start, end in pairs)
        shown = (shown or _TAGLESS.get(name, "none")).replace("|", "\\|")
        aliases = sorted(alias for alias, of in REASONING_ALIASES.items() if of == name)
        starts = "inside" if tags.opens else "outside"
        rows.append(f"| {name} | {shown} | {starts} | {', '.join(aliases)} |")
    rows += ["", "*starts*: where the output begins when the prompt does not show it.", ""]
    return "\n".join(rows)


_TAGLESS = {"harmony": "the analysis channel"}


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    sys.stdout.write(f"{PAGE.relative_to(ROOT)} written\n")
