"""The facade: names, prompts, ids, markers, detection, and any reasoning with any tools."""

import pytest

from smg.parsers.base import ReasoningText, Text
from smg.parsers.registry import (
    REASONING,
    detect,
    family_call_id,
    markers,
    new_parser,
    prompt_starts_open,
    resolve_reasoning,
    resolve_tools,
)
from tests.parsers.transcripts import OFFERED, Transcript, joined, parse, transcripts

ONES = {one.family: one for one in transcripts(longest=500) if one.name == "one"}
OPENINGS = {
    name: (family.tags.starts[0], family.tags.ends[0])
    for name, family in REASONING.items()
    if family.tags.ends
} | {"harmony": ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant")}


@pytest.mark.parametrize("reasoning", sorted(OPENINGS))
def test_any_reasoning_goes_with_any_tools(reasoning: str) -> None:
    for tools in sorted(ONES):
        check_pair(reasoning, tools)


def check_pair(reasoning: str, tools: str) -> None:
    one: Transcript = ONES[tools]
    start, end = OPENINGS[reasoning]
    final = "<|channel|>final<|message|>" if reasoning == "harmony" != tools else ""
    text = f"{start}Let me see.{end}{final}{one.text}"
    parts = joined(parse([text], tools, reasoning))
    assert parts == [{"reasoning": "Let me see."}, *one.expected], tools
    assert joined(parse(list(text), tools, reasoning)) == parts, tools


def test_names_and_aliases_resolve() -> None:
    assert resolve_tools("qwen_xml") == "qwen_coder"
    assert resolve_tools("deepseek-v4") == "deepseek_dsml"
    assert resolve_reasoning("gpt_oss") == "harmony"
    with pytest.raises(ValueError, match="kimik2"):
        resolve_tools("nothing")


@pytest.mark.parametrize(
    ("reasoning", "prompt", "starts_open"),
    [
        ("qwen3", "<|im_start|>assistant\n", None),
        ("qwen3", "<|im_start|>assistant\n<think>\n", True),
        ("qwen3", "<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("deepseek_v31", "<｜Assistant｜></think>", False),
        ("qwen3", "<think>\nold</think>\nanswer<|im_end|>\n<|im_start|>assistant\n", None),
        ("kimi_k3", "<|open|>think<|sep|>", True),
        ("kimi_k3", "<|open|>response<|sep|>", False),
        ("gemma4", "<|turn>model\n<|channel>thought\n<channel|>", False),
        ("passthrough", "<think>\n", None),
        ("harmony", "<|start|>assistant", None),
    ],
)
def test_the_end_of_the_prompt_shows_whether_reasoning_is_open(
    reasoning: str, prompt: str, starts_open: bool | None
) -> None:
    assert prompt_starts_open(reasoning, prompt) is starts_open


@pytest.mark.parametrize(("starts_open", "thinking"), [(True, True), (False, False), (None, False)])
def test_the_prompt_decides_where_the_output_starts(
    starts_open: bool | None, thinking: bool
) -> None:
    parser = new_parser(reasoning="qwen3", tools="qwen", offered=(), starts_open=starts_open)
    kind = ReasoningText if thinking else Text
    assert parser.feed("Hm") == [kind("Hm")]
    assert parser.reasoning is thinking


def test_templates_are_shown_ids_of_their_own_form() -> None:
    assert family_call_id("kimik2", "f", 3, "call_x") == "functions.f:3"
    assert family_call_id("kimi_k3", "f", 1, "call_x") == "f:1"
    assert family_call_id("qwen", "f", 3, "call_x") == "call_x"
    assert family_call_id("cohere", "f", 3, "call_x") == "3"
    short = family_call_id("mistral", "f", 3, "call_x")
    assert short == family_call_id("mistral", "g", 4, "call_x")
    assert len(short) == 9
    assert short.isalnum()
    assert family_call_id("mistral", "f", 0, "abcDEF123") == "abcDEF123"


def test_markers_that_may_be_special_tokens_are_named() -> None:
    assert {"<think>", "</think>", "<tool_call>", "</tool_call>"} <= markers("qwen3", "qwen")
    assert {"<|open|>", "<|sep|>", "<|close|>"} <= markers("kimi_k3", "passthrough")
    assert "<|START_THINKING|>" in markers("cohere_cmd", "passthrough")
    assert {"[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"} <= markers("passthrough", "mistral")
    assert "｜DSML｜" in markers("passthrough", "deepseek32")
    assert "<|channel|>" in markers("harmony", "passthrough")
    assert markers("passthrough", "passthrough") == frozenset()


@pytest.mark.parametrize(
    ("name", "reasoning", "tools"),
    [
        ("Qwen/Qwen3-235B-A22B-Thinking-2507", "qwen3_thinking", "qwen"),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8", "qwen3", "qwen_coder"),
        ("Qwen/Qwen2.5-Coder-7B", "qwen3", "qwen"),
        ("Qwen/Qwen3.5-4B", "qwen3", "qwen_coder"),
        ("Qwen/QwQ-32B", "deepseek_r1", "qwen"),
        ("zai-org/GLM-4.5-Air", "glm45", "glm45_moe"),
        ("zai-org/GLM-4.7-Flash", "glm45", "glm47_moe"),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek_r1", "deepseek"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "deepseek_r1", "passthrough"),
        ("deepseek-ai/DeepSeek-V3-0324", "passthrough", "deepseek"),
        ("deepseek-ai/DeepSeek-V3.1", "deepseek_v31", "deepseek31"),
        ("deepseek-ai/DeepSeek-V3.2-Exp", "deepseek_v31", "deepseek31"),
        ("deepseek-ai/DeepSeek-V3.2", "deepseek_v31", "deepseek_dsml"),
        ("meta-llama/Llama-3.1-8B-Instruct", "passthrough", "llama"),
        ("meta-llama/Llama-4-Scout", "passthrough", "pythonic"),
        ("mistralai/Magistral-Small", "mistral", "mistral"),
        ("moonshotai/Kimi-K2-Instruct", "kimi", "kimik2"),
        ("moonshotai/Kimi-K2-Thinking", "kimi_thinking", "kimik2"),
        ("moonshotai/Kimi-K2.5", "kimi_k25", "kimik2"),
        ("stepfun-ai/step3", "step3", "step3"),
        ("stepfun-ai/Step-3.5-Flash", "step3", "qwen_coder"),
        ("MiniMaxAI/MiniMax-M2", "minimax", "minimax_m2"),
        ("CohereLabs/c4ai-command-r7b-12-2024", "cohere_cmd", "cohere"),
        ("openai/gpt-oss-20b", "harmony", "harmony"),
        ("nvidia/Nemotron-3-Nano", "nano_v3", "qwen_coder"),
        ("google/gemma-4-31B-it", "gemma4", "gemma4"),
        ("someone/unheard-of", "passthrough", "passthrough"),
    ],
)
def test_a_name_tells_the_families(name: str, reasoning: str, tools: str) -> None:
    found = detect(model_name=name)
    assert (found.reasoning, resolve_tools(found.tools)) == (reasoning, tools)
    assert found.why_tools
    assert found.why_reasoning


def test_a_template_says_more_than_a_name() -> None:
    found = detect(
        model_name="my-qwen2.5-tune", template="...<tool_call>\n<function=...><parameter=..."
    )
    assert found.tools == "qwen_coder"
    assert "chat template" in found.why_tools


def test_glm_versions_are_told_by_the_newline_in_the_template() -> None:
    old = "{{ '<tool_call>' + name }}\n<arg_key>{{ k }}</arg_key>"
    new = "<tool_call>{{ name }}<arg_key>{{ k }}</arg_key>"
    assert detect(model_name="x", template=old).tools == "glm45_moe"
    assert detect(model_name="x", template=new).tools == "glm47_moe"


def test_thinking_in_a_template_is_noticed_for_an_unknown_name() -> None:
    found = detect(model_name="x", template="{{ content.split('</think>')[-1] }}")
    assert found.reasoning == "qwen3"


def test_configuration_and_special_tokens_help_where_a_name_says_nothing() -> None:
    assert detect(model_name="x", model_type="gpt_oss").tools == "harmony"
    assert detect(model_name="x", architectures=("GptOssForCausalLM",)).reasoning == "harmony"
    assert detect(model_name="x", special_tokens={"[TOOL_CALLS]", "</s>"}).tools == "mistral"


def test_a_finished_parser_gives_nothing_twice() -> None:
    parser = new_parser(reasoning="qwen3", tools="qwen", offered=OFFERED, starts_open=None)
    assert parser.feed("a <tool") == [Text("a")]
    assert parser.finish() == [Text(" <tool")]
    assert parser.finish() == []


def test_harmony_takes_only_tokens_for_markers_once_it_has_seen_one() -> None:
    parser = new_parser(reasoning="harmony", tools="harmony", offered=(), starts_open=None)
    deltas = parser.feed_marker("<|channel|>") + parser.feed("final")
    deltas += parser.feed_marker("<|message|>") + parser.feed("It ends with <|return|> then")
    deltas += parser.feed_marker("<|return|>") + parser.finish()
    assert joined(deltas) == [{"text": "It ends with <|return|> then"}]
