"""A model's chat template: messages and tools in, the prompt's text out.

Templates are code that came with a model. They run in Jinja's immutable sandbox with what
transformers gives them and nothing more, with caps on what they may build and how long they may
take. Knows no item and no token; what a template needs is found out in smg.tokens.habits.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from smg.errors import ConfigError, InvalidRequest

LONGEST_PROMPT = 32 * 1024 * 1024
"""Characters. The largest bodies this gateway takes are smaller."""
LONGEST_REPEAT = 1024 * 1024
"""Characters or elements of one repetition or padding; templates repeat a space a few times."""
MOST_STEPS = 1_000_000
"""Elements of all ranges of one rendering, so that nested loops end soon."""

WIDE_FIELD = re.compile(r"%[-+ #0]*(?:\d*\.)?(?:\d{5}|\*)|\{[^{}]*:[^{}]*(?:\d{5}|\{)")

ChatMessage = dict[str, Any]
"""A message of the chat format: role, content, tool_calls, tool_call_id, ..."""

# What the sandbox lets through of a template's mistakes, beside Jinja's own errors.
FAULTS = (
    TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)

# The renderer's own variables: a client's keyword must not replace them.
RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt", "chat_template"})


class _Budget:
    """What is left to one rendering."""

    def __init__(self, seconds: float | None) -> None:
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._steps = MOST_STEPS

    def spend(self, steps: int = 0) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise SecurityError(f"the template loops over more than {MOST_STEPS} elements")
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise SecurityError("the template takes too long")


_budget: ContextVar[_Budget] = ContextVar("smg_template_budget")


class ChatTemplate:
    """A compiled template. Rendering changes nothing in it: threads may share it."""

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str] | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        """`special_tokens` are the variables bos_token, eos_token, ... that templates write.

        `now` is the day that some templates print.

        Raises:
            ConfigError: it is not a template.
        """
        self.source = source
        self._special_tokens = dict(special_tokens or {})
        environment = _environment(now)
        try:
            tree = environment.parse(source)
            self._template = environment.from_string(tree)
        except TemplateError as error:
            raise ConfigError(f"The chat template cannot be compiled: {error}") from error
        self.variables = frozenset(jinja2.meta.find_undeclared_variables(tree))
        """Names the template reads that it does not set itself."""
        self.literals = tuple(_literals(tree))
        """The template's own pieces of text."""

    def render(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        seconds: float | None = None,
    ) -> str:
        """The prompt's text.

        Raises:
            InvalidRequest: the template refuses these messages, or asks for too much.
        """
        reserved = RESERVED | self._special_tokens.keys()
        if taken := sorted(reserved.intersection(kwargs or {})):
            raise InvalidRequest(f"chat_template_kwargs must not set {', '.join(taken)}")
        variables = {
            **self._special_tokens,
            **(kwargs or {}),
            "messages": list(messages),
            "tools": list(tools) if tools else None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        token = _budget.set(_Budget(seconds))
        try:
            return "".join(_capped(self._template.generate(variables)))
        except FAULTS as error:
            raise InvalidRequest(
                f"The model's chat template does not take this conversation: {error}"
            ) from error
        finally:
            _budget.reset(token)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with repetition capped and every call on the clock."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        _budget.get().spend()
        sizes = [value for value in (left, right) if isinstance(value, int)]
        if operator == "*" and len(sizes) == 1:
            times = len(left if isinstance(right, int) else right) * max(sizes[0], 0)
            _check_size(times)
        if operator == "**" and any(abs(size) > 64 for size in sizes):
            raise SecurityError("the template computes too large a power")
        if operator == "%" and isinstance(left, str):
            _check_form(left)
        return super().call_binop(context, operator, left, right)

    def call(
        __self,  # noqa: N805 - the callee's own keyword arguments may be named self
        __context: jinja2.runtime.Context,
        __obj: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        _budget.get().spend()
        match getattr(__obj, "__name__", ""):
            case "ljust" | "rjust" | "center" | "zfill":
                _check_size(*(arg for arg in args if isinstance(arg, int)))
            case "format" | "format_map":
                # The sandbox wraps the string's own method.
                _check_form(getattr(getattr(__obj, "__wrapped__", None), "__self__", ""))
        return super().call(__context, __obj, *args, **kwargs)


class _GenerationBlock(jinja2.ext.Extension):
    """`{% generation %}`: marks the model's own text for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own attribute

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A call block and not the body alone: what is set inside stays inside.
        return nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    def _said(self, caller: Macro) -> str:
        return str(caller())


class _Namespace(jinja2.utils.Namespace):
    """A template's variables that survive loops; none of them underscored."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        # As in Jinja: a variable may be named self.
        for name in dict(*args[1:], **kwargs):
            _check_name(name)
        jinja2.utils.Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _environment(now: Callable[[], datetime]) -> _Environment:
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationBlock, jinja2.ext.loopcontrols],
    )
    environment.globals = {
        "range": _range,
        "dict": _dict,
        "namespace": _Namespace,
        "joiner": jinja2.utils.Joiner,
        "raise_exception": _raise_exception,
        "strftime_now": lambda form: now().strftime(form),
    }
    environment.filters["tojson"] = _tojson
    for padding in ("center", "indent"):
        environment.filters[padding] = _sized(environment.filters[padding])
    environment.filters["format"] = _formatted
    return environment


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    """Not the type itself, whose attributes are no template's business."""
    return dict(*args, **kwargs)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as models were trained on: letters as they are, nothing escaped for HTML."""
    if isinstance(indent, int):
        _check_size(indent)
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _range(*args: int) -> range:
    numbers = range(*args)
    _budget.get().spend(len(numbers))
    return numbers


def _sized(fill: Callable[..., Any]) -> Callable[..., Any]:
    def filled(value: Any, *args: Any, **kwargs: Any) -> Any:
        _check_size(*(n for n in (*args, *kwargs.values()) if isinstance(n, int)))
        return fill(value, *args, **kwargs)

    return filled


def _formatted(form: str, *args: Any, **kwargs: Any) -> str:
    _check_form(form)
    return str(form) % (kwargs or args)


def _check_form(form: Any) -> None:
    """Refuse wide fields: `%999999999d` is a gigabyte of spaces."""
    if WIDE_FIELD.search(str(form)):
        raise SecurityError(f"the template formats with {form!r}")


def _check_size(*sizes: int) -> None:
    if any(size > LONGEST_REPEAT for size in sizes):
        raise SecurityError(f"the template repeats something more than {LONGEST_REPEAT} times")


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"the template sets {name!r} on a namespace")


def _capped(pieces: Iterator[str]) -> Iterator[str]:
    length = 0
    for piece in pieces:
        _budget.get().spend()
        length += len(piece)
        if length > LONGEST_PROMPT:
            raise SecurityError(f"the prompt is longer than {LONGEST_PROMPT} characters")
        yield piece


def _literals(tree: nodes.Template) -> Iterator[str]:
    for piece in tree.find_all(nodes.TemplateData):
        yield piece.data
    for constant in tree.find_all(nodes.Const):
        if isinstance(constant.value, str):
            yield constant.value
