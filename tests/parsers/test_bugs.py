"""Bugs that other parsers had; each name is the behaviour that would have been right.

The numbers behind the names are those of our list of forty, and `read` reads every text whole and
character by character. In the order of the list:

    1-12   markers and boundaries: what ends a call, what is none, which forms there are
    13-26  streaming: pieces of any size, what is held back, what is sent when
    27-32  types: by the tool's schema, in one way, verbatim
    33-37  calls that were lost or invented: unknown tools, drafts, calls in open reasoning
    38-40  reasoning: where it begins, whose it is, and what must wait for its end
"""

import inspect
import json
import re
import sys

import pytest

from smg.parsers.base import Text, ToolCallStart
from smg.parsers.registry import ToolSchema, guide, new_parser, prompt_starts_open
from smg.turn import StructuralTag, ToolChoice
from tests.parsers.transcripts import Part, joined, parse

QWEN = "<tool_call>\n{}\n</tool_call>"


def read(
    text: str, tools: str, reasoning: str = "passthrough", open_: bool | None = None
) -> list[Part]:
    whole = joined(parse([text], tools, reasoning, open_))
    assert joined(parse(list(text), tools, reasoning, open_)) == whole
    return whole


def call(name: str, arguments: str, family_id: str | None = None) -> Part:
    part: Part = {"call": name, "arguments": arguments, "complete": True}
    return part if family_id is None else {**part, "id": family_id}


def test_a_closing_tag_inside_a_string_does_not_end_the_call() -> None:  # 1
    body = '{"name": "f", "arguments": {"a": "</tool_call>"}}'
    assert read(QWEN.replace("{}", body), "qwen") == [call("f", '{"a": "</tool_call>"}')]


def test_an_action_end_inside_a_string_does_not_end_the_action() -> None:  # 2
    text = (
        '<|START_ACTION|>[{"tool_name": "f", "parameters": {"a": "<|END_ACTION|>"}}]<|END_ACTION|>'
    )
    assert read(text, "cohere") == [call("f", '{"a": "<|END_ACTION|>"}')]


def test_a_raw_closing_tag_ends_a_value_and_never_raises() -> None:  # 3
    text = (
        '<minimax:tool_call><invoke name="f"><parameter name="a">x</parameter>y</parameter>'
        "</invoke></minimax:tool_call>"
    )
    first, *_ = read(text, "minimax_m2")
    assert (first["call"], first["arguments"]) == ("f", '{"a": "x"')


def test_deeply_nested_json_keeps_its_name() -> None:  # 4
    nested = '{"a": {"b": {"c": {"d": [{}]}}}}'
    assert read(f'{{"name": "f", "parameters": {nested}}}', "llama") == [call("f", nested)]


def test_calls_joined_by_semicolons_are_all_read() -> None:  # 5
    text = '{"name": "f", "parameters": {"a": "x; {y}"}} ;\n{"name": "g", "parameters": {}}'
    expected = [call("f", '{"a": "x; {y}"}'), call("g", "{}")]
    assert read(text, "llama") == expected
    assert read(f"<|python_tag|>{text}", "llama") == expected


@pytest.mark.parametrize(
    "text",
    [
        'Hi[TOOL_CALLS][{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]',
        'Hi[TOOL_CALLS] [{"name": "f", "arguments": "{}"}, {"arguments": {}, "name": "g"}]',
        "Hi[TOOL_CALLS]f[ARGS]{}[TOOL_CALLS]g[ARGS]{}",
        "Hi[TOOL_CALLS]f{}[TOOL_CALLS]g{}",
    ],
)
def test_both_mistral_forms_and_several_calls_in_one_delta_are_read(text: str) -> None:  # 6, 7
    assert read(text, "mistral") == [{"text": "Hi"}, call("f", "{}"), call("g", "{}")]


def test_an_id_the_model_wrote_is_kept() -> None:
    assert read("[TOOL_CALLS]f[CALL_ID]abcDEF123[ARGS]{}", "mistral") == [
        call("f", "{}", "abcDEF123")
    ]


def test_no_bracket_is_sent_that_the_model_has_not_written() -> None:  # 8
    found = read('<tool_call>\n{"name": "f", "arguments": {"a": [1', "qwen")
    assert found == [{"call": "f", "arguments": '{"a": [1', "complete": False}]


