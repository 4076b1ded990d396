"""A tool server's question to one of the gateway's own models, as a turn that nobody stores.

A question comes in (smg.mcp.sampling), the answer goes out: one generation through the same line
as a chat completion, without tools, in which the server's text is guarded like any user's. Knows
neither the protocol nor which calls are under way.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from smg.agent.loop import AgentLoop
from smg.agent.run import Crew, run_turn
from smg.directory import ModelDirectory, Served
from smg.errors import ModelNotFound, our_mistake
from smg.events import Event, TurnFinished
from smg.items import Message, TextPart
from smg.mcp.sampling import Answer, Question
from smg.model import ServedModel
from smg.turn import Limits, NewId, Now, Sampling, ToolResult, Turn

log = logging.getLogger(__name__)

_STOP_REASONS = {None: "endTurn", "max_output_tokens": "maxTokens"}
# A question has few tokens for its answer: a model that can leave its thoughts out does so.
_EFFORT = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """Puts questions to the models of a directory."""

    models: ModelDirectory
    limits: Limits
    new_id: NewId
    now: Now

    async def __call__(self, question: Question) -> Answer:
        """Have a question answered; cancelling this ends the generation.

        Raises:
            RequestError: no model of this name is served, or the question does not fit.
            GatewayError: the model did not answer.
        """
        model = choose(question, self.models)
        end = await self._ended(self._turn(question, model), model)
        if end.error is not None:
            raise end.error
        text, stopped = _cut(_text(end), question.stop)
        return Answer(
            text=text,
            model=model.name,
            stop_reason="stopSequence"
            if stopped
            else _STOP_REASONS.get(end.reason, end.reason or ""),
            input_tokens=end.usage.input_tokens,
            output_tokens=end.usage.output_tokens,
        )

    def _turn(self, question: Question, model: Served) -> Turn:
        # Other people's servers may refuse what OpenAI's API does not have.
        ours = isinstance(model, ServedModel)
        return Turn(
            id=self.new_id("smpl"),
            model=model.name,
            created_at=self.now(),
            instructions=question.system,
            input=tuple(
                Message(id=self.new_id("msg"), role=said.role, parts=(TextPart(said.text),))
                for said in question.messages
            ),
            # A stop string that is kept at the end tells that it was what ended the text.
            sampling=Sampling(
                temperature=question.temperature, stop=question.stop, include_stop=ours
            ),
            limits=replace(self.limits, max_output_tokens=question.max_tokens, max_generations=1),
            template_kwargs=model.thinking_kwargs(_EFFORT) if ours else {},
        )

    async def _ended(self, turn: Turn, model: Served) -> TurnFinished:
        loop = AgentLoop(turn, self.new_id)
        ended: list[TurnFinished] = []

        async def publish(events: Sequence[Event]) -> None:
            ended.extend(event for event in events if isinstance(event, TurnFinished))

        try:
            await run_turn(loop, turn, Crew(model, _NoTools(), publish))
        except Exception:  # The edge of a turn: the server hears of a failure, the log of the bug.
            log.exception("Question %s failed by a mistake of ours", turn.id)
            raise our_mistake() from None
        return ended[-1]


class _NoTools:
    """The turn offers none."""

    async def call(self, server: str, name: str, arguments: str) -> ToolResult:
        raise NotImplementedError


def choose(question: Question, models: ModelDirectory) -> Served:
    """The model to ask: the first hint that names one or is part of a name, else the default.

    Raises:
        ModelNotFound: there is none, or the default one is not here.
    """
    generating = [model for model in models.all() if model.info.is_generation]
    for hint in question.hints:
        for model in generating:
            if hint.lower() in model.name.lower():
                return model
    if question.model is not None:
        return models.find(question.model)
    if not generating:
        raise ModelNotFound("No model that generates text is served here.", param="model")
    return generating[0]


def _text(end: TurnFinished) -> str:
    return "".join(item.text for item in end.items if isinstance(item, Message))


def _cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text without the stop string it ends with, and whether there was one."""
    ends = max((stop for stop in stops if text.endswith(stop)), key=len, default="")
    return text.removesuffix(ends), bool(ends)
