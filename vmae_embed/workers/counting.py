"""How many clips videos will have, by their headers; read in a process of its own, which a file may take down."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace

from vmae_embed.errors import VmaeEmbedError
from vmae_embed.sampling import Sampling, plan_spans
from vmae_embed.workers.interpreter import connect_to_parent, end_process, start_interpreter, tell

_CHILD = "from vmae_embed.workers.counting import main; main(sys.argv[1:])"


def count_clips(paths: Sequence[str], sampling: Sampling, *, within_s: float = 20.0) -> list[int | None]:
    """Estimate how many clips each of some videos has.

    Args:
        paths: of local files.
        sampling: how clips are cut.
        within_s: seconds for all of them.

    Returns:
        A number for each; None for those that cannot be read, tell no length, or came too late.

    Raises:
        VmaeEmbedError: no process can be started.
    """
    counts: list[int | None] = []
    until = time.monotonic() + within_s
    while len(counts) < len(paths) and time.monotonic() < until:
        process, connection = start_interpreter(_CHILD)
        try:
            tell(connection, (paths[len(counts) :], sampling))
            while len(counts) < len(paths) and connection.poll(max(until - time.monotonic(), 0)):
                counts.append(connection.recv())
        except (EOFError, OSError):
            counts.append(None)  # what it was reading took it down: go on behind that
        finally:
            connection.close()
            end_process(process)
    return [*counts, *[None] * (len(paths) - len(counts))]


def _count(path: str, sampling: Sampling) -> int | None:
    from vmae_embed.decode.header import read_header

    try:
        timeline = read_header(path)
        return None if timeline is None else sum(1 for _ in plan_spans(timeline, sampling))
    except VmaeEmbedError:
        return None


def main(arguments: list[str]) -> None:
    """Count for the parent whose pipe's descriptor is given."""
    connection = connect_to_parent(arguments[0])
    paths, sampling = connection.recv()
    # The same windows with a frame each: which frames they have does not change how many there are.
    stride = sampling.stride and sampling.stride * sampling.frames
    windows = replace(sampling, frames=1, fps=sampling.fps / sampling.frames, stride=stride)
    for path in paths:
        connection.send(_count(path, windows))
    os._exit(0)
