"""Sets limits on its own process, then becomes the command: so no instant of it is without them.

    python -I -S launcher.py '{"limits": {"RLIMIT_CORE": [0, 0]}, "variables": []}' PROGRAM ...

Run as a file, by smg.mcp.stdio. In the gateway itself nothing could be set between fork and exec:
code that runs there may wait for a lock that another thread held. Standard library only.
"""

import json
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence

NOT_STARTED = 127  # What shells answer for a command that cannot be run.


def limit(limits: Mapping[str, Sequence[int]]) -> None:
    """Set soft and hard limits by their names in `resource`; a lower hard limit stays."""
    for name, (soft, hard) in limits.items():
        number = getattr(resource, name)
        _, before = resource.getrlimit(number)
        highest = hard if before == resource.RLIM_INFINITY else min(hard, before)
        resource.setrlimit(number, (min(soft, highest), highest))


def main() -> None:
    """Become the command that stands in the arguments."""
    asked, command = json.loads(sys.argv[1]), sys.argv[2:]
    limit(asked["limits"])
    # Python ignores these, and may have set LC_CTYPE; neither is to be seen by the command.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    variables = {name: os.environ[name] for name in asked["variables"] if name in os.environ}
    try:
        os.execve(command[0], command, variables)
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be started: {error.strerror}\n")
        sys.exit(NOT_STARTED)


if __name__ == "__main__":
    main()
