"""Which workers serve the same model, and which flags are about which model. Decides only."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, Final

from smg.discovery.candidates import Known
from smg.errors import ConfigError
from smg.settings import Settings, flag_of

ONE_MODEL: Final = (
    *("model_path", "served_model_name", "chat_template"),
    *("reasoning_parser", "tool_call_parser"),
)
"""Settings that are about one model: the one that --model-path names, or the only one."""


@dataclass(frozen=True, slots=True)
class Group:
    """The workers of one model."""

    model: str
    speaks_http: bool
    members: tuple[Known, ...]


def grouped(found: Sequence[Known]) -> list[Group]:
    """The groups of these workers, in the order in which their first ones came.

    Raises:
        ConfigError: a model is served over gRPC and over HTTP; its answers would differ.
    """
    groups: dict[str, list[Known]] = {}
    for known in found:
        groups.setdefault(known.info.model, []).append(known)
    for model, members in groups.items():
        if len({member.speaks_http for member in members}) > 1:
            raise ConfigError(
                f"--worker-urls: {model} is served both over gRPC and over HTTP; use one of them"
            )
    return [
        Group(model, members[0].speaks_http, tuple(members)) for model, members in groups.items()
    ]


def main_group(settings: Settings, groups: Sequence[Group]) -> Group | None:
    """The group that the flags about one model are about; `None`: it cannot be told."""
    if len(groups) == 1:
        return groups[0]
    if settings.model_path is not None:
        named = [group for group in groups if _is_named(group, settings.model_path)]
        if len(named) == 1:
            return named[0]
    # Only models on tokens have a folder and parsers here.
    own = [group for group in groups if not group.speaks_http]
    return own[0] if len(own) == 1 else None


def _is_named(group: Group, model_path: str) -> bool:
    names = {group.model, group.members[0].info.model_path, group.members[0].info.tokenizer_path}
    return model_path in names or PurePath(model_path).name in {PurePath(n).name for n in names}


def settings_of(settings: Settings, group: Group, main: Group | None) -> Settings:
    """The settings as they are for one group."""
    if main is not None and group.model == main.model:  # It may come back with other workers.
        return settings
    unsaid: dict[str, Any] = dict.fromkeys(ONE_MODEL)
    return replace(settings, **unsaid)


def check_told(settings: Settings, groups: Sequence[Group]) -> None:
    """Refuse flags about one model when it cannot be told about which.

    Raises:
        ConfigError: they are about none, or about any of several.
    """
    if main_group(settings, groups) is not None:
        return
    for name in ONE_MODEL:
        if getattr(settings, name) is not None:
            models = ", ".join(group.model for group in groups)
            raise ConfigError(
                f"{flag_of(name)}: the workers serve several models ({models}); say by "
                "--model-path which of them is meant"
            )


def read_aliases(given: Sequence[str]) -> dict[str, str]:
    """Names of models by their aliases.

    Raises:
        ConfigError: one is not of the form ALIAS=NAME, or given twice.
    """
    aliases: dict[str, str] = {}
    for entry in given:
        alias, _, name = entry.partition("=")
        if not alias or not name or alias in aliases:
            raise ConfigError(f"--model-alias: expected ALIAS=NAME, each alias once: {entry!r}")
        aliases[alias] = name
    return aliases