def test_v3_output_is_no_tool_named_function() -> None:  # 9
    text = (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{}\n```"
        "<｜tool▁call▁end｜>"
    )
    assert read(text, "deepseek31") == [call("f", "{}")]


def test_prose_that_mentions_a_tag_flows_on() -> None:  # 10
    parser = new_parser(reasoning="passthrough", tools="qwen", offered=(), starts_open=None)
    assert joined(parser.feed("Use <tool_call> to")) == [{"text": "Use <tool_call> to"}]
    assert parser.feed(" call") == [Text(" call")]


def test_a_broken_call_does_not_swallow_the_next() -> None:  # 11
    text = "<tool_call>\n<function=f\n<tool_call>\n<function=g>\n</function>\n</tool_call>"
    assert call("g", "{}") in read(text, "qwen_coder")


def test_a_value_without_its_opening_tag_is_read() -> None:  # 12
    text = "<tool_call>f<arg_key>a</arg_key>Oban</arg_value></tool_call>"
    assert read(text, "glm47_moe") == [call("f", '{"a": "Oban"}')]


STREAMED = {
    "step3": "<｜tool_calls_begin｜><｜tool_call_begin｜>function<｜tool_sep｜>"
    '<steptml:invoke name="f">'
    '<steptml:parameter name="a">x</steptml:parameter></steptml:invoke><｜tool_call_end｜>',
    "llama": '{"name": "f", "parameters": {"a": "x"}}',
    "glm45_moe": "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>x</arg_value>\n</tool_call>",
    "glm47_moe": "<tool_call>f<arg_key>a</arg_key><arg_value>x</arg_value></tool_call>",
}


@pytest.mark.parametrize("tools", sorted(STREAMED))
def test_pieces_of_every_size_give_the_same_call(tools: str) -> None:  # 13, 14, 15
    text = STREAMED[tools]
    for size in range(1, len(text) + 1):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert joined(parse(pieces, tools)) == [call("f", '{"a": "x"}')], size


def test_what_is_sent_of_a_value_is_never_taken_back() -> None:  # 18
    text = (
        "<tool_call>lookup_tide<arg_key>note</arg_key><arg_value>Smith</arg_value>"
        "<arg_key>marks</arg_key><arg_value>[1, 2]</arg_value></tool_call>"
    )
    whole = '{"note": "Smith", "marks": [1, 2]}'
    for end in range(len(text)):
        sent = joined(parse(list(text[:end]), "glm47_moe"))
        assert all(whole.startswith(one["arguments"]) for one in sent if "call" in one), end
    assert read(text, "glm47_moe") == [call("lookup_tide", whole)]


def test_an_end_and_a_begin_in_one_delta_lose_nothing() -> None:  # 16
    text = (
        "Hi<|tool_calls_section_begin|> stray <|tool_call_begin|>functions.f:0\n"
        '<|tool_call_argument_begin|>{\n"a": 1}<|tool_call_end|><|tool_call_begin|>functions.g:1'
        "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>"
    )
    assert read(text, "kimik2") == [
        {"text": "Hi"},
        call("f", '{\n"a": 1}', "functions.f:0"),
        call("g", "{}", "functions.g:1"),
    ]


def test_a_numbered_call_without_a_name_is_the_tool_with_its_arguments() -> None:
    text = (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.0<|tool_call_argument_begin|>"
        '{"station": "Oban"}<|tool_call_end|><|tool_calls_section_end|>'
    )
    assert read(text, "kimik2") == [call("lookup_tide", '{"station": "Oban"}', "functions.0")]


def test_a_long_string_is_sent_while_it_is_written() -> None:  # 17
    parser = new_parser(reasoning="passthrough", tools="qwen_coder", offered=(), starts_open=None)
    parser.feed("<tool_call>\n<function=f>\n<parameter=a>\n")
    assert [delta.text for delta in parser.feed("many words") if hasattr(delta, "text")] == [
        "many words"
    ]


def test_a_name_is_sent_only_when_it_is_whole() -> None:  # 19
    parser = new_parser(reasoning="passthrough", tools="glm47_moe", offered=(), starts_open=None)
    assert parser.feed("<tool_call>get") == []
    assert ToolCallStart("get_weather") in parser.feed("_weather<arg_key>")


def test_calls_without_arguments_have_empty_ones_and_the_next_is_not_lost() -> None:  # 20, 21
    blocks = QWEN.replace("{}", '{"name": "f"}') + QWEN.replace(
        "{}", '{"name": "g", "arguments": {"a": 1}}'
    )
    assert read(blocks, "qwen") == [call("f", "{}"), call("g", '{"a": 1}')]


def test_braces_in_strings_are_not_counted() -> None:  # 22
    text = "<tool_call><function=f><parameter=a>}{{</parameter></function></tool_call>"
    assert read(text, "qwen_coder") == [call("f", '{"a": "}{{"}')]


@pytest.mark.parametrize(
    "tools", ["qwen", "qwen_coder", "step3", "minimax_m2", "pythonic", "json", "llama", "gemma4"]
)
@pytest.mark.parametrize("tail", ["<tool_", "<｜tool", "<minimax:", "[f(", '{"name', "<|tool"])
def test_what_was_held_back_is_given_at_the_end(tools: str, tail: str) -> None:  # 23
    assert read(f"Well, {tail}", tools) == [{"text": f"Well, {tail}"}]


def test_multi_byte_text_is_cut_by_characters() -> None:  # 24
    text = 'Où? 🌊 [f(a="é🌊", b=1)] 港'
    assert read(text, "pythonic") == [
        {"text": "Où? 🌊"},
        call("f", '{"a": "é🌊", "b": 1}'),
        {"text": "港"},
    ]


def test_text_after_a_call_is_kept() -> None:  # 25
    block = QWEN.replace("{}", '{"name": "f", "arguments": {}}')
    assert read(f"{block}\nDone.", "qwen") == [call("f", "{}"), {"text": "Done."}]


def test_arguments_in_a_string_are_decoded_once() -> None:  # 26
    body = json.dumps({"name": "f", "arguments": '{"a": "\\"q\\""}'})
    assert read(QWEN.replace("{}", body), "qwen") == [call("f", '{"a": "\\"q\\""}')]


def test_a_nullable_string_is_null_only_if_it_says_so() -> None:  # 27, 28
    def note(value: str) -> str:
        found = read(
            f'<minimax:tool_call><invoke name="lookup_tide"><parameter name="note">{value}'
            "</parameter></invoke></minimax:tool_call>",
            "minimax_m2",
        )
        return str(found[0]["arguments"])

    assert note("null") == '{"note": null}'
    assert note("nullable") == '{"note": "nullable"}'
    assert note("0123") == '{"note": "0123"}'


def test_types_do_not_depend_on_how_the_text_comes() -> None:  # 29, 30
    text = (
        "<tool_call>lookup_tide<arg_key>days</arg_key><arg_value>3</arg_value>"
        "<arg_key>exact</arg_key><arg_value>true</arg_value></tool_call>"
    )
    assert read(text, "glm47_moe") == [call("lookup_tide", '{"days": 3, "exact": true}')]


@pytest.mark.parametrize("tools", ["qwen_coder", "minimax_m2"])
def test_values_are_not_unescaped(tools: str) -> None:  # 31
    text = {
        "qwen_coder": "<function=f><parameter=a>&lt;b&gt;</parameter></function>",
        "minimax_m2": '<minimax:tool_call><invoke name="f"><parameter name="a">&lt;b&gt;'
        "</parameter></invoke></minimax:tool_call>",
    }[tools]
    assert read(text, tools) == [call("f", '{"a": "&lt;b&gt;"}')]


def test_pythonic_values_of_all_kinds_are_read() -> None:  # 32
    text = (
        '[f(a=-1, b=(1, 2), c="x]\ny", from=1, d={\'k\': [True, None]}, e=07, g=f"z", h=1e3,'
        " i={1, 2}, j='it\\'s', k=.5), g()]"
    )
    assert read(text, "pythonic") == [
        call(
            "f",
            '{"a": -1, "b": [1, 2], "c": "x]\\ny", "from": 1, "d": {"k": [true, null]}, "e": 7,'
            ' "g": "z", "h": 1e3, "i": [1, 2], "j": "it\'s", "k": 0.5}',
        ),
        call("g", "{}"),
    ]


def test_one_bad_argument_does_not_lose_the_calls_beside_it() -> None:  # 32
    found = read("[f(a=b(c)), g(a=1)]", "pythonic")
    assert call("g", '{"a": 1}') in found


@pytest.mark.parametrize(
    ("tools", "text"),
    [
        ("qwen", '<tool_call>{"name": "nope", "arguments": {}}</tool_call>'),
        ("minimax_m2", '<minimax:tool_call><invoke name="nope"></invoke></minimax:tool_call>'),
        ("pythonic", "[nope()]"),
        ("json", '{"name": "nope", "arguments": {}}'),
    ],
)
def test_calls_of_unknown_tools_are_reported(tools: str, text: str) -> None:  # 33, 34
    assert read(text, tools) == [call("nope", "{}")]


def test_all_invoke_blocks_are_read() -> None:  # 35
    text = (
        "<minimax:tool_call>\n<invoke name='f'>\n</invoke>\n<invoke name=g>\n</invoke>\n"
        '</minimax:tool_call>\n<minimax:tool_call><invoke name="h"></invoke>'
    )
    assert read(text, "minimax_m2") == [call("f", "{}"), call("g", "{}"), call("h", "{}")]


BLOCK = QWEN.replace("{}", '{"name": "f", "arguments": {}}')


def test_a_call_drafted_in_closed_reasoning_is_none() -> None:  # 36
    assert read(f"<think>maybe\n{BLOCK}\nno</think>Hi", "qwen", "qwen3") == [
        {"reasoning": f"maybe\n{BLOCK}\nno"},
        {"text": "Hi"},
    ]


def test_a_call_ends_reasoning_that_was_not_closed() -> None:  # 37
    assert read(f"<think>so\n{BLOCK}\n", "qwen", "qwen3") == [{"reasoning": "so"}, call("f", "{}")]


def test_a_sentence_about_the_tag_does_not_end_reasoning() -> None:  # 37
    assert read("so I write <tool_call> now</think>Hi", "qwen", "deepseek_r1") == [
        {"reasoning": "so I write <tool_call> now"},
        {"text": "Hi"},
    ]


def test_an_answer_without_thinking_is_content() -> None:  # 38
    assert read("The answer.", "qwen", "deepseek_r1", False) == [{"text": "The answer."}]
    assert read("The answer.", "qwen", "qwen3") == [{"text": "The answer."}]


def test_reasoning_of_an_earlier_turn_does_not_count() -> None:  # 39
    earlier = "<|im_start|>assistant\n<think>\nold\n</think>\nHi<|im_end|>\n"
    assert prompt_starts_open("qwen3", f"{earlier}<|im_start|>assistant\n") is None
    assert prompt_starts_open("qwen3", f"{earlier}<|im_start|>assistant\n<think>\n") is True


def test_a_forced_call_lets_the_open_reasoning_close() -> None:  # 40
    found = guide(
        tools="qwen",
        reasoning="qwen3",
        offered=(ToolSchema("f", None, None),),
        choice=ToolChoice(mode="required"),
        parallel=True,
        starts_open=True,
    )
    assert found is not None
    assert isinstance(found.constraint, StructuralTag)
    thought, forced = json.loads(found.constraint.tag)["format"]["elements"]
    assert (thought["end"], forced["at_least_one"]) == ("</think>", True)


def test_a_start_tag_counts_only_at_the_beginning() -> None:
    assert read("<think>a</think>b <think> c", "qwen", "qwen3") == [
        {"reasoning": "a"},
        {"text": "b <think> c"},
    ]
    assert read("<think>\na</think>b", "qwen", "deepseek_r1") == [{"reasoning": "a"}, {"text": "b"}]


def test_reasoning_without_an_end_is_all_there_is() -> None:
    assert read("still at it </thi", "qwen", "deepseek_r1") == [{"reasoning": "still at it </thi"}]


def test_odd_quotes_in_prose_do_not_hide_a_json_call() -> None:
    text = 'The 6" pipe: {"name": "f", "arguments": {"a": 1}}'
    assert read(text, "json") == [{"text": 'The 6" pipe:'}, call("f", '{"a": 1}')]


def test_the_key_function_may_stand_for_the_name() -> None:
    assert read('{"function": "f", "arguments": {"a": 1}}', "json") == [call("f", '{"a": 1}')]


def test_a_json_answer_is_content() -> None:
    for text in ('{"verdict": "ok"}', '{"name": "Ann", "age": 3}', '[{"name": "Ann"}]'):
        assert read(text, "json") == [{"text": text}]
    assert read('{"verdict": {"name": "f", "parameters": {}}}', "llama")[0].keys() == {"text"}


def test_arguments_before_the_name_wait_for_it() -> None:
    assert read(QWEN.replace("{}", '{"arguments": {"a": 1}, "name": "f"}'), "qwen") == [
        call("f", '{"a": 1}')
    ]


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "f", "arguments": {"a": 1}',
        '{"name": "f", "arguments": {"a": 1}}}',
        '{"name": "f", "arguments": {"a": 1}, "why": "so"}',
        '{"arguments": {"a": 1}, "name": "f"',
    ],
)
def test_miscounted_brackets_around_whole_arguments_do_not_matter(body: str) -> None:
    assert read(f"{QWEN.replace('{}', body)} Hi", "qwen") == [
        call("f", '{"a": 1}'),
        {"text": "Hi"},
    ]


@pytest.mark.parametrize("arguments", ['"no object"', '"[1]"', "[1]", "5", "{1: 2}", "{,}"])
def test_arguments_that_are_no_object_make_no_complete_call(arguments: str) -> None:
    text = QWEN.replace("{}", f'{{"name": "f", "arguments": {arguments}}}')
    assert not any(part.get("complete") for part in read(text, "qwen"))
    if arguments[0] != "{":
        assert read(text, "qwen") == [{"text": text}]


def test_strings_that_are_no_json_are_repaired() -> None:
    body = '{"name": "f", "arguments": {"a": "x\ny\\d"}}'
    assert read(QWEN.replace("{}", body), "qwen") == [call("f", '{"a": "x\\ny\\\\d"}')]


def test_code_for_a_built_in_tool_is_content() -> None:
    text = '<|python_tag|>brave_search.call(query="tide")'
    assert read(text, "llama") == [{"text": text}]


def test_forgotten_tags_of_qwen_coder_are_forgiven() -> None:
    text = "<function=f>\n<parameter=a>\n1\n<parameter=b>\n2\n</function>\n</tool_call>"
    assert read(text, "qwen_coder") == [call("f", '{"a": "1", "b": "2"}')]
    text = "<tool_call>\n<function=f\n<parameter=a>\n1\n</parameter>\n</tool_call>"
    assert read(text, "qwen_coder") == [call("f", '{"a": "1"}')]


def test_dsml_falls_back_to_text_and_takes_a_json_body() -> None:
    value = '<｜DSML｜parameter name="a" string="false">{}</｜DSML｜parameter>'
    outer = '<｜DSML｜tool_calls><｜DSML｜invoke name="f">{}</｜DSML｜invoke></｜DSML｜tool_calls>'
    for written, expected in (("2", "2"), ("two", '"two"'), ("{'a': 1}", '{"a": 1}')):
        text = outer.replace("{}", value.replace("{}", written))
        assert read(text, "deepseek_v4") == [call("f", f'{{"a": {expected}}}')]
    assert read(outer.replace("{}", '{"a": 1}'), "deepseek_v4") == [call("f", '{"a": 1}')]


def test_cohere_answers_lose_their_frame() -> None:
    text = "<|START_THINKING|>a<|START_RESPONSE|>Hi <co>x</co: 0:[1]><|END_RESPONSE|>"
    assert read(text, "cohere", "cohere_cmd") == [
        {"reasoning": "a"},
        {"text": "Hi <co>x</co: 0:[1]>"},
    ]


def test_harmony_follows_the_recipient_first() -> None:
    text = (
        "<|channel|>analysis to=functions.f <|constrain|>json<|message|>{}<|call|>"
        "<|start|>assistant to=functions.g<|channel|>commentary<|message|>{}<|call|>"
        "<|start|>assistant<|channel|>commentary to=python<|message|>print()<|call|>"
        "<|start|>assistant<|channel|>commentary<|message|>So.<|end|>"
    )
    assert read(text, "harmony", "harmony") == [
        call("f", "{}"),
        call("g", "{}"),
        {"reasoning": "print()"},
        {"text": "So."},
    ]


def test_harmony_that_breaks_its_format_is_content() -> None:
    assert read("Plain text.", "harmony", "harmony") == [{"text": "Plain text."}]
    assert read("<|channel|>final oops", "harmony", "harmony") == [
        {"text": "<|channel|>final oops"}
    ]


def test_free_text_of_a_custom_tool_becomes_its_input() -> None:
    offered = (ToolSchema("patch", None, None, free_text=True),)
    text = '<|channel|>commentary to=functions.patch<|message|>*** begin\n"x"<|call|>'
    found = joined(parse([text], "harmony", "harmony", offered=offered))
    assert found == [call("patch", '{"input": "*** begin\\n\\"x\\""}')]


def test_pythonic_calls_may_be_wrapped() -> None:
    assert read("<|python_start|>[f(a=1)]<|python_end|>", "pythonic") == [call("f", '{"a": 1}')]
    text = "<function_calls>\nf(a=1)\ng()\n</function_calls>"
    assert read(text, "pythonic") == [call("f", '{"a": 1}'), call("g", "{}")]


def test_names_may_have_hyphens_and_dots() -> None:
    text = (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get-tide.now:3"
        "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>"
    )
    assert read(text, "kimik2") == [call("get-tide.now", "{}", "functions.get-tide.now:3")]


def test_each_of_the_forty_has_a_test() -> None:
    source = inspect.getsource(sys.modules[__name__])
    numbered = re.findall(r"^def test_.* -> None:  # ([\d, ]+)$", source, re.MULTILINE)
    assert {int(number) for row in numbered for number in row.split(",")} == set(range(1, 41))
