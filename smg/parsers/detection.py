"""Which families a model belongs to, and why.

Evidence in this order: the chat template, which prints the family's own markers; the model's
configuration; its name; the tokenizer's special tokens, which derived models often share. Takes
strings, gives names of families.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Detected:
    """The families of a model, each with the reason."""

    reasoning: str
    tools: str
    why_reasoning: str
    why_tools: str


# All markers of a row must be in the template; the first row that fits wins.
_TOOL_MARKERS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("<|channel|>", "<|message|>", "<|start|>"), "harmony"),
    (("｜DSML｜", "tool_calls>"), "deepseek_v4"),
    (("｜DSML｜",), "deepseek_dsml"),
    (("<|open|>", "<|sep|>"), "kimi_k3"),
    (("<|tool_calls_section_begin|>",), "kimik2"),
    (("<minimax:tool_call>",), "minimax_m2"),
    (("<steptml:invoke",), "step3"),
    (("<|START_ACTION|>",), "cohere"),
    (("[TOOL_CALLS]",), "mistral"),
    (("<|tool_call>", "<tool_call|>"), "gemma4"),
    (("<function=", "<parameter="), "qwen_coder"),
    (("<｜tool▁calls▁begin｜>", "```json"), "deepseek"),
    (("<｜tool▁calls▁begin｜>",), "deepseek31"),
    (("<|python_start|>",), "pythonic"),
    (("<|tool_call_start|>",), "pythonic"),
    (("<function_calls>",), "pythonic"),
    (("[func_name1(",), "pythonic"),
)
_LATE_TOOL_MARKERS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("<arg_key>",), "glm47_moe"),
    (("<tool_call>",), "qwen"),
    (("<|python_tag|>",), "llama"),
    (("ipython", '"parameters"'), "llama"),
)
_REASONING_MARKERS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("<|channel|>", "<|message|>", "<|start|>"), "harmony"),
    (("<|open|>think",), "kimi_k3"),
    (("<|START_THINKING|>",), "cohere_cmd"),
    (("[THINK]",), "mistral"),
    (("◁think▷",), "kimi"),
    (("<|channel>thought",), "gemma4"),
)
_TOOL_NAMES: tuple[tuple[str, str], ...] = (
    ("*gpt-oss*", "harmony"),
    ("*qwen3-coder*", "qwen_coder"),
    ("*qwen3.[5-9]*", "qwen_coder"),
    ("*qwen3[5-9]*", "qwen_coder"),
    ("*nemotron-3*", "qwen_coder"),
    ("*step-3.5*", "qwen_coder"),
    ("*step3p5*", "qwen_coder"),
    ("*deepseek-v4*", "deepseek_v4"),
    ("*deepseek-v3.2-exp*", "deepseek31"),
    ("*deepseek-v3.1*", "deepseek31"),
    ("*deepseek-v3-1*", "deepseek31"),
    ("*deepseek-v3.2*", "deepseek_dsml"),
    ("*deepseek-r1-distill*", "passthrough"),
    ("*deepseek-v3*", "deepseek"),
    ("*deepseek-r1*", "deepseek"),
    ("*deepseek*", "pythonic"),
    ("*kimi-k3*", "kimi_k3"),
    ("*kimi-k2*", "kimik2"),
    ("*glm-4.7*", "glm47_moe"),
    ("*glm-5*", "glm47_moe"),
    ("*glm47*", "glm47_moe"),
    ("*glm-4.5*", "glm45_moe"),
    ("*glm-4.6*", "glm45_moe"),
    ("*glm45*", "glm45_moe"),
    ("*glm-*", "json"),
    ("*step3*", "step3"),
    ("*step-3*", "step3"),
    ("*minimax*", "minimax_m2"),
    ("*command-r*", "cohere"),
    ("*command-a*", "cohere"),
    ("*c4ai-command*", "cohere"),
    ("*cohere*", "cohere"),
    ("*mistral*", "mistral"),
    ("*mixtral*", "mistral"),
    ("*ministral*", "mistral"),
    ("*magistral*", "mistral"),
    ("*devstral*", "mistral"),
    ("*codestral*", "mistral"),
    ("*llama-4*", "pythonic"),
    ("*llama-3.[123]*", "llama"),
    ("*llama*", "json"),
    ("*qwen*", "qwen"),
    ("*qwq*", "qwen"),
    ("*hermes*", "qwen"),
    ("*gemma-4*", "gemma4"),
    ("gpt-4*", "json"),
    ("gpt-3.5*", "json"),
    ("claude*", "json"),
    ("gemini*", "json"),
    ("*gemma*", "json"),
    ("palm*", "json"),
)
_REASONING_NAMES: tuple[tuple[str, str], ...] = (
    ("*gpt-oss*", "harmony"),
    ("*deepseek-r1*", "deepseek_r1"),
    ("*qwq*", "deepseek_r1"),
    ("*deepseek-v4*", "deepseek_v31"),
    ("*deepseek-v3.[12]*", "deepseek_v31"),
    ("*deepseek-v3-1*", "deepseek_v31"),
    ("*qwen*thinking*", "qwen3_thinking"),
    ("*qwen*", "qwen3"),
    ("*glm-4.[567]*", "glm45"),
    ("*glm-5*", "glm45"),
    ("*glm4[57]*", "glm45"),
    ("*kimi-k3*", "kimi_k3"),
    ("*kimi-k2-thinking*", "kimi_thinking"),
    ("*kimi-k2.[5-9]*", "kimi_k25"),
    ("*kimi*", "kimi"),
    ("*step3*", "step3"),
    ("*step-3*", "step3"),
    ("*minimax*", "minimax"),
    ("*mm-m2*", "minimax"),
    ("*command-r*", "cohere_cmd"),
    ("*command-a*", "cohere_cmd"),
    ("*c4ai-command*", "cohere_cmd"),
    ("*cohere*", "cohere_cmd"),
    ("*nemotron-nano*", "nano_v3"),
    ("*nemotron-super*", "nano_v3"),
    ("*nemotron-3*", "nano_v3"),
    ("*nano-v3*", "nano_v3"),
    ("*magistral*", "mistral"),
    ("*gemma-4*", "gemma4"),
)
# Model types and architectures, lower-case and without separators, that name one format.
_CONFIGURED: tuple[tuple[str, str, str], ...] = (
    ("gptoss", "harmony", "harmony"),
    ("deepseekv32", "deepseek_dsml", "deepseek_v31"),
    ("deepseekv4", "deepseek_v4", "deepseek_v31"),
    ("llama4", "pythonic", "passthrough"),
    ("kimik3", "kimi_k3", "kimi_k3"),
    ("glm4moe", "glm45_moe", "glm45"),
    ("minimaxm2", "minimax_m2", "minimax"),
    ("step3text", "step3", "step3"),
    ("cohere2", "cohere", "cohere_cmd"),
    ("gemma4", "gemma4", "gemma4"),
)


def detect(
    *,
    model_name: str,
    template: str,
    special_tokens: Collection[str],
    architectures: Sequence[str],
    model_type: str,
) -> Detected:
    """The families of a model, by the strongest evidence there is for each."""
    name = _normal(model_name)
    configured = _configured([model_type, *architectures])
    tools, why_tools = (
        _tools_of_template(template)
        or (configured and (configured[0], configured[2]))
        or _by_name(name, _TOOL_NAMES)
        or _by_tokens(special_tokens, (*_TOOL_MARKERS, *_LATE_TOOL_MARKERS))
        or ("passthrough", "nothing points to a tool-call format")
    )
    reasoning, why_reasoning = (
        _by_markers(template, _REASONING_MARKERS, "the chat template has")
        or (configured and (configured[1], configured[2]))
        or _by_name(name, _REASONING_NAMES)
        or _by_tokens(special_tokens, _REASONING_MARKERS)
        # Which of the families with these tags it is only decides where the output starts, and
        # that the prompt shows.
        or _by_markers(template, ((("</think>",), "qwen3"),), "the chat template has")
        or ("passthrough", "nothing points to a reasoning format")
    )
    return Detected(reasoning, tools, why_reasoning, why_tools)


def _normal(name: str) -> str:
    """A model's name without its organisation, as patterns are written."""
    return name.rstrip("/").rsplit("/", 1)[-1].lower().replace("_", "-")


