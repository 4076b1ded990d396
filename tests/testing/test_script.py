import re
from pathlib import Path

import pytest

from smg.errors import ConfigError
from smg.testing.chatml import Conversation, Message, OfferedTool
from smg.testing.engine import ScriptedEngine
from smg.testing.reply import Call, Failure, Reply
from smg.testing.script import NO_RULE, Script
from tests.testing.asking import answer, ask, calls_in, render, request, tool, user

DOCS = Path(__file__).parents[2] / "docs/scripted-engine.md"
NUMBERS = {"a": {"type": "number"}, "b": {"type": "number"}}
MULTIPLY, ADD = tool("multiply", **NUMBERS), tool("demo__add", **NUMBERS)
CALCULATE = tool("calculate", expression={"type": "string"})
CLOCK = tool("demo__current_time", timezone={"type": "string"})


def asked(question: str, *results: str, tools: tuple[OfferedTool, ...] = ()) -> Conversation:
    answered = [Message("tool", result) for result in results]
    return Conversation(messages=(Message("user", question), *answered), tools=tools)


def test_the_first_rule_that_fits_answers() -> None:
    script = Script.parse("rules: [{when: HELLO, say: a}, {when: hello, say: b}, {say: c}]")
    assert script.reply(asked("oh, hello")) == Reply(say="a")
    assert script.reply(asked("bye")) == Reply(say="c")


def test_a_rule_that_calls_a_tool_needs_it_offered() -> None:
    script = Script.parse("rules: [{call: [f, g]}, {call: '*'}, {say: none}]")
    f, g = OfferedTool("f"), OfferedTool("my_g", {"properties": {"x": {"type": "integer"}}})
    assert script.reply(asked("", tools=(f, g))).calls == (
        Call("f", "{}"),
        Call("my_g", '{"x": 1}'),
    )
    assert script.reply(asked("", tools=(g,))).calls == (Call("my_g", '{"x": 1}'),)
    assert script.reply(asked("")).say == "none"


def test_groups_are_quoted_inside_a_call_and_plain_elsewhere() -> None:
    script = Script.parse(
        r"""rules: [{when: 'find (?P<what>.+)', say: '\1!', think: '\g<what>?',
                     call: 'f {"q": "\1"}'}]"""
    )
    reply = script.reply(asked('find "é"\n', tools=(OfferedTool("f"),)))
    assert reply == Reply(say='"é"\n!', think='"é"\n?', calls=(Call("f", '{"q": "\\"é\\"\\n"}'),))


def test_a_group_that_took_no_part_is_empty() -> None:
    script = Script.parse(r"rules: [{when: 'a(b)?', say: '<\1>'}]")
    assert script.reply(asked("a")).say == "<>"


def test_results_are_filled_in_by_number() -> None:
    script = Script.parse("rules: [{after_tool: true, say: '<result2>, <results>, <result3>'}]")
    reply = script.reply(asked("", '{"result": 42}', "x"))
    assert reply.say == "x, 42 | x, (no result 3)"


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ('{"result": "noon"}', "noon"),
        ('{"result": {"a": 1}}', '{"a": 1}'),
        ('{"result": 1, "more": 2}', '{"result": 1, "more": 2}'),
        ("[1]", "[1]"),
        ("no JSON", "no JSON"),
    ],
)
def test_a_result_is_shown_as_a_person_would_say_it(result: str, shown: str) -> None:
    assert Script().reply(asked("", result)).say == f"The result is: {shown}"


def test_what_is_filled_in_stays_as_it_is() -> None:
    script = Script.parse(r"rules: [{when: (.+), after_tool: true, say: '\1: <results>'}]")
    assert script.reply(asked("<results>", r"\1")).say == r"<results>: \1"


@pytest.mark.parametrize(
    ("result", "value"), [("12", "12"), ("Rome", '"Rome"'), ('{"result": "x"}', '"x"')]
)
def test_a_result_is_a_json_value_in_a_call(result: str, value: str) -> None:
    script = Script.parse("""rules: [{after_tool: true, call: 'f {"a": <results>}'}]""")
    reply = script.reply(asked("", result, tools=(OfferedTool("f"),)))
    assert reply.calls == (Call("f", f'{{"a": {value}}}'),)


