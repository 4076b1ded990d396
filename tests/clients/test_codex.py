"""The Codex CLI, not interactive, with the gateway as its provider: https://github.com/openai/codex."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import Served
from tests.clients.relay import relay

pytestmark = pytest.mark.clients

PROGRAM = Path(__file__).parent / "node/node_modules/.bin/codex"
LIMIT_SECONDS = 45.0
CONFIG = """\
model = "scripted"
model_provider = "smg"
check_for_update_on_startup = false

[model_providers.smg]
name = "smg"
base_url = "{base_url}"
env_key = "SMG_API_KEY"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
"""
# An arithmetic that only a shell does: the answer is in no prompt.
COMMAND = '[[call:exec_command {"cmd": "echo smg-$((40 + 2))"}]]'


@dataclass(frozen=True, slots=True)
class Codex:
    """A Codex with a home of its own, in an empty folder."""

    folder: Path
    base_url: str

    def exec(self, *words: str, succeeds: bool = True) -> list[dict[str, Any]]:
        """Run `codex exec`; the events it tells of."""
        home = self.folder / "home"
        work = self.folder / "work"
        home.mkdir(exist_ok=True)
        work.mkdir(exist_ok=True)
        (home / "config.toml").write_text(CONFIG.format(base_url=self.base_url), encoding="utf-8")
        # The sandbox needs kernel features that containers lack, and the script only echoes.
        flags = ["--skip-git-repo-check", "--json", "--dangerously-bypass-approvals-and-sandbox"]
        done = subprocess.run(
            [str(PROGRAM), "exec", *flags, *words],
            cwd=work,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(home),
                "CODEX_HOME": str(home),
                "SMG_API_KEY": "none",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
        assert (done.returncode == 0) == succeeds, done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def codex(served: Served, tmp_path: Path) -> Codex:
    return Codex(tmp_path, served.base_url)


def finished(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The items of a kind that were finished."""
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    return [item for item in items if item["type"] == kind]


def test_runs_a_command_and_answers_from_its_output(codex: Codex) -> None:
    events = codex.exec(COMMAND)
    (command,) = finished(events, "command_execution")
    assert (command["exit_code"], command["status"]) == (0, "completed")
    assert "smg-42" in command["aggregated_output"]
    (answer,) = finished(events, "agent_message")
    assert "smg-42" in answer["text"]
    assert events[-1]["type"] == "turn.completed"
    assert events[-1]["usage"]["output_tokens"] > 0


def test_runs_two_commands_of_one_turn(codex: Codex) -> None:
    other = COMMAND.replace("40 + 2", "50 + 2")
    events = codex.exec(COMMAND + other)
    (answer,) = finished(events, "agent_message")
    assert answer["text"].index("smg-42") < answer["text"].index("smg-52")


def test_shows_the_answer_and_goes_on_in_a_later_run(codex: Codex) -> None:
    begun = codex.exec("[[think:hm]][[say:blue]] My colour?")
    assert [item["text"] for item in finished(begun, "agent_message")] == ["blue"]
    resumed = codex.exec("resume", begun[0]["thread_id"], "[[echo]]")
    (answer,) = finished(resumed, "agent_message")
    assert ["assistant", "blue"] in json.loads(answer["text"])


def test_namespaced_tools_come_back_under_their_names(codex: Codex) -> None:
    events = codex.exec('[[call:wait_agent {"targets": ["nobody"], "timeout_ms": 10000}]]')
    (answer,) = finished(events, "agent_message")
    assert answer["text"].startswith("tool result: ")
    assert "unsupported call" not in answer["text"]


def test_gives_structured_output(codex: Codex, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(
        json.dumps(
            {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
                "additionalProperties": False,
            }
        ),
        encoding="utf-8",
    )
    events = codex.exec("--output-schema", str(schema), '[[say:{"city": "Oslo"}]]')
    (answer,) = finished(events, "agent_message")
    assert json.loads(answer["text"]) == {"city": "Oslo"}


@pytest.mark.parametrize(
    "order", ["[[http500]]", "[[say:a b c]][[fail]]"], ids=["before", "during"]
)
def test_engine_failures_fail_the_turn_with_their_message(codex: Codex, order: str) -> None:
    events = codex.exec(order, succeeds=False)
    assert events[-1]["type"] == "turn.failed"
    assert "scripted" in events[-1]["error"]["message"]


def test_sends_what_was_recorded(
    session_on_tape: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    def session(base_url: str) -> None:
        with relay(base_url) as relayed:
            codex = Codex(tmp_path_factory.mktemp("codex"), relayed)
            (answer,) = finished(codex.exec(COMMAND), "agent_message")
            assert "smg-42" in answer["text"]

    session_on_tape("codex", session)
