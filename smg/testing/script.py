r"""Rules: a readable file that says what the scripted engine answers to what.

    rules:
      - name: greeting                          optional: for messages about mistakes
        when: '^(hello|hi)\b'                   searched in the user's last message; absent: always
        after_tool: true                        only after tool results (a number: that many rounds)
        think: A greeting.                      thoughts before the answer
        say: Hello!                             the answer; \1 is a group of `when`
        call: 'multiply {"a": \1, "b": \2}'     one call or a list; only if such tools are offered
        slow: 2                                 spread the tokens over so many seconds
        fail: during                            or `before`: the first token

The first rule that fits answers. A file in, a `Reply` out; knows nothing of tokens or gRPC.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Self

import yaml

from smg.errors import ConfigError
from smg.testing.chatml import Conversation
from smg.testing.instances import minimal_instance
from smg.testing.reply import Call, Failure, Reply, compact, shown_result

NO_RULE = "This is the scripted engine, not a model, and no rule of its script fits your message."


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTemplate:
    """A call as a rule writes it; without arguments it gets the smallest that fit."""

    name: str
    arguments: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One entry of the file."""

    when: re.Pattern[str] = re.compile("")
    after_tool: bool | int = False
    think: str | None = None
    say: str | None = None
    calls: tuple[CallTemplate, ...] = ()
    slow: float = 0.0
    fail: Failure | None = None

    def match(self, conversation: Conversation) -> re.Match[str] | None:
        """The match of `when`, if everything else fits too."""
        if not self._is_time(conversation):
            return None
        if not all(conversation.find_tool(call.name) for call in self.calls):
            return None
        return self.when.search(conversation.question)

    def _is_time(self, conversation: Conversation) -> bool:
        if isinstance(self.after_tool, bool):
            return self.after_tool == bool(conversation.results)
        return bool(conversation.results) and conversation.rounds == self.after_tool

    def reply(self, match: re.Match[str], conversation: Conversation) -> Reply:
        """The rule's answer with its groups and results filled in."""
        return Reply(
            say=None if self.say is None else _fill(self.say, match, conversation),
            think=None if self.think is None else _fill(self.think, match, conversation),
            calls=tuple(_call(template, match, conversation) for template in self.calls),
            slow=self.slow,
            failure=self.fail,
        )


