"""`smg parse`."""

import io
import json
import sys
from pathlib import Path

import pytest

from smg.cli import main
from smg.lab import command
from smg.parsers.lab import Parsed

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


def write(folder: Path, text: str) -> str:
    path = folder / "output.txt"
    path.write_bytes(text.encode())
    return str(path)


def test_a_file_is_parsed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, f"<think>Hm.</think>\r\nSo:\n{CALL}")
    status = main(["parse", "--tool-call-parser", "qwen", "--reasoning-parser", "qwen3", file])
    assert (status, capsys.readouterr().out) == (
        0,
        'reasoning  "Hm."\ncontent    "So:"\ncall       add {"a": 1}\n',
    )


def test_standard_input_is_parsed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(CALL.partition("}")[0]))
    assert main(["parse", "--tool-call-parser", "qwen", "-"]) == 0
    assert capsys.readouterr().out == 'call       add {"a": 1 (cut off)\n'


def test_nothing_is_said_to_be_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parse", "--cuts", write(tmp_path, "")]) == 0
    assert capsys.readouterr().out == "nothing\n\n0 cuts, 0 of them change what is found\n"


def test_tools_from_a_file_type_the_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, "<function=add><parameter=a>7</parameter></function>")
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}}}
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([{"function": {"name": "add", "parameters": parameters}}]))
    assert main(["parse", "--tool-call-parser=qwen_coder", f"--tools={tools}", file]) == 0
    assert capsys.readouterr().out == 'call       add {"a": 7}\n'


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ([], 'content    "a</think>b"\n'),
        (["--starts-in-reasoning"], 'reasoning  "a"\ncontent    "b"\n'),
        (["--starts-in-answer"], 'content    "a</think>b"\n'),
    ],
)
def test_the_prompt_may_have_opened_reasoning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], found: str
) -> None:
    file = write(tmp_path, "a</think>b")
    assert main(["parse", "--reasoning-parser", "qwen3", *flags, file]) == 0
    assert capsys.readouterr().out == found


def test_every_cut_shows_what_is_known_by_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["parse", "--tool-call-parser", "qwen", "--cuts", write(tmp_path, "ab")]) == 0
    assert capsys.readouterr().out == (
        'content    "ab"\n\n1: "a"|\n  content    "a"\n\n1 cuts, 0 of them change what is found\n'
    )


def test_cuts_that_differ_are_shown_and_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Our parsers have no such cut, so this one is wrong on purpose: it loses the second piece.
    def careless(pieces: list[str], **_: object) -> Parsed:
        return Parsed(pieces[0], "", ())

    monkeypatch.setattr(command, "parse", careless)
    assert main(["parse", "--cuts", write(tmp_path, "abc")]) == 1
    shown = capsys.readouterr().out
    assert '  DIFFERS: cut here, the whole text gives\n    content    "ab"\n' in shown
    assert shown.endswith("2 cuts, 2 of them change what is found\n")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--tool-call-parser", "no_such", "FILE"], "qwen_coder"),
        (["--reasoning-parser", "no_such", "FILE"], "deepseek_r1"),
        (["no/such/file"], "no/such/file"),
        (["--tools", "no/such/file", "FILE"], "--tools no/such/file"),
        (["--tools", "FILE", "FILE"], "--tools"),
        (["--tools", "LIST", "FILE"], "tools[0]"),
        (["--tools", "OBJECT", "FILE"], "a list of tools"),
        ([], "FILE"),
        (["--cut", "FILE"], "--cut"),
    ],
)
def test_what_is_wrong_with_the_command_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], named: str
) -> None:
    files = {"FILE": write(tmp_path, "text")}
    for name, value in (("LIST", [1]), ("OBJECT", {})):
        files[name] = str(tmp_path / name)
        Path(files[name]).write_text(json.dumps(value))
    assert main(["parse", *(files.get(word, word) for word in words)]) == 2
    assert named in capsys.readouterr().err


def test_a_file_that_is_no_text_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert main(["parse", str(tmp_path / "binary")]) == 2
    assert "binary" in capsys.readouterr().err
