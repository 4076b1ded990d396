"""What goes over the wire to hold an engine to a request: by family, endpoint and reasoning."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.e2e.gateway import Served
from tests.e2e.gateway import served as serve

Json = dict[str, Any]

CITY: Json = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
ANY: Json = {"type": "object"}
ANSWER: Json = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
PLAIN_ANSWER: Json = {"type": "json_schema", "json_schema": ANSWER}
FAMILIES = ["qwen", "llama", "deepseek", "json"]
ENDPOINTS = ["chat", "responses"]


@pytest.fixture(scope="module", params=FAMILIES)
async def family(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[str, Served]]:
    """A gateway whose model, so it is told, writes calls like this and never thinks."""
    folder = tmp_path_factory.mktemp(request.param)
    parsers = {"tool_call_parser": request.param, "reasoning_parser": "passthrough"}
    async with serve(folder, tools=False, **parsers) as running:
        yield request.param, running


def tools(*names: str, strict: bool | None = None) -> list[Json]:
    return [{"name": name, "parameters": CITY, "strict": strict} for name in names]


async def ask(served: Served, endpoint: str, /, **wishes: Any) -> tuple[str | None, Any]:
    """Ask for something; the kind of constraint that the engine was sent, and what it says."""
    body = (chat_body if endpoint == "chat" else responses_body)(**wishes)
    path = "/chat/completions" if endpoint == "chat" else "/responses"
    answer = await served.post(path, **body)
    assert answer.status_code == 200, answer.text
    return sent_by(served)


def sent_by(served: Served) -> tuple[str | None, Any]:
    params = served.engine.requests[-1].message.sampling_params
    kind = params.WhichOneof("constraint")
    if kind is None:
        return None, None
    value = getattr(params, kind)
    if kind == "structural_tag":
        return kind, json.loads(value)["format"]
    return kind, json.loads(value) if kind == "json_schema" else value


def chat_body(
    *,
    offered: list[Json] | None = None,
    choice: str | None = None,
    parallel: bool | None = None,
    answer: str | None = None,
    thinks: bool | None = None,
    says: str = "[[say:{}]]",
) -> Json:
    forms = {
        "json_object": {"type": "json_object"},
        "json_schema": {"type": "json_schema", "json_schema": {"name": "a", "schema": ANSWER}},
    }
    named = {"type": "function", "function": {"name": choice}}
    given = {
        "messages": [{"role": "user", "content": says}],
        "tools": [{"type": "function", "function": tool} for tool in offered or ()] or None,
        "tool_choice": choice if choice in (None, "required", "auto", "none") else named,
        "parallel_tool_calls": parallel,
        "response_format": forms[answer] if answer else None,
        "chat_template_kwargs": None if thinks is None else {"enable_thinking": thinks},
    }
    return {key: value for key, value in given.items() if value is not None}


def responses_body(
    *,
    offered: list[Json] | None = None,
    choice: str | None = None,
    parallel: bool | None = None,
    answer: str | None = None,
    thinks: bool | None = None,
    says: str = "[[say:{}]]",
) -> Json:
    forms = {
        "json_object": {"type": "json_object"},
        "json_schema": {"type": "json_schema", "name": "a", "schema": ANSWER},
    }
    given = {
        "input": says,
        "tools": [{"type": "function", **tool} for tool in offered or ()] or None,
        "tool_choice": choice
        if choice in (None, "required", "auto", "none")
        else {"type": "function", "name": choice},
        "parallel_tool_calls": parallel,
        "text": {"format": forms[answer]} if answer else None,
        "reasoning": {"effort": "none"} if thinks is False else None,
    }
    return {key: value for key, value in given.items() if value is not None}


def schema(value: Json) -> Json:
    return {"type": "json_schema", "json_schema": value}


def tag(begin: str, content: Json, end: str) -> Json:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def triggered(trigger: str, tags: list[Json], *, must: bool, single: bool) -> Json:
    return {
        "type": "triggered_tags",
        "triggers": [trigger],
        "tags": tags,
        "at_least_one": must,
        "stop_after_first": single,
    }


def native(family: str, tools: dict[str, Json], *, must: bool = True, single: bool = False) -> Json:
    """The structural tag in which a family calls these tools with arguments of these schemas."""
    if family == "qwen":
        begin, end = '<tool_call>\n{"name": "%s", "arguments": ', "}\n</tool_call>"
        tags = [tag(begin % name, schema(of), end) for name, of in tools.items()]
        return triggered("<tool_call>", tags, must=must, single=single)
    if family == "llama":
        begin = '{"name": "%s", "parameters": '
        tags = [tag(begin % name, schema(of), "}") for name, of in tools.items()]
        return triggered('{"name": ', tags, must=must, single=single)
    begin, end = (
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>%s\n```json\n",
        "\n```<｜tool▁call▁end｜>",
    )
    calls = {
        "type": "tags_with_separator",
        "tags": [tag(begin % name, schema(of), end) for name, of in tools.items()],
        "separator": "\n",
        "at_least_one": True,
        "stop_after_first": single,
    }
    outer = "<｜tool▁calls▁begin｜>"
    return triggered(outer, [tag(outer, calls, "<｜tool▁calls▁end｜>")], must=must, single=True)


def listed(tools: dict[str, Json], *, single: bool = False) -> Json:
    """The schema of a list of calls, for families without a form that a tag can hold."""
    calls = [
        {
            "type": "object",
            "properties": {"name": {"type": "string", "enum": [name]}, "arguments": of},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for name, of in tools.items()
    ]
    most = {"maxItems": 1} if single else {}
    return {"type": "array", "minItems": 1, "items": {"anyOf": calls}, **most}


BOTH = {"weather": CITY, "news": CITY}
FORCED: list[tuple[str, Json, dict[str, Json], bool]] = [
    # what is asked, its fields, the tools that may be called, whether only once
    ("required", {"choice": "required"}, BOTH, False),
    ("required once", {"choice": "required", "parallel": False}, BOTH, True),
    ("named", {"choice": "news"}, {"news": CITY}, True),
]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(("_what", "wishes", "allowed", "single"), FORCED, ids=lambda v: str(v)[:9])
async def test_calls_that_must_be_made(
    family: tuple[str, Served],
    endpoint: str,
    _what: str,
    wishes: Json,
    allowed: dict[str, Json],
    single: bool,
) -> None:
    name, served = family
    sent = await ask(served, endpoint, offered=tools("weather", "news"), **wishes)
    if name == "json":
        assert sent == ("json_schema", listed(allowed, single=single))
    else:
        assert sent == ("structural_tag", native(name, allowed, single=single))


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_strict_tools_where_the_model_is_free(
    family: tuple[str, Served], endpoint: str
) -> None:
    name, served = family
    offered = tools("weather", strict=True) + tools("news", strict=False)
    sent = await ask(served, endpoint, offered=offered)
    form = native(name, {"weather": CITY, "news": ANY}, must=False)
    # A list of calls would leave no room for an answer.
    assert sent == ((None, None) if name == "json" else ("structural_tag", form))


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_one_call_where_the_model_is_free(family: tuple[str, Served], endpoint: str) -> None:
    name, served = family
    sent = await ask(served, endpoint, offered=tools("weather"), parallel=False)
    form = native(name, {"weather": ANY}, must=False, single=True)
    assert sent == ((None, None) if name == "json" else ("structural_tag", form))


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("choice", ["auto", "none"])
async def test_a_free_model_is_held_to_nothing(
    family: tuple[str, Served], endpoint: str, choice: str
) -> None:
    assert await ask(family[1], endpoint, offered=tools("weather"), choice=choice) == (None, None)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("choice", [None, "none"])
async def test_an_answer_in_a_form(
    family: tuple[str, Served], endpoint: str, choice: str | None
) -> None:
    offered = tools("weather") if choice else None
    for answer, expected in (("json_schema", ANSWER), ("json_object", ANY)):
        sent = await ask(family[1], endpoint, answer=answer, offered=offered, choice=choice)
        assert sent == ("json_schema", expected)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_an_answer_in_a_form_or_calls(family: tuple[str, Served], endpoint: str) -> None:
    name, served = family
    offered = tools("weather", strict=True) + tools("news", strict=False)
    kind, form = await ask(served, endpoint, answer="json_schema", offered=offered)
    schemas = {"weather": CITY, "news": ANY}
    calls = schema(listed(schemas)) if name == "json" else native(name, schemas)
    assert (kind, form) == ("structural_tag", {"type": "or", "elements": [PLAIN_ANSWER, calls]})


async def test_a_model_held_to_a_form_can_call_and_then_answer(
    family: tuple[str, Served],
) -> None:
    _, served = family
    says = '[[call:weather {"city": "Oslo"}]]'
    body = responses_body(offered=tools("weather"), answer="json_schema", says=says)
    first = (await served.post("/responses", **body)).json()
    [call] = [item for item in first["output"] if item["type"] == "function_call"]
    assert (call["name"], json.loads(call["arguments"])) == ("weather", {"city": "Oslo"})
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
    body = {**body, "input": [result], "previous_response_id": first["id"]}
    second = (await served.post("/responses", **body)).json()
    [message] = [item for item in second["output"] if item["type"] == "message"]
    assert message["content"][0]["text"] == "tool result: sunny"


THOUGHT = {"type": "tag", "content": {"type": "any_text"}, "end": "</think>"}


@pytest.fixture(scope="module", params=["qwen3", "deepseek_r1"])
async def thinker(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[str, Served]]:
    """A gateway whose model may think first (qwen3), or begins inside its thoughts."""
    folder = tmp_path_factory.mktemp(request.param)
    async with serve(folder, tools=False, reasoning_parser=request.param) as running:
        yield request.param, running


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(
    ("wishes", "form"),
    [
        ({"choice": "required", "offered": tools("weather")}, native("qwen", {"weather": CITY})),
        ({"answer": "json_schema"}, PLAIN_ANSWER),
        (
            {"answer": "json_object", "offered": tools("weather", strict=True)},
            {"type": "or", "elements": [schema(ANY), native("qwen", {"weather": CITY})]},
        ),
    ],
    ids=["calls", "an answer", "either"],
)
async def test_reasoning_comes_first(
    thinker: tuple[str, Served], endpoint: str, wishes: Json, form: Json
) -> None:
    reasoning, served = thinker
    opened = {"type": "sequence", "elements": [{**THOUGHT, "begin": ""}, form]}
    own = {"type": "sequence", "elements": [{**THOUGHT, "begin": "<think>"}, form]}
    expected = opened if reasoning == "deepseek_r1" else {"type": "or", "elements": [own, form]}
    assert await ask(served, endpoint, **wishes) == ("structural_tag", expected)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_reasoning_that_the_prompt_has_closed_does_not(
    thinker: tuple[str, Served], endpoint: str
) -> None:
    sent = await ask(thinker[1], endpoint, thinks=False, answer="json_schema")
    assert sent == ("json_schema", ANSWER)
    wishes = {"thinks": False, "offered": tools("weather"), "choice": "required"}
    sent = await ask(thinker[1], endpoint, **wishes)
    assert sent == ("structural_tag", native("qwen", {"weather": CITY}))


def patch_body(syntax: str, definition: str, says: str, **fields: Any) -> Json:
    grammar = {"type": "grammar", "syntax": syntax, "definition": definition}
    return {
        "input": says,
        "tools": [{"type": "custom", "name": "patch", "format": grammar}],
        "tool_choice": {"type": "custom", "name": "patch"},
        **fields,
    }


NO_THOUGHTS: Json = {"reasoning": {"effort": "none"}}


@pytest.mark.parametrize(
    ("syntax", "definition", "kind"),
    [("regex", r"\*\*\* .+", "regex"), ("lark", 'start: "*** " /.+/', "grammar")],
)
async def test_a_forced_custom_tool_is_written_in_its_own_grammar(
    thinker: tuple[str, Served], syntax: str, definition: str, kind: str
) -> None:
    body = patch_body(syntax, definition, '[[say:*** "add"]]', **NO_THOUGHTS)
    answer = (await thinker[1].post("/responses", **body)).json()
    assert sent_by(thinker[1]) == (kind, definition)
    [call] = answer["output"]
    assert (call["type"], call["name"], call["input"]) == ("custom_tool_call", "patch", '*** "add"')
    assert (call["status"], answer["status"]) == ("completed", "completed")


async def test_a_forced_custom_tool_may_be_thought_about(thinker: tuple[str, Served]) -> None:
    reasoning, served = thinker
    begins = "" if reasoning == "qwen3" else "so</think>"
    body = patch_body("regex", "[a-z]+", f"[[say:{begins}add]]")
    answer = (await served.post("/responses", **body)).json()
    kind, form = sent_by(served)
    assert kind == "structural_tag"
    assert form["elements"][-1] == {"type": "regex", "pattern": "[a-z]+"}
    assert answer["output"][-1]["input"] == "add"


async def test_a_grammar_that_no_tag_can_hold_is_only_told(thinker: tuple[str, Served]) -> None:
    body = patch_body("lark", "start: /[a-z]+/", '[[call:patch {"input": "add"}]]')
    answer = (await thinker[1].post("/responses", **body)).json()
    kind, form = sent_by(thinker[1])
    assert kind == "structural_tag"
    assert '"name": "patch"' in json.dumps(form).replace('\\"', '"')
    assert "start: /[a-z]+/" in thinker[1].engine.requests[-1].prompt
    assert answer["output"][-1]["input"] == "add"


async def test_a_custom_call_that_was_cut_short_is_not_whole(
    thinker: tuple[str, Served],
) -> None:
    says = "[[say:one two three four five six seven eight nine ten eleven twelve]]"
    body = patch_body("regex", ".+", says, max_output_tokens=16, **NO_THOUGHTS)
    answer = (await thinker[1].post("/responses", **body)).json()
    [call] = answer["output"]
    assert (call["status"], answer["status"]) == ("incomplete", "incomplete")
    assert call["input"].startswith("one two")
