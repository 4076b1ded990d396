"""The command line: `smg --worker-urls ...`, `smg demo`, `smg db`, `smg doctor`, `smg parse`."""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence

from smg import __version__
from smg.errors import ConfigError, GatewayError
from smg.logs import set_up
from smg.settings import Settings, add_flags, new_parser, read
from smg.supervisor import leashed, settings_of_child, supervise, take_number


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 2 when it was given something wrong."""
    words = list(sys.argv[1:] if argv is None else argv)
    # Tool servers are forked and become other programs at once: gRPC need not prepare for it, and
    # would say in the log that it did not.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    try:
        return _run(words)
    except (ConfigError, GatewayError) as error:
        sys.stderr.write(f"smg: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130


def _run(words: list[str]) -> int:
    if not words or words[0].startswith("-"):
        return _launch(words)
    command, *rest = words
    if command not in COMMANDS:
        known = ", ".join(COMMANDS)
        raise ConfigError(f"unknown command {command!r}; there are {known}")
    return COMMANDS[command](rest)


def _settings(words: list[str], description: str) -> Settings:
    parser = new_parser(description)
    parser.usage = "smg [COMMAND] [--flag value ...]"
    parser.add_argument("-V", "--version", action="version", version=f"smg {__version__}")
    add_flags(parser)
    return read(vars(parser.parse_args(words)), os.environ)


def _launch(words: list[str]) -> int:
    settings = _settings(
        words,
        "A gateway from the OpenAI Responses API to inference engines. Commands: smg [launch] "
        "FLAGS, smg demo, smg workers, smg db, smg doctor, smg approvals, smg parse. Every flag is "
        "an environment variable too.",
    )
    set_up(settings.log_level, as_json=settings.log_json)
    number = take_number(os.environ)
    if settings.processes > 1 and number is None:
        return asyncio.run(supervise(settings, words))
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings, number))
    return 0


async def _serve(settings: Settings, number: int | None) -> None:
    from smg.server import serve  # noqa: PLC0415 - `smg --help` need not load the libraries.

    if number is None:
        await serve(settings)
        return
    with leashed():
        await serve(settings_of_child(settings, number))


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop  # noqa: PLC0415 - not there on Windows.

    return uvloop.Loop


def _database(words: list[str]) -> int:
    from smg.db_command import run  # noqa: PLC0415

    return run(words)


def _doctor(words: list[str]) -> int:
    from smg.doctor import run  # noqa: PLC0415

    return run(words)


def _parse(words: list[str]) -> int:
    from smg.lab.command import run  # noqa: PLC0415

    return run(words)


def _demo(words: list[str]) -> int:
    parser = new_parser("One agent turn on the scripted engine; no model, no GPU, no network.")
    parser.add_argument("--once", action="store_true", help="end after the turn")
    parser.add_argument("--port", type=int, default=30000, help="gateway's port; 0: a free one")
    arguments = parser.parse_args(words)
    from smg.testing.demo import run_demo  # noqa: PLC0415

    return run_demo(once=arguments.once, port=arguments.port)


def _approvals(words: list[str]) -> int:
    from smg.approve import run_approvals  # noqa: PLC0415

    return run_approvals(words)


def _workers(words: list[str]) -> int:
    settings = _settings(words, "Show what each worker is, and how it is.")
    set_up(settings.log_level, as_json=settings.log_json)
    from smg.discovery.command import run  # noqa: PLC0415

    return run(settings)


def _chaos(words: list[str]) -> int:
    parser = new_parser("Kill gateways in the middle of turns, and judge what is left.")
    parser.add_argument("--kills", type=int, default=100, help="how many gateways die")
    parser.add_argument("--seed", type=int, default=1, help="which deaths they die")
    arguments = parser.parse_args(words)
    from smg.testing.chaos.command import run_chaos  # noqa: PLC0415

    return run_chaos(kills=arguments.kills, seed=arguments.seed)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "launch": _launch,
    "start": _launch,
    "demo": _demo,
    "db": _database,
    "doctor": _doctor,
    "workers": _workers,
    "approvals": _approvals,
    "parse": _parse,
    "chaos": _chaos,
}
