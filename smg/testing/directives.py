"""Directives: orders in double brackets that a test writes into the user's message.

    [[say:TEXT]]          answer with TEXT
    [[think:TEXT]]        think TEXT before the answer
    [[call:NAME {JSON}]]  call the tool NAME, or the first whose name ends with NAME; repeatable
    [[refuse:TEXT]]       answer with TEXT: an engine has tokens, and no way to mark a refusal
    [[long:N]]            answer with N numbered words: w0 w1 w2 ...
    [[slow:SECONDS]]      spread the tokens over SECONDS
    [[fail]]              break the stream after its first tokens
    [[http500]]           fail before the first token
    [[echo]]              answer with a JSON array of [role, text] for every message received

Text in, values out; what they lead to is decided in `answer.py`.
"""

import re
from dataclasses import dataclass

_ORDER = re.compile(r"\[\[(say|think|refuse|long|slow|fail|http500|echo)(?::(.*?))?\]\]", re.DOTALL)
_CALL = re.compile(r"\[\[call:([\w.\-]+)\s*(\{.*?\})?\s*\]\]", re.DOTALL)

DEFAULT_WORDS = 50
DEFAULT_SECONDS = 2.0


class DirectiveInvalid(ValueError):
    """Raised when a directive's number is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Directives:
    """The orders of one message; `None` and empty: not given."""

    say: str | None = None
    """What to answer: say, refuse and long come down to this."""
    think: str | None = None
    calls: tuple[tuple[str, str], ...] = ()
    """Names and arguments, exactly as written: wrong JSON stays wrong."""
    slow: float | None = None
    fail: bool = False
    http500: bool = False
    echo: bool = False

    def __bool__(self) -> bool:
        """Whether there is any."""
        return self != Directives()


def read_directives(text: str, max_words: int) -> Directives:
    """The directives in a message; of two answers the last counts.

    At most `max_words` numbered words are made: no more can fit the context.

    Raises:
        DirectiveInvalid: a number is not one.
    """
    say = think = None
    slow: float | None = None
    switches: set[str] = set()
    for name, argument in _ORDER.findall(text):
        match name:
            case "say" | "refuse":
                say = argument
            case "long":
                words = min(int(_number(name, argument, DEFAULT_WORDS)), max_words)
                say = " ".join(f"w{i}" for i in range(words))
            case "think":
                think = argument
            case "slow":
                slow = _number(name, argument, DEFAULT_SECONDS)
            case _:
                switches.add(name)
    return Directives(
        say=say,
        think=think,
        calls=tuple((name, raw or "{}") for name, raw in _CALL.findall(text)),
        slow=slow,
        fail="fail" in switches,
        http500="http500" in switches,
        echo="echo" in switches,
    )


def _number(name: str, argument: str, default: float) -> float:
    if not argument:
        return default
    try:
        number = float(argument)
    except ValueError as error:
        raise DirectiveInvalid(f"[[{name}:{argument}]] needs a number") from error
    if not 0 <= number < float("inf"):
        raise DirectiveInvalid(f"[[{name}:{argument}]] needs a number that is not negative")
    return number