def _configured(kinds: Sequence[str]) -> tuple[str, str, str] | None:
    for kind in kinds:
        plain = re.sub(r"[_.-]", "", kind.lower())
        for start, tools, reasoning in _CONFIGURED:
            if plain.startswith(start):
                return tools, reasoning, f"the model's configuration says {kind}"
    return None


def _tools_of_template(template: str) -> tuple[str, str] | None:
    found = _by_markers(template, _TOOL_MARKERS, "the chat template has")
    if found is None:
        found = _by_markers(template, _LATE_TOOL_MARKERS, "the chat template has")
    # GLM 4.5 and 4.6 differ from later versions in the newline after the name.
    if found and found[0] == "glm47_moe" and re.search(r"(\n|\\n)[^<]{0,40}<arg_key>", template):
        return "glm45_moe", found[1]
    return found


def _by_markers(
    text: str, rows: Sequence[tuple[tuple[str, ...], str]], where: str
) -> tuple[str, str] | None:
    for wanted, family in rows:
        if all(marker in text for marker in wanted):
            return family, f"{where} {wanted[0]}"
    return None


def _by_tokens(
    tokens: Collection[str], rows: Sequence[tuple[tuple[str, ...], str]]
) -> tuple[str, str] | None:
    for wanted, family in rows:
        if all(marker in tokens for marker in wanted):
            return family, f"the tokenizer has the special token {wanted[0]}"
    return None


def _by_name(name: str, rows: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    for pattern, family in rows:
        if fnmatchcase(name, pattern):
            return family, f"the model's name fits {pattern}"
    return None