def test_rules_may_wait_for_a_round_of_results() -> None:
    script = Script.parse("rules: [{after_tool: 2, say: two}, {after_tool: true, say: one}]")
    first = asked("go", "1")
    second = Conversation(
        messages=(*first.messages, Message("assistant", ""), Message("tool", "2"))
    )
    third = Conversation(messages=(*second.messages, Message("user", "go"), Message("tool", "3")))
    assert [script.reply(each).say for each in (first, second, third)] == ["one", "two", "one"]


def test_a_rule_may_be_slow_and_may_fail() -> None:
    script = Script.parse("rules: [{say: a, slow: 1.5, fail: during}]")
    assert script.reply(asked("")) == Reply(say="a", slow=1.5, failure=Failure.DURING)
    assert Script.parse("rules: [{fail: before}]").reply(asked("")).failure is Failure.BEFORE


def test_without_a_rule_that_fits_the_engine_says_so() -> None:
    assert Script.parse("rules: [{when: x, say: y}]").reply(asked("")).say == NO_RULE


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("rules: [", "f.yaml: is no YAML: "),
        ("[]", "f.yaml: must hold `rules:` with a list, and nothing else"),
        ("rules: []\nmore: 1", "f.yaml: must hold `rules:` with a list, and nothing else"),
        ("rules: [x]", "f.yaml: rule 1 must be a mapping, not 'x'"),
        ("rules: [{say: a}, {name: hi, sey: b}]", "f.yaml: rule 2 (hi): unknown sey; a rule has"),
        ("rules: [{when: a}]", "f.yaml: rule 1: says nothing: it needs say, call or fail"),
        ("rules: [{when: '(', say: a}]", "f.yaml: rule 1: `when` is no regular expression: "),
        ("rules: [{when: 1, say: a}]", "f.yaml: rule 1: 1 must be text (in quotes)"),
        ("rules: [{say: 42}]", "f.yaml: rule 1: 42 must be text (in quotes)"),
        (r"rules: [{say: '\1'}]", r"f.yaml: rule 1: `when` has no group for \1"),
        (r"rules: [{say: '\g<x>'}]", r"f.yaml: rule 1: `when` has no group for \g<x>"),
        (r"rules: [{call: 'f {\1}'}]", r"f.yaml: rule 1: `when` has no group for \1"),
        ("rules: [{call: 'f(1)'}]", "f.yaml: rule 1: `call` must read NAME {JSON}, not 'f(1)'"),
        ("rules: [{call: [], say: }]", "f.yaml: rule 1: None must be text (in quotes)"),
        ("rules: [{say: a, slow: -1}]", "f.yaml: rule 1: `slow` must be a number of seconds"),
        ("rules: [{say: a, fail: now}]", "f.yaml: rule 1: `fail` must be before or during"),
        ("rules: [{say: a, after_tool: 0}]", "f.yaml: rule 1: `after_tool` must be true, false"),
    ],
)
def test_a_mistake_is_told_with_its_rule(text: str, mistake: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(mistake)):
        Script.parse(text, "f.yaml")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        Script.load(tmp_path / "none.yaml")


