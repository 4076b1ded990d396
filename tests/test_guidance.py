"""What a generation is held to where engines differ; what goes over the wire is in tests/e2e."""

from dataclasses import replace

import pytest

from smg.engines.base import EngineInfo
from smg.errors import InvalidRequest
from smg.guidance import Asked, new_guide, offered_schemas
from smg.parsers.registry import RAW
from smg.turn import CustomTool, FunctionTool, Grammar, JsonSchema, Offer, Regex, ToolChoice

MLX = EngineInfo(engine="mlx")
ADD = Offer("add", FunctionTool(name="add", strict=True))
REQUIRED = ToolChoice(mode="required")
ASKED = Asked(
    choice=ToolChoice(),
    parallel=True,
    offered=offered_schemas([ADD], MLX),
    answer=None,
    reasoning="qwen3",
    tools="qwen",
    engine=MLX,
    starts_open=False,
)


def patch(syntax: str, engine: EngineInfo, definition: str | None = "x") -> Asked:
    tool = CustomTool(name="patch", syntax=syntax, definition=definition)  # type: ignore[arg-type]
    choice = ToolChoice(mode="required", names=frozenset({"patch"}))
    offered = offered_schemas([Offer("patch", tool)], engine)
    return replace(ASKED, choice=choice, offered=offered, engine=engine)


def test_an_engine_without_constraints_is_not_made_to_call() -> None:
    with pytest.raises(InvalidRequest, match="mlx") as raised:
        new_guide(replace(ASKED, choice=REQUIRED))
    assert raised.value.param == "tool_choice"


@pytest.mark.parametrize("offered", [(), ASKED.offered])
def test_an_engine_without_constraints_takes_no_form_of_answer(offered: tuple[()]) -> None:
    with pytest.raises(InvalidRequest, match=r"response_format"):
        new_guide(replace(ASKED, answer=JsonSchema("{}"), offered=offered))


def test_an_engine_without_constraints_is_free_where_the_model_is() -> None:
    assert new_guide(replace(ASKED, parallel=False)) is None
    assert new_guide(replace(ASKED, parallel=False, engine=EngineInfo(engine="vllm"))) is not None


def test_an_engine_that_has_said_nothing_yet_may_be_able_to() -> None:
    assert new_guide(replace(ASKED, choice=REQUIRED, engine=EngineInfo(engine=""))) is not None


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm", "tokenspeed", ""])
@pytest.mark.parametrize(
    ("syntax", "form"), [("regex", Regex("x")), ("lark", Grammar("x", "lark"))]
)
def test_a_custom_tools_grammar_goes_to_engines_that_read_it(
    engine: str, syntax: str, form: Regex | Grammar
) -> None:
    found = new_guide(patch(syntax, EngineInfo(engine=engine)))
    assert found is not None
    reads_it = syntax == "regex" or engine in ("vllm", "")
    assert (found.tools == RAW) is reads_it
    assert (found.constraint == form) is reads_it


@pytest.mark.parametrize(("syntax", "definition"), [("text", None), ("regex", None)])
def test_a_custom_tool_without_a_grammar_is_called_as_a_function(
    syntax: str, definition: str | None
) -> None:
    found = new_guide(patch(syntax, EngineInfo(engine="vllm"), definition))
    assert found is not None
    assert found.tools == "qwen"
