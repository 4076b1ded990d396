import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from smg.errors import ConfigError
from smg.tokens.source import locate


def write(folder: Path, files: Mapping[str, object]) -> str:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(folder)


def test_a_folder_is_read_whole(tmp_path: Path) -> None:
    files = locate(
        write(
            tmp_path,
            {
                "tokenizer.json": {},
                "tokenizer_config.json": {"eos_token": "<|end|>", "chat_template": "inside"},
                "config.json": {"model_type": "m", "text_config": {"eos_token_id": [1, 2]}},
                "generation_config.json": {"eos_token_id": 3},
                "special_tokens_map.json": {"bos_token": "<s>"},
            },
        )
    )
    assert files.tokenizer_json == tmp_path / "tokenizer.json"
    assert files.tokenizer_config["eos_token"] == "<|end|>"
    assert files.config["model_type"] == "m"
    assert files.special_tokens_map == {"bos_token": "<s>"}
    assert files.templates == {"default": "inside"}
    assert files.eos_ids == {1, 2, 3}


def test_an_empty_folder_has_nothing(tmp_path: Path) -> None:
    files = locate(str(tmp_path))
    assert (files.tokenizer_json, files.templates, files.eos_ids) == (None, {}, frozenset())


INSIDE = {"chat_template": "inside"}
NAMED = {
    "chat_template": [
        {"name": "default", "template": "one"},
        {"name": "tool_use", "template": "two"},
    ]
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tokenizer_config.json": NAMED}, {"default": "one", "tool_use": "two"}),
        ({"tokenizer_config.json": INSIDE, "other.jinja": "file"}, {"default": "file"}),
        ({"other.jinja": "no", "chat_template.jinja": "file"}, {"default": "file"}),
        ({"chat_template.json": {"chat_template": "file"}}, {"default": "file"}),
        ({"chat_template.json": '"file"'}, {"default": "file"}),
        (
            {"chat_template.jinja": "one", "additional_chat_templates/tool_use.jinja": "two"},
            {"default": "one", "tool_use": "two"},
        ),
    ],
)
def test_the_template_is_found_wherever_models_keep_it(
    tmp_path: Path, files: Mapping[str, object], expected: Mapping[str, str]
) -> None:
    assert locate(write(tmp_path, files)).templates == expected


def test_a_template_given_by_hand_replaces_all_others(tmp_path: Path) -> None:
    write(tmp_path, {"tokenizer_config.json": NAMED, "mine.txt": "mine"})
    found = locate(str(tmp_path), chat_template=tmp_path / "mine.txt")
    assert found.templates == {"default": "mine"}


@pytest.mark.parametrize(
    "files",
    [{"config.json": "{"}, {"config.json": "[]"}, {"chat_template.json": {"other": 1}}],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, files: Mapping[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(files))):
        locate(write(tmp_path, files))


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "a/b/c", ""])
def test_a_folder_that_is_not_there_is_an_error_naming_the_flag(path: str) -> None:
    with pytest.raises(ConfigError, match="--model-path"):
        locate(path)


def test_an_id_is_not_downloaded_where_that_is_not_allowed() -> None:
    with pytest.raises(ConfigError, match="--model-path"):
        locate("organisation/model", hub_id_allowed=False)


@contextmanager
def hub(folder: Path) -> Iterator[str]:
    """A web server that knows no model."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(5)


def test_an_id_that_cannot_be_downloaded_is_an_error_naming_the_flag(tmp_path: Path) -> None:
    with hub(tmp_path) as address, pytest.raises(ConfigError, match="--model-path: 'no/model'"):
        locate("no/model", hub=address)