@dataclass(frozen=True, slots=True)
class Script:
    """A file of rules, in order."""

    rules: tuple[Rule, ...] = ()

    @classmethod
    def default(cls) -> Self:
        """The rules that come with the package."""
        text = resources.files("smg.testing").joinpath("rules.yaml").read_text("utf-8")
        return cls.parse(text, "rules.yaml")

    @classmethod
    def load(cls, path: Path) -> Self:
        """The rules of a file.

        Raises:
            ConfigError: it cannot be read, or a rule is wrong; the message names the rule.
        """
        try:
            return cls.parse(path.read_text("utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from error

    @classmethod
    def parse(cls, text: str, source: str = "rules") -> Self:
        """The rules of a text; `source` is its name in messages.

        Raises:
            ConfigError: a rule is wrong; the message names it.
        """
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{source}: is no YAML: {error}") from error
        rules = content.get("rules") if isinstance(content, dict) else None
        if not isinstance(rules, list) or set(content) != {"rules"}:
            raise ConfigError(f"{source}: must hold `rules:` with a list, and nothing else")
        return cls(tuple(_rule(entry, number, source) for number, entry in enumerate(rules, 1)))

    def reply(self, conversation: Conversation) -> Reply:
        """What the first rule that fits says; there is always an answer."""
        for rule in self.rules:
            if match := rule.match(conversation):
                return rule.reply(match, conversation)
        if not conversation.results:
            return Reply(say=NO_RULE)
        return Reply(say=f"The result is: {_result('s', conversation.results, shown_result)}")


FIELD = re.compile(r"\\(?P<number>\d)|\\g<(?P<name>\w+)>|<result(?P<result>s|\d+)>")


def _fill(
    template: str,
    match: re.Match[str],
    conversation: Conversation,
    group: Callable[[str], str] = str,
    result: Callable[[str], str] = shown_result,
) -> str:
    """A template with its fields filled in: once, so that what is filled in stays as it is."""

    def field(found: re.Match[str]) -> str:
        if found["result"]:
            return _result(found["result"], conversation.results, result)
        key = int(found["number"]) if found["number"] else found["name"]
        return group(match[key] or "")

    return FIELD.sub(field, template)


def _result(which: str, results: Sequence[str], show: Callable[[str], str]) -> str:
    if which == "s":
        return (
            show(results[0]) if len(results) == 1 else show(" | ".join(map(shown_result, results)))
        )
    number = int(which)
    return show(results[number - 1] if 0 < number <= len(results) else f"(no result {number})")


def _call(template: CallTemplate, match: re.Match[str], conversation: Conversation) -> Call:
    tool = conversation.find_tool(template.name)
    if tool is None:  # `match` has looked; a rule is not asked to reply before.
        raise LookupError(template.name)
    if template.arguments is None:
        return Call(tool.name, compact(minimal_instance(tool.parameters or {"type": "object"})))
    arguments = _fill(
        template.arguments, match, conversation, group=_inside_json_string, result=_as_json
    )
    return Call(tool.name, arguments)


def _inside_json_string(text: str) -> str:
    return compact(text)[1:-1]


def _as_json(result: str) -> str:
    """A result as a JSON value: as it is if it is one, else a string."""
    shown = shown_result(result)
    try:
        json.loads(shown)
    except ValueError:
        return compact(shown)
    return shown


class _RuleWrong(ValueError):
    """Raised when a key's value is wrong; the reader of the rule adds where it stands."""


def _rule(entry: Any, number: int, source: str) -> Rule:
    if not isinstance(entry, dict):
        raise ConfigError(f"{source}: rule {number} must be a mapping, not {entry!r}")
    name = entry.get("name")
    where = f"{source}: rule {number}" + (f" ({name})" if name else "")
    unknown = [str(key) for key in entry if key not in READERS]
    if unknown:
        known = ", ".join(READERS)
        raise ConfigError(f"{where}: unknown {', '.join(unknown)}; a rule has {known}")
    try:
        values = {READERS[key][0]: READERS[key][1](entry[key]) for key in entry}
        values.pop("name", None)
        rule = Rule(**values)
        _check(rule)
    except _RuleWrong as error:
        raise ConfigError(f"{where}: {error}") from error
    return rule


def _check(rule: Rule) -> None:
    if rule.say is None and not rule.calls and rule.fail is None:
        raise _RuleWrong("says nothing: it needs say, call or fail")
    arguments = [call.arguments for call in rule.calls if call.arguments is not None]
    for template in [rule.say or "", rule.think or "", *arguments]:
        for found in FIELD.finditer(template):
            if not _has_group(rule.when, found):
                raise _RuleWrong(f"`when` has no group for {found[0]}")


def _has_group(when: re.Pattern[str], found: re.Match[str]) -> bool:
    if found["result"]:
        return True
    return (
        int(found["number"]) <= when.groups if found["number"] else found["name"] in when.groupindex
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _RuleWrong(f"{value!r} must be text (in quotes)")
    return value


def _pattern(value: Any) -> re.Pattern[str]:
    try:
        return re.compile(_text(value), re.IGNORECASE | re.DOTALL)
    except re.error as error:
        raise _RuleWrong(f"`when` is no regular expression: {error}") from error


def _after_tool(value: Any) -> bool | int:
    if isinstance(value, bool) or (isinstance(value, int) and value > 0):
        return value
    raise _RuleWrong(f"`after_tool` must be true, false or a number of rounds, not {value!r}")


CALL = re.compile(r"\s*([\w.\-]+|\*)\s*(\{.*\})?\s*", re.DOTALL)


def _calls(value: Any) -> tuple[CallTemplate, ...]:
    templates = []
    for text in value if isinstance(value, list) else [value]:
        found = CALL.fullmatch(_text(text))
        if found is None:
            raise _RuleWrong(f"`call` must read NAME {{JSON}}, not {text!r}")
        templates.append(CallTemplate(name=found[1], arguments=found[2]))
    return tuple(templates)


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 86400:
        raise _RuleWrong(f"`slow` must be a number of seconds, not {value!r}")
    return float(value)


def _failure(value: Any) -> Failure:
    try:
        return Failure(value)
    except ValueError as error:
        raise _RuleWrong(f"`fail` must be before or during, not {value!r}") from error


READERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "name": ("name", _text),
    "when": ("when", _pattern),
    "after_tool": ("after_tool", _after_tool),
    "think": ("think", _text),
    "say": ("say", _text),
    "call": ("calls", _calls),
    "slow": ("slow", _seconds),
    "fail": ("fail", _failure),
}
