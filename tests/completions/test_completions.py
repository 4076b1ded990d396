"""POST /v1/completions: bare text in, bare text out, on the same line as everything else."""

import asyncio
import json
from typing import Any

import openai
import pytest
from openai.types import Completion

from smg.testing.vocabulary import MODEL_PATH
from smg.tokens.source import locate
from smg.tokens.tokenizer import Tokenizer
from tests.e2e.gateway import Served

Json = dict[str, Any]

TOKENIZER = Tokenizer.load(locate(str(MODEL_PATH)))


def asking(order: str) -> str:
    """A prompt as somebody writes it who brings a template of his own."""
    return f"<|im_start|>user\n{order}<|im_end|>\n<|im_start|>assistant\n"


async def complete(served: Served, order: str, **fields: Any) -> Json:
    answer = await served.post("/completions", **{"prompt": asking(order), **fields})
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    Completion.model_validate(body, strict=True)
    return body


def texts(body: Json) -> list[str]:
    return [choice["text"] for choice in body["choices"]]


async def chunks(served: Served, order: str, **fields: Any) -> list[Json]:
    """The chunks of a stream, which ends with [DONE]."""
    answer = await served.post("/completions", stream=True, **{"prompt": asking(order), **fields})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *frames, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


async def test_a_text_is_gone_on_with(served: Served) -> None:
    body = await complete(served, "[[say:It is 42.]]")
    prompt = TOKENIZER.encode_text(asking("[[say:It is 42.]]"))
    assert list(served.engine.requests[-1].prompt_ids) == prompt
    written = body["usage"]["completion_tokens"]
    assert body["id"].startswith("cmpl_")
    assert {**body, "id": "", "created": 0} == {
        "id": "",
        "object": "text_completion",
        "created": 0,
        "model": "scripted",
        "choices": [{"index": 0, "text": "It is 42.", "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": len(prompt),
            "completion_tokens": written,
            "total_tokens": len(prompt) + written,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    } | {"usage": body["usage"]}
    assert body["usage"]["prompt_tokens"] == len(prompt)


async def test_tokens_are_gone_on_with_as_they_are(served: Served) -> None:
    ids = TOKENIZER.encode_text(asking("[[say:Yes.]]"))
    body = await complete(served, "", prompt=ids)
    assert texts(body) == ["Yes."]
    assert list(served.engine.requests[-1].prompt_ids) == ids


async def test_several_prompts_have_answers_in_their_order(served: Served) -> None:
    prompts = [asking(f"[[say:{word}]]") for word in ("one", "two", "three")]
    assert texts(await complete(served, "", prompt=prompts)) == ["one", "two", "three"]
    ids = [TOKENIZER.encode_text(prompt) for prompt in prompts]
    body = await complete(served, "", prompt=ids, n=2)
    assert texts(body) == ["one", "one", "two", "two", "three", "three"]
    assert [choice["index"] for choice in body["choices"]] == list(range(6))
    assert body["usage"]["prompt_tokens"] == sum(map(len, ids))


async def test_no_parser_reads_the_text(served: Served) -> None:
    """Thoughts and calls stay as the model wrote them."""
    body = await complete(served, "[[think:Hm.]][[say:Yes.]]", max_tokens=50)
    assert "<think>" in texts(body)[0]
    assert texts(body)[0].endswith("Yes.")


async def test_sixteen_tokens_are_written_if_nobody_says_how_many(served: Served) -> None:
    body = await complete(served, "[[long:40]]")
    assert body["usage"]["completion_tokens"] == 16
    assert body["choices"][0]["finish_reason"] == "length"
    body = await complete(served, "[[long:40]]", max_tokens=3)
    assert body["usage"]["completion_tokens"] == 3


async def test_a_stop_string_ends_the_text(served: Served) -> None:
    body = await complete(served, "[[say:one two three]]", stop=["two"])
    assert texts(body) == ["one "]
    assert body["choices"][0]["finish_reason"] == "stop"
    body = await complete(
        served, "[[say:one two three]]", stop="two", include_stop_str_in_output=True
    )
    assert texts(body) == ["one two"]


async def test_the_prompt_is_repeated_if_asked(served: Served) -> None:
    prompt = asking("[[say:Yes.]]")
    assert texts(await complete(served, "[[say:Yes.]]", echo=True)) == [f"{prompt}Yes."]
    ids = TOKENIZER.encode_text(prompt)
    assert texts(await complete(served, "", prompt=ids, echo=True)) == [f"{prompt}Yes."]
    streamed = await chunks(served, "[[say:Yes.]]", echo=True, n=2)
    for index in (0, 1):
        parts = [c["choices"][0] for c in streamed if c["choices"][0]["index"] == index]
        assert parts[0]["text"] == prompt
        assert "".join(part["text"] for part in parts) == f"{prompt}Yes."


async def test_log_probabilities_have_their_old_form(served: Served) -> None:
    body = await complete(served, "[[say:Yes é.]]", logprobs=2, max_tokens=50)
    told = body["choices"][0]["logprobs"]
    assert set(told) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert len({len(entries) for entries in told.values()}) == 1
    text = texts(body)[0]
    for token, value, rivals, place in zip(*told.values(), strict=True):
        assert rivals[token] == value
        if not token.startswith(("bytes:", "<|")):
            assert text[place:].startswith(token)
    assert told["text_offset"] == sorted(told["text_offset"])
    assert told["text_offset"][0] == 0


async def test_a_stream_says_what_the_object_says(served: Served) -> None:
    whole = await complete(served, "[[say:It is 42 é.]]", logprobs=1, n=2)
    streamed = await chunks(
        served,
        "[[say:It is 42 é.]]",
        logprobs=1,
        n=2,
        stream_options={"include_usage": True},
    )
    *parts, last = streamed
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert all(part["usage"] is None for part in parts)
    assert {(part["id"], part["object"], part["model"]) for part in streamed} == {
        (streamed[0]["id"], "text_completion", "scripted")
    }
    for choice in whole["choices"]:
        mine = [p["choices"][0] for p in parts if p["choices"][0]["index"] == choice["index"]]
        assert "".join(part["text"] for part in mine) == choice["text"]
        assert [part["finish_reason"] for part in mine if part["finish_reason"]] == ["stop"]
        for name, value in choice["logprobs"].items():
            told = [entry for part in mine for entry in (part["logprobs"] or {}).get(name, [])]
            assert told == value


async def test_without_being_asked_a_stream_tells_no_usage(served: Served) -> None:
    assert all("usage" not in chunk for chunk in await chunks(served, "[[say:Yes.]]"))


async def test_a_failing_worker_is_told(served: Served) -> None:
    answer = await served.post("/completions", prompt=asking("[[http500]]"))
    assert answer.status_code == 502
    order = "[[say:This will never be said whole.]][[fail]]"
    answer = await served.post("/completions", prompt=asking(order), stream=True)
    *_, last, rest = answer.text.split("\n\n")
    assert rest == ""
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"


async def test_a_client_that_leaves_frees_the_worker(served: Served) -> None:
    asked = len(served.engine.requests)
    body = {"prompt": asking("[[slow:30]][[long:10]]"), "stream": True, "model": "scripted"}
    async with served.http.stream("POST", "/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            if line:
                break
    assert len(served.engine.requests) == asked + 1
    assert await served.engine.requests[-1].ended() in ("abort", "cancelled")

    waiting = asyncio.create_task(served.post("/completions", **{**body, "stream": False}))
    received = await served.engine.arrived(asked + 2)
    waiting.cancel()
    assert await received.ended() in ("abort", "cancelled")


async def test_the_official_client_reads_it(served: Served) -> None:
    whole = await served.openai.completions.create(
        model="scripted", prompt=asking("[[say:Yes.]]"), logprobs=1
    )
    assert whole.choices[0].text == "Yes."
    stream = await served.openai.completions.create(
        model="scripted", prompt=asking("[[say:Yes.]]"), stream=True
    )
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "Yes."


REFUSED: list[tuple[Json, int, str | None, str | None]] = [
    ({"model": None}, 400, "model", "invalid_type"),
    ({"model": "gpt"}, 404, "model", "model_not_found"),
    ({"prompt": None}, 400, "prompt", "invalid_type"),
    ({"prompt": ""}, 400, "prompt", None),
    ({"prompt": []}, 400, "prompt", "array_below_min_length"),
    ({"prompt": [[]]}, 400, "prompt", None),
    ({"prompt": [1.5]}, 400, "prompt[0]", "invalid_type"),
    ({"prompt": [True]}, 400, "prompt[0]", "invalid_type"),
    ({"prompt": ["x", [1]]}, 400, "prompt[0]", "invalid_type"),
    ({"prompt": [[1], "x"]}, 400, "prompt[1]", "invalid_type"),
    ({"prompt": [-1]}, 400, "prompt", None),
    ({"prompt": [10**9]}, 400, "prompt", None),
    ({"prompt": ["x"] * 129}, 400, "prompt", "array_above_max_length"),
    ({"n": 64, "prompt": ["x"] * 3}, 400, "prompt", "array_above_max_length"),
    ({"max_tokens": 0}, 400, "max_tokens", "integer_below_min_value"),
    ({"n": 0}, 400, "n", "integer_below_min_value"),
    ({"best_of": 2}, 400, "best_of", "unsupported_parameter"),
    ({"suffix": "x"}, 400, "suffix", "unsupported_parameter"),
    ({"echo": True, "logprobs": 1}, 400, "logprobs", "unsupported_parameter"),
    ({"logprobs": 21}, 400, "logprobs", "integer_above_max_value"),
    ({"logit_bias": {"x": 1}}, 400, "logit_bias", "invalid_value"),
    ({"stream_options": {}}, 400, "stream_options", None),
]


@pytest.mark.parametrize(("fields", "status", "param", "code"), REFUSED)
async def test_a_refusal_names_its_field(
    served: Served, fields: Json, status: int, param: str | None, code: str | None
) -> None:
    answer = await served.post("/completions", **{"prompt": "x", **fields})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (status, param, code)
    assert error["type"] == "invalid_request_error"


async def test_a_prompt_too_long_for_the_context_is_refused(served: Served) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await served.openai.completions.create(model="scripted", prompt="word " * 200_000)
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.param == "prompt"


async def test_what_changes_nothing_is_taken(served: Served) -> None:
    body = await complete(
        served, "[[say:Yes.]]", n=1, best_of=1, user="me", suffix=None, stream_options=None
    )
    assert texts(body) == ["Yes."]
