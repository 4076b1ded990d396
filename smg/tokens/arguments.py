"""The arguments of calls as prompts hold them: JSON text, and the object it stands for.

A custom tool takes free text; a model sees it as a function of one string. Standard library only.
"""

import json
from collections.abc import Mapping
from typing import Any

CUSTOM_PARAMETER = "input"
"""The one parameter of a custom tool."""


def custom_arguments(text: str) -> str:
    """A custom tool's input as the arguments of a function."""
    return json.dumps({CUSTOM_PARAMETER: text}, ensure_ascii=False)


def as_object(arguments: str) -> Mapping[str, Any]:
    """The arguments as an object; text that is none becomes the value of `arguments`.

    A model may have written anything, and what it wrote stays in the conversation.
    """
    try:
        value = json.loads(arguments)
    except ValueError:
        value = arguments
    return value if isinstance(value, dict) else {"arguments": value}
