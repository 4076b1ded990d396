"""Text of a parameter becomes the JSON its schema asks for."""

from typing import Any

import pytest

from smg.parsers.coerce import allowed_types, coerce, parameter_types, schema_of

CASES = [
    ("string", "007", '"007"'),
    ("string", "true", '"true"'),
    ("string", "null", '"null"'),
    ("string", '{"a":1}', '"{\\"a\\":1}"'),
    ("string", '"quoted"', '"\\"quoted\\""'),
    ("string", "a &amp; <b>", '"a &amp; <b>"'),
    ("string null", "null", "null"),
    ("string null", "007", '"007"'),
    ("string null", "12", '"12"'),
    ("string null", "None", '"None"'),
    ("integer", "12", "12"),
    ("integer", "+12", "12"),
    ("integer", "007", "7"),
    ("integer", "-5", "-5"),
    ("integer", " 3\n", "3"),
    ("integer", "9007199254740993", "9007199254740993"),
    ("integer", "1" * 5000, "1" * 5000),
    ("integer", "1.5", "1.5"),
    ("integer", "many", '"many"'),
    ("integer null", "None", "null"),
    ("number", "1e3", "1e3"),
    ("number", "2", "2"),
    ("number", "inf", '"inf"'),
    ("number", "nan", '"nan"'),
    ("boolean", "True", "true"),
    ("boolean", "false", "false"),
    ("boolean", "1", '"1"'),
    ("boolean", "yes", '"yes"'),
    ("object", '{"a": [1, 2]}', '{"a": [1, 2]}'),
    ("object", "{'a': True, 'b': None}", '{"a": true, "b": null}'),
    ("object", "no object", '"no object"'),
    ("object", '{"a": NaN}', '"{\\"a\\": NaN}"'),
    ("array", "[1, 2]", "[1, 2]"),
    ("array", "(1, 2)", "[1, 2]"),
    ("array", "[" * 3000, '"' + "[" * 3000 + '"'),
    ("integer string", "12", "12"),
    ("integer string", "012", '"012"'),
    ("boolean string", "true", "true"),
    ("boolean string", "maybe", '"maybe"'),
    ("object string", "[1]", '"[1]"'),
    ("array string", "[1]", "[1]"),
    ("number null", "null", "null"),
]


@pytest.mark.parametrize(("types", "text", "expected"), CASES)
def test_text_is_coerced(types: str, text: str, expected: str) -> None:
    assert coerce(text, frozenset(types.split())) == expected


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({"type": "integer"}, "integer"),
        ({"type": ["string", "null"]}, "string null"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string null"),
        ({"oneOf": [{"type": "integer"}, {"allOf": [{"type": "number"}]}]}, "integer number"),
        ({"enum": ["a", 1, None, True]}, "string integer null boolean"),
        ({"const": 1.5}, "number"),
        ({"$ref": "#/$defs/Size"}, "integer"),
        ({"$ref": "#/$defs/Loop"}, "string"),
        ({"$ref": "#/nowhere"}, ""),
        ({"properties": {}}, "object"),
        ({"items": {}}, "array"),
        ({"type": "string", "nullable": True}, "string null"),
        ({}, ""),
        (True, ""),
    ],
)
def test_all_types_a_schema_allows_are_found(schema: Any, types: str) -> None:
    root = {
        "$defs": {
            "Size": {"type": "integer"},
            "Loop": {"anyOf": [{"$ref": "#/$defs/Loop"}, {"type": "string"}]},
        }
    }
    assert allowed_types(schema, root) == frozenset(types.split())


def test_a_parameter_nothing_is_known_of_is_a_string() -> None:
    assert parameter_types(None, "x") == {"string"}
    assert parameter_types({"properties": {"y": {"type": "integer"}}}, "x") == {"string"}
    assert parameter_types({"properties": {"x": {"description": "?"}}}, "x") == {"string"}


def test_parameters_may_stand_behind_a_reference() -> None:
    schema = {
        "$ref": "#/$defs/All",
        "$defs": {"All": {"properties": {"x": {"type": "integer"}}}},
    }
    assert parameter_types(schema, "x") == {"integer"}


def test_a_tool_of_free_text_has_one_string() -> None:
    assert parameter_types(schema_of(None, free_text=True), "input") == {"string"}
    assert schema_of(None, free_text=False) == {"type": "object", "properties": {}}