async def test_the_example_in_the_documents_takes_an_agent_through_two_rounds(
    tmp_path: Path,
) -> None:
    found = re.search(r"```yaml\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    assert found is not None
    rules = tmp_path / "shop.yaml"
    rules.write_text(found[1], "utf-8")
    tools = [tool("shop__find_order", id={"type": "string"}), tool("track", order={})]
    history = [user("Where is order A7?")]
    async with ScriptedEngine(rules) as engine:
        first = await answer(engine, *history, tools=tools)
        history += [{"role": "assistant", "content": first}, {"role": "tool", "content": "12"}]
        second = await answer(engine, *history, tools=tools)
        history += [{"role": "assistant", "content": second}, {"role": "tool", "content": "Rome"}]
        third = await answer(engine, *history, tools=tools)
        alone = await answer(engine, user("Where is order A7?"))
        other = await answer(engine, user("Hi"))
    assert calls_in(first) == [{"name": "shop__find_order", "arguments": {"id": "A7"}}]
    assert second.startswith("Order A7 was found. Let me see where the parcel is.\n<tool_call>")
    assert calls_in(second) == [{"name": "track", "arguments": {"order": 12}}]
    assert (third, alone) == ("Order A7: Rome.", "I have no tool to look up A7.")
    assert other == "I only know about orders."


async def test_the_demo_calls_two_tools_at_once_and_answers_with_both_results() -> None:
    question = user("What is 21 times 2, and what time is it in UTC?")
    async with ScriptedEngine() as engine:
        text = await answer(engine, question, tools=[MULTIPLY, CLOCK])
        results = [
            {"role": "assistant", "content": text},
            {"role": "tool", "content": "42"},
            {"role": "tool", "content": '{"result": "2026-01-01T12:00:00+00:00"}'},
        ]
        final = await answer(engine, question, *results, tools=[MULTIPLY, CLOCK])
    assert text.startswith("<think>\nTwo questions: ")
    assert calls_in(text) == [
        {"name": "multiply", "arguments": {"a": 21, "b": 2}},
        {"name": "demo__current_time", "arguments": {"timezone": "UTC"}},
    ]
    assert final == "21 times 2 is 42, and the time in UTC is 2026-01-01T12:00:00+00:00."


@pytest.mark.parametrize(
    ("question", "offered", "call"),
    [
        ("What is 3 x 4?", MULTIPLY, ("multiply", {"a": 3, "b": 4})),
        ("What is 3 times 4?", CALCULATE, ("calculate", {"expression": "3 * 4"})),
        ("what is 1.5 plus -2?", ADD, ("demo__add", {"a": 1.5, "b": -2})),
        ("1 + 2", CALCULATE, ("calculate", {"expression": "1 + 2"})),
        ("What time is it?", CLOCK, ("demo__current_time", {"timezone": "UTC"})),
        ("the time in Europe/Rome", CLOCK, ("demo__current_time", {"timezone": "Europe/Rome"})),
        ("How is the weather?", ADD, ("demo__add", {"a": 1, "b": 1})),
    ],
)
async def test_the_default_rules_call_what_is_offered(
    question: str, offered: dict[str, object], call: tuple[str, object]
) -> None:
    async with ScriptedEngine() as engine:
        text = await answer(engine, user(question), tools=[offered])
    assert calls_in(text) == [{"name": call[0], "arguments": call[1]}]


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("Hello!", "no model"),
        ("What is 3 times 4?", "offers none"),
        ("What is 3 plus 4?", "offers none"),
        ("What time is it?", "offers none"),
        ("How is the weather?", "no model"),
        ("Tell me a joke.", "no model"),
    ],
)
async def test_the_default_rules_never_pretend(question: str, words: str) -> None:
    async with ScriptedEngine() as engine:
        assert words in await answer(engine, user(question))


async def test_after_a_tool_the_default_rules_say_its_result() -> None:
    async with ScriptedEngine() as engine:
        result = {"role": "tool", "content": "18 C, sunny"}
        text = await answer(engine, user("How is the weather?"), result)
        product = await answer(engine, user("3 times 4?"), {"role": "tool", "content": "12"})
    assert (text, product) == ("The result is: 18 C, sunny", "3 times 4 is 12.")


async def test_a_prompt_without_chat_markers_is_one_message() -> None:
    async with ScriptedEngine() as engine:
        said = await ask(engine, request("[[echo]]"))
    assert said.text == '[["user", "[[echo]]"]]'


async def test_instructions_may_speak_of_tools_themselves() -> None:
    async with ScriptedEngine() as engine:
        system = {"role": "system", "content": "Be nice.\n\n# Tools\nUse <tools> wisely."}
        await ask(engine, request(render([system, user("hi")], [ADD, CLOCK])))
        conversation = engine.requests[-1].conversation
    assert conversation.messages[0] == Message("system", "Be nice.\n\n# Tools\nUse <tools> wisely.")
    assert [offered.name for offered in conversation.tools] == ["demo__add", "demo__current_time"]
