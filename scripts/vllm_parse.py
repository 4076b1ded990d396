"""What vLLM's parsers make of texts: run by scripts/parser_differential.py with vLLM's Python.

A file of cases goes in, a file of findings comes out. Knows nothing of smg, whose packages this
Python does not have.
"""

import json
import sys
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.parser.harmony_utils import get_encoding
from vllm.parser import ParserManager

Case = dict[str, Any]


class HarmonyTokenizer(PreTrainedTokenizerFast):
    """Harmony alone is parsed by ids, and by those of its own vocabulary."""

    def encode(self, text: str, **_: Any) -> list[int]:
        return list(get_encoding().encode(text, allowed_special="all"))

    def decode(self, token_ids: list[int], **_: Any) -> str:
        return str(get_encoding().decode(token_ids))


def tokenizer(path: str, case: Case) -> PreTrainedTokenizerFast:
    """A small vocabulary in which every marker is one token, as in the families' own."""
    if case["tool_parser"] == "openai":
        return HarmonyTokenizer(tokenizer_file=path)
    made = PreTrainedTokenizerFast(tokenizer_file=path)
    made.add_tokens(case["markers"])
    return made


def findings(case: Case, request: ChatCompletionRequest, words: PreTrainedTokenizerFast) -> Case:
    """One text through the same call that vLLM's server makes when it does not stream."""
    parser = ParserManager.get_parser(
        tool_parser_name=case["tool_parser"],
        reasoning_parser_name=case["reasoning_parser"],
        enable_auto_tools=True,
        is_harmony=case["tool_parser"] == "openai",
    )
    reader = parser(words, request.tools, chat_template_kwargs={"thinking": True})
    ids = words.encode(case["text"], add_special_tokens=False)
    reasoning, content, calls = reader.parse(
        case["text"], request, enable_auto_tools=True, model_output_token_ids=ids
    )
    return {
        "content": content or "",
        "reasoning": reasoning or "",
        "calls": [[call.name, call.arguments] for call in calls or ()],
    }


def main(given: Path, found: Path) -> None:
    """Read the cases, write what is found in each."""
    work = json.loads(given.read_text("utf-8"))
    results = []
    for case in work["cases"]:
        request = ChatCompletionRequest(
            model="m", messages=[{"role": "user", "content": "?"}], tools=work["tools"]
        )
        try:
            words = tokenizer(work["tokenizer"], case)
            results.append(findings(case, request, words))
        except Exception as error:  # noqa: BLE001 - Whatever vLLM raises is what it found.
            results.append({"raised": f"{type(error).__name__}: {error}".splitlines()[0][:300]})
    found.write_text(json.dumps(results, ensure_ascii=False), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
