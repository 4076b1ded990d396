"""What a chat template wants its messages to look like, found out by asking it.

Templates differ silently: one quotes arguments twice when they come as a string, another loses a
call that has text beside it, a third knows no system message. `probe` renders small conversations
in several ways and sees which come out right; model names play no part. A template comes in,
`Habits` go out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from smg.errors import InvalidRequest
from smg.tokens.template import ChatMessage, ChatTemplate

Arguments = Literal["string", "object"]
Empty = Literal["empty", "null", "absent"]
Beside = Literal["together", "apart", "lost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How one template wants a conversation. The defaults are what most take."""

    content_parts: bool = False
    """Content is a list of parts; else a string."""
    system: bool = True
    """A leading system message is shown."""
    many_systems: bool = True
    """Several leading system messages are shown."""
    late_system: bool = True
    """A system message after a user's is shown."""
    developer: bool = False
    """The role developer is known."""
    alternates: bool = False
    """User and assistant must take turns."""
    answers_results: bool = False
    """After a tool's result the assistant must speak before the user does."""
    renders_tools: bool = True
    """Tool definitions reach the prompt."""
    renders_calls: bool = True
    """Calls and results of earlier steps reach the prompt."""
    arguments: Arguments = "string"
    empty_content: Empty = "empty"
    """The content of an assistant message that holds only calls."""
    text_beside_calls: Beside = "together"
    """Text before a call: in its message, in a message before it, or not to be had at all."""
    parallel_calls: bool = True
    """An assistant message may hold several calls."""
    reasoning_field: str | None = None
    """Under which key a message's reasoning is read."""
    thinking_switch: str | None = None
    """The keyword that turns thinking on and off."""
    thinks_by_default: bool = False
    """Whether it is on when the keyword is not given."""
    reads_effort: bool = False
    """Whether `reasoning_effort` changes the prompt."""


# Words that no template holds. Two letters apart, so that no one of them is within another.
KEY, OTHER_KEY, VALUE, OTHER_VALUE = "probekeyq", "probekeyz", "probevalueq", "probevaluez"
NAME, OTHER_NAME = "probetoolq", "probetoolz"
RESULT, OTHER_RESULT = "proberesultq", "proberesultz"
TEXT, OTHER_TEXT, THOUGHT, RULE = "probetextq", "probetextz", "probethoughtq", "proberuleq"

SWITCHES = ("enable_thinking", "thinking")
REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")

EMPTY: Mapping[Empty, Mapping[str, Any]] = {
    "empty": {"content": ""},
    "null": {"content": None},
    "absent": {},
}


def probe(template: ChatTemplate) -> Habits:
    """Find out a template's habits."""
    asks = _Asks(template)
    calls = asks.call_form()
    renders_calls = calls is not None
    arguments, empty = calls or ("string", "empty")
    form = asks.with_calls(arguments, empty)
    reasoning = form.reasoning_field() if renders_calls else asks.said_reasoning_field()
    switch = asks.thinking_switch()
    return Habits(
        content_parts=asks.parts,
        system=asks.shows(asks.said("system", RULE), asks.said("user")),
        many_systems=asks.many_systems(),
        late_system=asks.late_system(),
        developer=asks.developer(),
        alternates=not asks.shows(asks.said("user"), asks.said("user", OTHER_TEXT)),
        answers_results=renders_calls and form.answers_results(),
        renders_tools=asks.renders_tools(),
        renders_calls=renders_calls,
        arguments=arguments,
        empty_content=empty,
        text_beside_calls=form.text_beside_calls(reasoning) if renders_calls else "apart",
        parallel_calls=renders_calls and form.parallel_calls(),
        reasoning_field=reasoning,
        thinking_switch=switch,
        thinks_by_default=asks.thinks_by_default(switch),
        reads_effort=asks.differs("reasoning_effort", "low", "high"),
    )


