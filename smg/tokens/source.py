"""Where a model's files come from: a folder, or a Hugging Face id that is downloaded.

A path or an id comes in; `ModelFiles`, read and checked, goes out. Knows no tokenizer and renders
no template.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smg.errors import ConfigError

# Never weights: those patterns match nothing larger than a vocabulary.
WANTED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "config.json",
    "generation_config.json",
    "chat_template.json",
    "*.jinja",
    "additional_chat_templates/*.jinja",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "*.tiktoken",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """What a model's folder says, without its weights."""

    folder: Path
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    special_tokens_map: Mapping[str, Any] = field(default_factory=dict)
    templates: Mapping[str, str] = field(default_factory=dict)
    """Chat templates by name; `default` is the usual one, `tool_use` is for turns with tools."""

    @property
    def tokenizer_json(self) -> Path | None:
        """The fast tokenizer's file, if there is one."""
        path = self.folder / "tokenizer.json"
        return path if path.is_file() else None

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end a generation, as both configurations name them."""
        return frozenset(_ids(self.generation_config)) | frozenset(_ids(self.config))


def locate(
    model_path: str,
    hub_id_allowed: bool = True,
    *,
    chat_template: Path | None = None,
    hub: str | None = None,
) -> ModelFiles:
    """Read a model's folder, downloading it first when the path is a Hugging Face id.

    `chat_template` replaces every template of the model; `hub` is another hub's address.

    Raises:
        ConfigError: there is no such folder or id, or a file in it cannot be read.
    """
    folder = Path(model_path).expanduser()
    if not model_path or not folder.is_dir():
        if not hub_id_allowed or _looks_local(model_path):
            raise ConfigError(f"--model-path: there is no folder {model_path!r}")
        folder = _download(model_path, hub)
    tokenizer_config = _read_json(folder / "tokenizer_config.json")
    templates = (
        {"default": read_template(chat_template)}
        if chat_template is not None
        else _find_templates(folder, tokenizer_config)
    )
    return ModelFiles(
        folder=folder,
        tokenizer_config=tokenizer_config,
        config=_read_json(folder / "config.json"),
        generation_config=_read_json(folder / "generation_config.json"),
        special_tokens_map=_read_json(folder / "special_tokens_map.json"),
        templates=templates,
    )


def read_template(path: Path) -> str:
    """A chat template from its own file: Jinja, or JSON that holds it.

    Raises:
        ConfigError: it cannot be read, or holds no template.
    """
    text = _read_text(path)
    if path.suffix != ".json":
        return text
    content = _parse_json(path, text)
    template = content.get("chat_template") if isinstance(content, dict) else content
    if not isinstance(template, str):
        raise ConfigError(f"{path}: expected a template as a string, or under chat_template")
    return template


def _looks_local(model_path: str) -> bool:
    return model_path.startswith((".", "/", "~")) or model_path.count("/") > 1 or not model_path


def _download(hub_id: str, hub: str | None) -> Path:
    # Imported here: a start from a folder should not pay for the hub's client.
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError  # noqa: PLC0415

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(WANTED), endpoint=hub))
    # LocalEntryNotFoundError (offline, nothing cached) is an OSError, network errors are too.
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"--model-path: {hub_id!r} is no folder here, and as a Hugging Face id it could not"
            f" be downloaded: {reason}"
        ) from error


def _find_templates(folder: Path, tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    """Templates by name; one in its own file wins over one inside tokenizer_config.json."""
    templates = dict(_named(tokenizer_config.get("chat_template")))
    for path in sorted(folder.glob("additional_chat_templates/*.jinja")):
        templates[path.stem] = _read_text(path)
    own_files = [
        folder / "chat_template.jinja",
        folder / "chat_template.json",
        *sorted(folder.glob("*.jinja")),
    ]
    if found := next((path for path in own_files if path.is_file()), None):
        templates["default"] = read_template(found)
    return templates


def _named(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield "default", value
    elif isinstance(value, list):
        yield from ((str(entry["name"]), str(entry["template"])) for entry in value)


def _ids(config: Mapping[str, Any]) -> Iterator[int]:
    text_config = config.get("text_config")
    if isinstance(text_config, Mapping):  # Multimodal models keep it one level down.
        yield from _ids(text_config)
    value = config.get("eos_token_id")
    if isinstance(value, int):
        yield value
    elif isinstance(value, list):
        yield from (entry for entry in value if isinstance(entry, int))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = _parse_json(path, _read_text(path))
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a JSON object")
    return content


def _parse_json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error})") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
