"""Processes that are interpreters of their own, tied to this one by a pipe.

Not forked: they inherit no model, no CUDA context and no thread, and a script that calls us needs
no ``if __name__`` guard.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from vmae_embed.errors import VmaeEmbedError

_PARTING_S = 5.0

# `-c` and `-m` put the working directory first: a file there named as a module is would stand in for it.
_PREAMBLE = "import sys; sys.path[0] or sys.path.pop(0); "


def start_interpreter(
    code: str, descriptors: Sequence[int] = (), variables: Mapping[str, str] | None = None
) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start an interpreter.

    Args:
        code: that it runs; the first of its ``sys.argv[1:]`` is for `connect_to_parent`, then come
            the numbers of the descriptors.
        descriptors: open files that it inherits.
        variables: of its environment, beside ours.

    Returns:
        The process, and our end of its pipe.

    Raises:
        VmaeEmbedError: the system starts no process.
    """
    ours, theirs = Pipe()
    inherited = [theirs.fileno(), *descriptors]
    environment = {**os.environ, **(variables or {}), "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _PREAMBLE + code, *map(str, inherited)],
            pass_fds=inherited,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the parent, which closes the pipes in order
        )
    except OSError as error:
        ours.close()
        raise VmaeEmbedError(f"processes cannot be started ({error})") from error
    finally:
        theirs.close()
    return process, ours


def tell(connection: Connection, message: object) -> None:
    """Send a message to a process, which may have died: its end of file is then next in the pipe."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.send(message)


def connect_to_parent(descriptor: str) -> Connection:
    """Open the pipe to the parent, and end this process, whatever it is doing, when the parent's end closes.

    Args:
        descriptor: the first argument that `start_interpreter` gave.
    """
    pipe = int(descriptor)
    threading.Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()
    return Connection(pipe)


def _end_with_parent(pipe: int) -> None:
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
