"""Settings: one field is a flag and an environment variable; a wrong value is one line."""

import argparse
import dataclasses
import re
from typing import Any, get_type_hints

import pytest

from smg.errors import ConfigError
from smg.settings import (
    GROUPS,
    Settings,
    add_flags,
    check_file,
    flag_of,
    new_parser,
    read,
    variable_of,
)

FIELDS = {entry.name: entry for entry in dataclasses.fields(Settings)}


def parsed(*words: str, **environment: str) -> Settings:
    parser = new_parser("For tests.")
    add_flags(parser)
    return read(vars(parser.parse_args(words)), environment)


def sample(name: str) -> tuple[str, Any]:
    """A value that is not the default: as text, and as it should be read."""
    entry = FIELDS[name]
    default, about = entry.default, entry.metadata
    if about["choices"]:
        text = next(choice for choice in about["choices"] if choice != default)
        return text, text
    match default:
        case bool():
            return str(not default).lower(), not default
        case int() | float():
            value = default + 1 if about["most"] is None else about["most"]
            return str(value), type(default)(value)
        case tuple():
            return "a b", ("a", "b")
        case _ if "int" in str(get_type_hints(Settings)[name]):
            return "7", 7
        case _:
            return "text", "text"


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_is_an_environment_variable(name: str) -> None:
    text, value = sample(name)
    settings = parsed(**{variable_of(name): text})
    assert settings == dataclasses.replace(Settings(), **{name: value})


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_is_a_flag(name: str) -> None:
    text, value = sample(name)
    if isinstance(value, bool):
        words = [flag_of(name) if value else flag_of(name).replace("--", "--no-", 1)]
    else:
        words = [flag_of(name), *text.split()]
    assert parsed(*words) == dataclasses.replace(Settings(), **{name: value})


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_is_explained_in_a_group_with_its_default_and_its_variable(name: str) -> None:
    parser = new_parser("For tests.")
    add_flags(parser)
    entry = FIELDS[name]
    assert entry.metadata["group"] in GROUPS
    [group] = [g for g in parser._action_groups if g.title == entry.metadata["group"]]
    [action] = [a for a in group._group_actions if a.dest == name]
    text = str(action.help)
    assert text.endswith(f"[{variable_of(name)}]")
    if entry.metadata["secret"]:
        assert entry.default in (None, ())
    assert ("(default: " in text) == (entry.default not in (None, ())), text


def test_the_help_has_every_group_and_fits_a_terminal() -> None:
    parser = new_parser("For tests.")
    add_flags(parser)
    text = parser.format_help()
    assert [title for title in GROUPS if f"\n{title}:\n" in text] == list(GROUPS)
    shown = re.findall(r"^  (?:-\w, )?(--[\w-]+)", text, re.MULTILINE)
    assert shown == ["--help", *(flag_of(name) for group in GROUPS for name in in_group(group))]


def in_group(group: str) -> list[str]:
    return [name for name, entry in FIELDS.items() if entry.metadata["group"] == group]


def test_a_flag_goes_before_its_variable() -> None:
    settings = parsed("--port", "1", SMG_PORT="2", SMG_HOST="::1")
    assert (settings.port, settings.host) == (1, "::1")


def test_a_wrong_variable_does_not_matter_beside_its_flag() -> None:
    assert parsed("--port", "1", SMG_PORT="x").port == 1


def test_several_values_may_come_in_one_flag_or_in_several() -> None:
    words = ["--worker-urls", "grpc://a:1", "grpc://b:2", "--worker-urls", "grpc://c:3"]
    assert parsed(*words).worker_urls == ("grpc://a:1", "grpc://b:2", "grpc://c:3")
    variable = parsed(SMG_WORKER_URLS=" grpc://a:1\tgrpc://b:2 ")
    assert variable.worker_urls == ("grpc://a:1", "grpc://b:2")


def test_the_reference_products_short_name_of_the_model_path_works() -> None:
    assert parsed("--model", "org/name").model_path == "org/name"


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("TRUE", True), ("yes", True), ("0", False), ("No", False), ("", False)],
)
def test_a_switch_in_the_environment_is_read_as_people_write_it(text: str, value: bool) -> None:
    assert parsed(SMG_LOG_JSON=text).log_json is value


WRONG = [
    (["--port", "x"], {}, "--port: expected a whole number, got 'x'"),
    (["--port", "1.5"], {}, "--port: expected a whole number, got '1.5'"),
    (["--port", "65536"], {}, "--port: 65536 is above the most, 65535"),
    (["--port", "-1"], {}, "--port: -1 is below the least, 0"),
    ([], {"SMG_PORT": ""}, "SMG_PORT: expected a whole number, got ''"),
    ([], {"SMG_LOG_JSON": "maybe"}, "SMG_LOG_JSON: expected true or false, got 'maybe'"),
    (
        [],
        {"SMG_FIRST_TOKEN_TIMEOUT_SECS": "soon"},
        "SMG_FIRST_TOKEN_TIMEOUT_SECS: expected a number, got 'soon'",
    ),
    (
        ["--first-token-timeout-secs", "0"],
        {},
        "--first-token-timeout-secs: 0 is below the least, 0.001",
    ),
    (
        ["--first-token-timeout-secs", "nan"],
        {},
        "--first-token-timeout-secs: expected a number, got 'nan'",
    ),
    (
        ["--first-token-timeout-secs", "inf"],
        {},
        "--first-token-timeout-secs: expected a number, got 'inf'",
    ),
    (
        ["--log-level", "loud"],
        {},
        "--log-level: unknown value 'loud'; known are debug, info, warning, error",
    ),
    (
        [],
        {"SMG_LOG_LEVEL": "loud"},
        "SMG_LOG_LEVEL: unknown value 'loud'; known are debug, info, warning, error",
    ),
]


@pytest.mark.parametrize(("words", "environment", "message"), WRONG)
def test_a_wrong_value_is_told_by_its_source(
    words: list[str], environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        parsed(*words, **environment)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--nowhere"], "--nowhere"),
        (["--port"], "--port"),
        (["--worker-urls"], "--worker-urls"),
        (["--por", "1"], "--por"),
        (["stray"], "stray"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_one_line(words: list[str], named: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parsed(*words)
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_path_that_is_no_file_is_told_by_its_flag(tmp_path: Any) -> None:
    check_file(None, "chat_template")
    check_file(__file__, "chat_template")
    with pytest.raises(ConfigError, match=r"^--chat-template: there is no file "):
        check_file(str(tmp_path), "chat_template")


def test_a_settings_object_made_without_flags_has_the_same_defaults() -> None:
    assert parsed() == Settings()
    assert read(vars(argparse.Namespace()), {}) == Settings()
