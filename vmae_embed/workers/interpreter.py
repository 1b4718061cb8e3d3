"""Processes that are interpreters of their own, tied to this one by a pipe.

Not forked: they inherit no model, no CUDA context and no thread, and a script that calls us needs
no ``if __name__`` guard.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from vmae_embed.errors import VmaeEmbedError

_PARTING_S = 5.0

# `-c` and `-m` put the working directory first: a file there named as a module is would stand in for it.
_PREAMBLE = "import sys; sys.path[0] or sys.path.pop(0); "


def start_interpreter(
    code: str, descriptors: Sequence[int], variables: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start an interpreter.

    Args:
        code: that it runs, with the numbers of the descriptors as its ``sys.argv[1:]``.
        descriptors: open files that it inherits.
        variables: of its environment, beside ours.

    Raises:
        VmaeEmbedError: the system starts no process.
    """
    environment = {**os.environ, **(variables or {}), "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    try:
        return subprocess.Popen(
            [sys.executable, "-c", _PREAMBLE + code, *map(str, descriptors)],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the parent, which closes the pipes in order
        )
    except OSError as error:
        raise VmaeEmbedError(f"processes cannot be started ({error})") from error


def end_with_parent(pipe: int) -> None:
    """End this process, whatever it is doing, when the other end of a pipe closes; runs in a thread."""
    closing = select.poll()
    closing.register(pipe, 0)  # of no event but the one that is always told: the other end has closed
    closing.poll()
    os._exit(0)


def end_process(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process that is to end by itself, kill it if it does not; return its return code."""
    try:
        return process.wait(_PARTING_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def describe_exit(code: int) -> str:
    """Say how a process ended, of its return code."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
