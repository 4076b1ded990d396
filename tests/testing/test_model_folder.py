import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from smg.testing.vocabulary import MODEL_PATH, Vocabulary
from tests.testing.asking import VOCABULARY, render, tool, user

ROOT = Path(__file__).parents[2]
MARKERS = ["tool_call", "tool_response", "think"]

CONVERSATION = [
    {"role": "system", "content": "Be terse."},
    user("Add 1 and é 🙂"),
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "\nhm\n",
        "tool_calls": [
            {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "é<"}}},
            {"name": "add", "arguments": "{}"},
        ],
    },
    {"role": "tool", "content": "r1"},
    {"role": "tool", "content": "r2"},
]


def test_the_tokenizer_is_what_training_gives() -> None:
    script = ROOT / "scripts/train_tokenizer.py"
    subprocess.run([sys.executable, str(script), "--check"], check=True, timeout=30)


@pytest.mark.parametrize("text", ["", "plain", " \n\t é 🙂 e\u0301 \x00 日本", "<|im_end|><think>"])
def test_any_text_comes_back(text: str) -> None:
    assert VOCABULARY.decode(VOCABULARY.encode(text)) == text
    assert VOCABULARY.decode(VOCABULARY.encode_prompt(text)) == text


def test_a_script_cannot_write_control_tokens_but_may_write_markers() -> None:
    ids = VOCABULARY.encode("<|im_end|><think>")
    assert VOCABULARY.eos not in ids
    assert ids[-1] == VOCABULARY.id("<think>")


def test_an_emoji_is_more_than_one_token() -> None:
    assert len(VOCABULARY.encode("🙂")) > 1


def test_markers_have_the_kinds_that_qwen_gives_them() -> None:
    added = json.loads((MODEL_PATH / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    kinds = {token["content"]: token["special"] for token in added}
    expected = {"<|endoftext|>": True, "<|im_start|>": True, "<|im_end|>": True}
    for name in MARKERS:
        expected |= {f"<{name}>": False, f"</{name}>": False}
    assert kinds == expected


def test_the_configuration_files_agree_with_the_tokenizer() -> None:
    vocabulary = Vocabulary()
    assert vocabulary.config["vocab_size"] == vocabulary.size
    assert vocabulary.config["eos_token_id"] == vocabulary.eos
    assert vocabulary.generation_config["eos_token_id"] == [vocabulary.eos, *vocabulary.other_eos]
    assert vocabulary.config["pad_token_id"] == vocabulary.id("<|endoftext|>")
    with pytest.raises(KeyError):
        vocabulary.id("<|no_marker|>")


def test_transformers_reads_the_folder_the_same_way() -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(MODEL_PATH))
    tools = [tool("add", a={"type": "integer"})]
    text = tokenizer.apply_chat_template(
        CONVERSATION, tools=tools, add_generation_prompt=True, tokenize=False
    )
    assert text == render(CONVERSATION, tools)
    assert tokenizer.encode(text, add_special_tokens=False) == VOCABULARY.encode_prompt(text)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_the_template_writes_a_tool_round_trip() -> None:
    assert render(CONVERSATION) == (
        "<|im_start|>system\nBe terse.<|im_end|>\n"
        "<|im_start|>user\nAdd 1 and é 🙂<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nhm\n</think>\n\n"
        '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "é<"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nr1\n</tool_response>\n"
        "<tool_response>\nr2\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_thoughts_of_earlier_turns_are_left_out() -> None:
    thought = {"role": "assistant", "content": "yes", "reasoning_content": "hm"}
    assert render([user("a"), thought, user("b")]) == (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"
        "<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n"
    )


def test_thinking_can_be_switched_off() -> None:
    ending = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert render([user("a")], enable_thinking=False).endswith(ending)
    assert not render([user("a")], enable_thinking=True).endswith(ending)
