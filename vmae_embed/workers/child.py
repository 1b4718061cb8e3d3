"""A decoding process: takes videos one at a time, hands back cropped clips in shared memory.

It is started as its own interpreter, not forked: it holds no model, no CUDA context and no
thread of its parent, and a script that calls `extract` needs no ``if __name__`` guard. It dies
with its parent (its pipe closes), in the middle of a video too, and by its own alarm when a video
takes too long: SIGALRM's default action ends a process even inside a C decoder that never returns.
"""

from __future__ import annotations

import mmap
import os
import signal
import threading
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from vmae_embed.decode import Frame, cropping, decode_clips
from vmae_embed.errors import VmaeEmbedError, one_line
from vmae_embed.records import Timeline
from vmae_embed.sampling import plan_spans
from vmae_embed.workers.interpreter import connect_to_parent
from vmae_embed.workers.messages import EXIT_OUT_OF_MEMORY, ClipReady, Done, Failed, Ready, Started, Usage, WorkerConfig

# Without a limit of the user's: ten minutes, or four times the video's length if that is longer.
DEFAULT_TIMEOUT_S = 600.0
DEFAULT_TIMEOUT_LENGTHS = 4.0

# A decoder that takes memory by the gigabyte takes some hundred MB in this time.
_WATCH_EVERY_S = 0.05

# A system's timers refuse times that its clock cannot count; damaged files claim to last so long.
_LONGEST_ALARM_S = 1e9


class _Worker:
    def __init__(self, connection: Connection, config: WorkerConfig, memory: mmap.mmap) -> None:
        self._connection = connection
        self._config = config
        self._slots = np.frombuffer(memory, np.uint8).reshape(config.slots, *config.slot_shape)
        self._free = set(range(config.slots))
        self._slot: int | None = None
        self._waited_s = 0.0

    def run(self) -> None:
        limit = self._config.video_memory
        if limit is not None and _resident():
            threading.Thread(target=_watch_memory, args=(limit,), daemon=True).start()
        self._connection.send(Ready(_resident()))
        while True:
            message = self._connection.recv()
            if isinstance(message, int):
                self._free.add(message)
            else:
                self._connection.send(self._decode(message))

    def _decode(self, path: str) -> Done | Failed:
        config = self._config
        begun, self._waited_s = time.monotonic(), 0.0
        self._arm(config.timeout_s or DEFAULT_TIMEOUT_S)
        failure = None
        try:
            for batch in decode_clips(
                path,
                lambda timeline: plan_spans(timeline, config.sampling),
                cropping(config.preprocessing, exact_pixels=config.exact_pixels),
                decoder=config.decoder,
                device=config.gpu,
                stack=self._into_slot,
                on_timeline=self._start,
            ):
                assert self._slot is not None
                ready, self._slot = ClipReady(replace(batch.span, frames=()), self._slot), None
                self._connection.send(ready)
        except Exception as error:  # whatever a decoder raises costs its video, not the process
            failure = self._explain(error)
            if self._slot is not None:  # taken, and not handed over
                self._free.add(self._slot)
                self._slot = None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        usage = Usage(time.monotonic() - begun - self._waited_s, self._waited_s, _resident())
        return Failed(*failure, usage) if failure else Done(usage)

    def _explain(self, error: Exception) -> tuple[str, str]:
        """Stage and reason of a failure."""
        if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
            return "memory", "needs more memory than there is"
        if isinstance(error, VmaeEmbedError):
            return getattr(error, "stage", "decode"), str(error)
        return "decode", one_line(error)

    def _start(self, timeline: Timeline) -> None:
        if self._config.timeout_s is None:
            self._arm(max(DEFAULT_TIMEOUT_S, DEFAULT_TIMEOUT_LENGTHS * timeline.duration_s))
        self._connection.send(Started(replace(timeline, times_s=timeline.times_s[:1])))

    def _into_slot(self, frames: list[Frame]) -> Frame:
        self._slot = self._take_slot()
        return np.stack(frames, out=self._slots[self._slot])

    def _take_slot(self) -> int:
        """Wait for the encoder, off the clock, where it is behind."""
        left, begun = signal.setitimer(signal.ITIMER_REAL, 0)[0], time.monotonic()
        while not self._free or self._connection.poll():
            self._free.add(self._connection.recv())
        self._waited_s += time.monotonic() - begun
        self._arm(max(left, 0.001))
        return self._free.pop()

    def _arm(self, seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, min(seconds, _LONGEST_ALARM_S))


def _watch_memory(limit: int) -> None:
    """End the process when it holds so many bytes more than now; runs in a thread.

    Looked at from here because FFmpeg's decoders report memory that they are refused as damage.
    """
    allowed = _resident() + limit
    while _resident() <= allowed:
        time.sleep(_WATCH_EVERY_S)
    os._exit(EXIT_OUT_OF_MEMORY)


def _resident() -> int:
    """Bytes of memory that the process holds; 0 where the system does not tell (macOS)."""
    try:
        with open("/proc/self/statm", "rb") as status:
            return int(status.read().split()[1]) * mmap.PAGESIZE
    except FileNotFoundError:
        return 0


def main(arguments: list[str]) -> None:
    """Run until the parent closes the pipe whose descriptor it gave."""
    pipe, memory_file = arguments
    # Both are inherited; a parent may ignore or block alarms.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    connection = connect_to_parent(pipe)
    try:
        config: Any = connection.recv()
        _Worker(connection, config, mmap.mmap(int(memory_file), config.memory_bytes)).run()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone, or has no more videos
    # Decoders' own exit handlers may wait for threads that hang.
    os._exit(0)
