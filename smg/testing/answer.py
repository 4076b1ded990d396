"""The decision: one prompt and its constraint to the text of one answer.

Directives go before rules, and a constraint before both, except that a directive may break an
answer's schema on purpose. Knows nothing of gRPC.
"""

from dataclasses import dataclass, replace

from smg.testing.chatml import Conversation
from smg.testing.constraints import ConstraintInvalid, Demand, MustAnswer, MustCall, MustSay
from smg.testing.directives import Directives, read_directives
from smg.testing.reply import Call, Failure, Reply, compact, write_answer, write_thoughts
from smg.testing.script import Script


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The text of one generation and what shall happen to it."""

    text: str
    slow: float = 0.0
    failure: Failure | None = None


def decide(
    conversation: Conversation, demand: Demand | None, script: Script, max_words: int
) -> Answer:
    """The answer to a prompt.

    Raises:
        DirectiveInvalid: a directive's number is none.
        ConstraintInvalid: only a model could follow the constraint.
    """
    directives = read_directives(conversation.question, max_words)
    reply = _reply(directives, conversation, script)
    if demand is not None:  # It holds from the first token on: no thoughts but ordered ones.
        reply = replace(reply, think=directives.think)
    if isinstance(demand, MustCall):
        # Tool results trigger no new call, unless the constraint leaves no other way.
        reply = replace(reply, calls=reply.calls or _ordered_calls(directives, conversation))
    return Answer(
        text=write_thoughts(reply.think, conversation.thinking)
        + _obey(demand, reply, directives, conversation),
        slow=reply.slow,
        failure=reply.failure,
    )


def _reply(directives: Directives, conversation: Conversation, script: Script) -> Reply:
    """What directives order; what they leave open, the rules say."""
    results = conversation.results
    calls = () if results else _ordered_calls(directives, conversation)
    say = _ordered_text(directives, conversation)
    if not calls and say is None:
        if directives and results:
            say = "tool result: " + " | ".join(results)
        else:
            reply = script.reply(conversation)
            calls, say = reply.calls, reply.say
            if not directives:
                return reply
    elif calls:
        say = None  # It is for after the call.
    return Reply(
        say=say,
        think=directives.think,
        calls=calls,
        slow=directives.slow or 0.0,
        failure=None if results else _ordered_failure(directives),
    )


def _ordered_calls(directives: Directives, conversation: Conversation) -> tuple[Call, ...]:
    calls = []
    for name, arguments in directives.calls:
        tool = conversation.find_tool(name)
        calls.append(Call(tool.name if tool else name, arguments))
    return tuple(calls)


def _ordered_text(directives: Directives, conversation: Conversation) -> str | None:
    if directives.echo:
        return compact([[message.role, message.text] for message in conversation.messages])
    return directives.say


def _ordered_failure(directives: Directives) -> Failure | None:
    if directives.http500:
        return Failure.BEFORE
    return Failure.DURING if directives.fail else None


def _obey(
    demand: Demand | None, reply: Reply, directives: Directives, conversation: Conversation
) -> str:
    """The answer in the form that is demanded."""
    ordered = bool(directives.say is not None or directives.echo or directives.calls)
    match demand:
        case MustCall():
            return demand.write(reply.calls)
        case MustAnswer():
            called = _called_instead(demand, reply, conversation)
            return called or (write_answer(reply) if ordered else demand.minimal())
        case MustSay(choices, kind):
            if ordered:
                return write_answer(reply)
            if not choices:
                raise ConstraintInvalid(
                    f"The scripted engine cannot make up text for a {kind}: use [[say:TEXT]]"
                )
            return choices[0]
    return write_answer(reply)


def _called_instead(demand: MustAnswer, reply: Reply, conversation: Conversation) -> str | None:
    """The reply's calls, where they fit too; or the arguments alone, if the schema is a tool's."""
    if demand.calls and reply.calls:
        return demand.calls.write(reply.calls)
    for call in reply.calls:
        tool = conversation.find_tool(call.name)
        if tool is not None and tool.parameters == demand.schema:
            return call.arguments
    return None
