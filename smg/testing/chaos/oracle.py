"""Judging what is left of a turn whose gateways died: values in, complaints out."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smg.testing.chaos.turns import Trial

Json = dict[str, Any]

DONE = b"data: [DONE]\n\n"
UNCERTAIN = "nobody knows whether it ran"
MAX_DEATHS = 3


@dataclass(frozen=True)
class Remains:
    """One stored response of a trial, when all gateways have come to rest."""

    body: Json
    """What GET gives."""
    replay: bytes | None
    """What GET with stream=true gives; `None`: it has no stream."""
    rest: bytes | None
    """The same after the last event that the client had seen; `None`: it had seen none."""


def judge(
    trial: Trial, left: Sequence[Remains], ledger: Mapping[str, int], deaths: int
) -> list[str]:
    """Everything that is wrong with what is left of a trial.

    `deaths` is how many gateways may have died over it.
    """
    complaints = [f"refused: {refusal}" for refusal in trial.refusals]
    complaints += [f"{it} was booked {ledger[it]} times" for it in trial.things if ledger[it] > 1]
    if len(left) > 1:
        complaints.append(f"there are {len(left)} responses of it")
    if not left and (trial.told is not None or event_frames(trial.saw)):
        complaints.append("it was acknowledged, and is unknown now")
    for remains in left:
        complaints += _ending(trial, remains.body, deaths)
        complaints += _calls(trial, remains.body, ledger)
        complaints += _told(trial, remains.body)
        if trial.kind.streamed or trial.kind.background:
            complaints += _stream(trial, remains)
    return complaints


def _ending(trial: Trial, body: Json, deaths: int) -> list[str]:
    if body["status"] == "completed":
        texts = [p["text"] for i in body["output"] for p in i.get("content", ())]
        said = [text for text in texts if text.strip()]
        return [] if said else ["it is completed, and says nothing"]
    if body["status"] != "failed":
        return [f"its status is {body['status']}"]
    allowed = set() if trial.kind.background else {"gateway_restarted"}
    if deaths >= MAX_DEATHS:
        allowed.add("recovery_limit")
    code = body["error"]["code"]
    return [] if code in allowed else [f"it failed: {body['error']}"]


def _calls(trial: Trial, body: Json, ledger: Mapping[str, int]) -> list[str]:
    calls = [item for item in body["output"] if item["type"] == "mcp_call"]
    complaints = []
    for call in calls:
        if _is_cut(call):
            continue  # Half a call, perhaps; nobody claims anything of it.
        what = json.loads(call["arguments"])["what"]
        if call["status"] == "completed" and ledger[what] != 1:
            complaints.append(f"{what} has a result, and was booked {ledger[what]} times")
        if call["status"] == "failed" and UNCERTAIN not in str(call["error"]):
            complaints.append(f"{what} failed: {call['error']}")
        if call["status"] == "in_progress":
            complaints.append(f"{what} is still in progress")
    if body["status"] == "completed" and len(calls) != trial.kind.calls:
        complaints.append(f"it has {len(calls)} calls")
    return complaints


def _told(trial: Trial, body: Json) -> list[str]:
    told = trial.told
    if told is None:
        return []
    if told["id"] != body["id"]:
        return [f"{told['id']} was acknowledged, {body['id']} is stored"]
    if not trial.kind.background and told != body:
        return ["the answer that was given is not what is stored"]
    return []


def _stream(trial: Trial, remains: Remains) -> list[str]:
    if remains.replay is None:
        return []  # It died before anything was shown: there is nothing to fold.
    events = payloads(remains.replay)
    numbers = [event["sequence_number"] for event in events]
    complaints = []
    if numbers != list(range(len(events))):
        complaints.append(f"sequence numbers are {numbers}")
    if not remains.replay.startswith(trial.saw):
        complaints.append("what the client saw is not the beginning of the replay")
    if remains.rest is not None and event_frames(trial.saw) + remains.rest != remains.replay:
        complaints.append("what was seen and what is resumed is not the whole")
    if not events or events[-1]["type"] != f"response.{remains.body['status']}":
        complaints.append("the stream has no end")
    elif events[-1]["response"] != remains.body:
        complaints.append("the last event's response is not what GET gives")
    return complaints + _fold(events, remains.body)


def _fold(events: Sequence[Json], body: Json) -> list[str]:
    """Compare the items that a stream has built with those of the response.

    What was superseded is not in the response. Items that are `incomplete` in the response were
    cut by a failure: the stream does not show their end.
    """
    complaints = []
    texts: dict[int, str] = {}
    begun: dict[int, str] = {}
    done: dict[int, Json] = {}
    for event in events:
        place = event.get("output_index")
        if place is None:
            continue
        if event["type"] == "response.output_item.added":
            begun[place] = event["item"]["id"]
        elif place not in begun or place in done:
            complaints.append(f"{event['type']} of item {place}, which is not open")
        if event["type"] == "response.output_text.delta":
            texts[place] = texts.get(place, "") + event["delta"]
        if event["type"] == "response.output_item.done":
            done[place] = event["item"]
    ids = [item["id"] for item in body["output"]]
    if ids != [it for _, it in sorted(begun.items()) if it in ids]:
        complaints.append(f"the stream shows {begun}, the response has {ids}")
    may_miss = _may_be_superseded if body["status"] == "completed" else _is_cut
    return complaints + _same_items(done, body["output"], may_miss) + _same_texts(done, texts)


def _same_items(
    done: Mapping[int, Json], output: Sequence[Json], may_miss: Callable[[Json], bool]
) -> list[str]:
    final = {item["id"]: item for item in output}
    shown = {item["id"]: item for item in done.values()}
    complaints = [
        f"{item} was shown to its end, the response has {final.get(name)}"
        for name, item in shown.items()
        if final.get(name, item) != item or (name not in final and not may_miss(item))
    ]
    open_ = [item for name, item in final.items() if name not in shown and not _is_cut(item)]
    return complaints + [f"{item} never ends in the stream" for item in open_]


def _may_be_superseded(item: Json) -> bool:
    """Whether a generation that was cut may have made the item: then it was made anew."""
    return _is_cut(item) or item["type"] == "reasoning"


def _is_cut(item: Json) -> bool:
    return item.get("status") == "incomplete"


def _same_texts(done: Mapping[int, Json], texts: Mapping[int, str]) -> list[str]:
    return [
        f"the deltas of {item['id']} are {texts.get(place)!r}, its text is {said!r}"
        for place, item in done.items()
        if item["type"] == "message"
        and (said := "".join(part["text"] for part in item["content"])) != texts.get(place, "")
    ]


def event_frames(stream: bytes) -> bytes:
    """The whole events at the beginning of a stream that may be cut."""
    whole, found, _ = stream.removesuffix(DONE).rpartition(b"\n\n")
    return whole + found


def payloads(stream: bytes) -> list[Json]:
    """The events of a stream."""
    frames = event_frames(stream).split(b"\n\n")[:-1]
    return [json.loads(frame.partition(b"data: ")[2]) for frame in frames]