class _Asks:
    """Questions to a template that need no calls."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self.parts = False
        # A string wherever a string works: every template that takes parts and not strings
        # refuses the string or prints it wrongly.
        self.parts = not self.shows(self.said("user")) and self.shows(
            {"role": "user", "content": [{"type": "text", "text": TEXT}]}
        )

    def said(self, role: str, text: str = TEXT) -> ChatMessage:
        content = [{"type": "text", "text": text}] if self.parts else text
        return {"role": role, "content": content}

    def render(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[Mapping[str, Any]] | None = None,
        **kwargs: object,
    ) -> str | None:
        """What comes out; `None`: the template refuses."""
        try:
            return self._template.render(messages, tools, kwargs=kwargs, seconds=2.0)
        except InvalidRequest:
            return None

    def shows(self, *messages: ChatMessage) -> bool:
        """Whether the text of all these messages comes out, and comes out as text."""
        rendered = self.render(messages)
        if rendered is None:
            return False
        texts = [text for message in messages for text in _texts(message["content"])]
        return all(text in rendered for text in texts) and "'text':" not in rendered

    def many_systems(self) -> bool:
        user = self.said("user", OTHER_TEXT)
        return self.shows(self.said("system", RULE), self.said("system"), user)

    def late_system(self) -> bool:
        talk = [
            self.said("user"),
            self.said("assistant", OTHER_TEXT),
            self.said("system", RULE),
            self.said("user", RESULT),
        ]
        # With one in front: some templates print only the last of all system messages.
        first = self.said("system", OTHER_RESULT)
        return self.shows(*talk) and (self.shows(first, *talk) or not self.shows(first, talk[0]))

    def developer(self) -> bool:
        # Many templates print any role's name, but their models have never seen this one.
        named = any("developer" in literal for literal in self._template.literals)
        return named and self.shows(self.said("developer", RULE), self.said("user"))

    def renders_tools(self) -> bool:
        rendered = self.render([self.said("user")], [_tool(NAME)]) or ""
        return NAME in rendered and KEY in rendered

    def said_reasoning_field(self) -> str | None:
        """The key for reasoning beside an answer, for templates without calls."""
        for key in REASONING_FIELDS:
            said = {**self.said("assistant", OTHER_TEXT), key: THOUGHT}
            if THOUGHT in (self.render([self.said("user"), said]) or ""):
                return key
        return None

    def differs(self, keyword: str, one: object, other: object) -> bool:
        user = [self.said("user")]
        return self.render(user, None, **{keyword: one}) != self.render(
            user, None, **{keyword: other}
        )

    def thinking_switch(self) -> str | None:
        return next((name for name in SWITCHES if self.differs(name, True, False)), None)

    def thinks_by_default(self, switch: str | None) -> bool:
        user = [self.said("user")]
        return switch is not None and self.render(user) == self.render(user, None, **{switch: True})

    def call_form(self) -> tuple[Arguments, Empty] | None:
        """How calls come out right; `None`: the template shows none.

        A string is what the model wrote, to the letter, so the prompt of the next step begins with
        what the engine has already seen. But some templates only copy a string, and write an
        object in their own notation: where the two differ, the object is meant.
        """
        as_string, as_object = self._empty_form("string"), self._empty_form("object")
        if as_string and as_object:
            written = self.with_calls("string", as_string).one_call()
            meant = self.with_calls("object", as_object).one_call()
            if written.replace(" ", "") != meant.replace(" ", ""):
                return "object", as_object
        if as_string:
            return "string", as_string
        return ("object", as_object) if as_object else None

    def _empty_form(self, arguments: Arguments) -> Empty | None:
        return next((form for form in EMPTY if self.with_calls(arguments, form).works()), None)

    def with_calls(self, arguments: Arguments, empty: Empty) -> "_CallAsks":
        return _CallAsks(self, arguments, empty)


class _CallAsks:
    """Questions about calls, in one form of arguments and of empty content."""

    def __init__(self, asks: _Asks, arguments: Arguments, empty: Empty) -> None:
        self._asks = asks
        self._arguments = arguments
        self._empty = EMPTY[empty]
        self._user = asks.said("user", OTHER_TEXT)
        self._tools = [_tool(NAME), _tool(OTHER_NAME)]

    def works(self) -> bool:
        """Whether one call and its result come out right."""
        rendered = self.one_call()
        return _is_right(rendered, NAME, KEY, VALUE, RESULT) and "None" not in rendered

    def one_call(self) -> str:
        return self._rendered([self._call()], _result(NAME, RESULT, 0))

    def parallel_calls(self) -> bool:
        calls = [self._call(), self._call(1)]
        results = [_result(NAME, RESULT, 0), _result(OTHER_NAME, OTHER_RESULT, 1)]
        rendered = self._rendered(calls, *results)
        wanted = (NAME, KEY, VALUE, RESULT, OTHER_NAME, OTHER_KEY, OTHER_VALUE, OTHER_RESULT)
        return _is_right(rendered, *wanted)

    def text_beside_calls(self, reasoning_field: str | None) -> Beside:
        wanted = (TEXT, NAME, KEY, VALUE, RESULT)
        beside = self._asks.said("assistant")
        if reasoning_field:
            beside[reasoning_field] = THOUGHT
        call, result = [self._call()], _result(NAME, RESULT, 0)
        if _is_right(self._rendered(call, result, beside=beside), *wanted):
            return "together"
        # The turn is finished in this one: some templates count who has spoken.
        end = self._asks.said("assistant", OTHER_RESULT), self._asks.said("user", RULE)
        before = self._asks.said("assistant")
        apart = self._rendered(call, result, *end, before=[before])
        return "apart" if _is_right(apart, *wanted, OTHER_RESULT) else "lost"

    def reasoning_field(self) -> str | None:
        """The key whose text is shown beside a call of the current turn."""
        for key in REASONING_FIELDS:
            beside = {**self._empty, key: THOUGHT}
            rendered = self._rendered([self._call()], _result(NAME, RESULT, 0), beside=beside)
            if _is_right(rendered, THOUGHT, NAME, KEY, VALUE, RESULT):
                return key
        return None

    def answers_results(self) -> bool:
        call, result = [self._call()], _result(NAME, RESULT, 0)
        direct = self._rendered(call, result, self._asks.said("user", TEXT))
        if _is_right(direct, NAME, RESULT, TEXT):
            return False
        answer = self._asks.said("assistant", "")
        answered = self._rendered(call, result, answer, self._asks.said("user", TEXT))
        return _is_right(answered, NAME, RESULT, TEXT)

    def _rendered(
        self,
        calls: Sequence[Mapping[str, Any]],
        *after: ChatMessage,
        beside: Mapping[str, Any] | None = None,
        before: Sequence[ChatMessage] = (),
    ) -> str:
        said = self._empty if beside is None else beside
        calling = {**said, "role": "assistant", "tool_calls": list(calls)}
        return self._asks.render([self._user, *before, calling, *after], self._tools) or ""

    def _call(self, number: int = 0) -> Mapping[str, Any]:
        name, key, value = (
            (NAME, KEY, VALUE) if number == 0 else (OTHER_NAME, OTHER_KEY, OTHER_VALUE)
        )
        as_object = {key: value}
        as_string = f'{{"{key}": "{value}"}}'
        function = {
            "name": name,
            "arguments": as_string if self._arguments == "string" else as_object,
        }
        return {"id": _call_id(number), "type": "function", "function": function}


def _is_right(rendered: str, *wanted: str) -> bool:
    """Whether all is there, and the arguments are no Python `repr` and not quoted twice."""
    wrong = [f"{quote}{key}" for key in (KEY, OTHER_KEY) for quote in ("'", '\\"')]
    return all(word in rendered for word in wanted) and not any(form in rendered for form in wrong)


def _tool(name: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {KEY: {"type": "string", "description": "A word"}}}
    schema["required"] = [KEY]
    function = {"name": name, "description": "A tool", "parameters": schema}
    return {"type": "function", "function": function}


def _result(name: str, text: str, number: int) -> ChatMessage:
    return {"role": "tool", "name": name, "tool_call_id": _call_id(number), "content": text}


def _call_id(number: int) -> str:
    # Nine letters and digits: Mistral's templates take nothing else.
    return f"probeid0{number}"


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    else:
        yield from (part["text"] for part in content)
