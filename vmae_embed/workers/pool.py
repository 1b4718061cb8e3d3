"""The decoding processes: started, fed, replaced when they die.

A process decodes the videos of one unit after another, in order, so a unit's clips arrive in
order whatever the others do, and fill its batches the same way on every run. Each has shared
memory and a pipe of its own: one that dies, even in the middle of a message, harms no other.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import wait
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from vmae_embed.errors import VmaeEmbedError
from vmae_embed.records import ClipSpan, Failure, Timeline, Video
from vmae_embed.workers.interpreter import describe_exit, end_process, start_interpreter, tell
from vmae_embed.workers.messages import EXIT_OUT_OF_MEMORY, ClipReady, Done, Failed, Ready, Started, Usage, WorkerConfig

# A process that dies before it is up is started again, but not for ever.
_MOST_STARTS = 3

# FFmpeg's decoders leak now and then: a process that holds so much more than when it was new makes room for another.
# A quarter of the limit, if that is less: no video shall be blamed for what those before it left.
_LEAKED_BYTES = 512 * 2**20

_CHILD = "from vmae_embed.workers.child import main; main(sys.argv[1:])"

# NumPy's linear algebra would start a thread a core in every process, for nothing.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class VideoStarted:
    """A video's clips follow; any that came before are void."""

    unit: str
    video: Video
    timeline: Timeline


@dataclass(frozen=True, slots=True)
class ClipDecoded:
    """A clip. ``frames`` ``(T, H, W, 3)`` is shared memory, valid until the next event is asked for."""

    unit: str
    video: Video
    span: ClipSpan
    frames: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class VideoDone:
    """All clips of a video have come."""

    unit: str
    video: Video
    usage: Usage


@dataclass(frozen=True, slots=True)
class VideoFailed:
    """A video failed; its clips are void."""

    unit: str
    video: Video
    failure: Failure
    usage: Usage


@dataclass(frozen=True, slots=True)
class UnitDone:
    """Every video of a unit is done or has failed."""

    unit: str


Event = VideoStarted | ClipDecoded | VideoDone | VideoFailed | UnitDone


class DecodePool:
    """Decoding processes; use it in a ``with`` statement."""

    def __init__(self, config: WorkerConfig, workers: int) -> None:
        self._config = config
        self._workers: list[_Process] = []
        self._stopped, self._stop = Pipe(duplex=False)
        try:
            for _ in range(workers):
                self._workers.append(_Process(config))
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        with contextlib.ExitStack() as closing:  # all of them, whatever interrupts one
            closing.callback(self._stopped.close)
            closing.callback(self._stop.close)
            for worker in self._workers:
                closing.callback(worker.close)

    def stop(self) -> None:
        """End `decode`, from another thread."""
        self._stop.close()

    def decode(self, units: Iterable[tuple[str, Iterable[Video]]]) -> Iterator[Event]:
        """Decode units, as many at a time as there are processes.

        Args:
            units: names and videos, taken one by one as processes come free.

        Yields:
            Events; those of one unit in order. They end early after `stop`.

        Raises:
            VmaeEmbedError: no process can be started.
        """
        waiting = iter(units)
        busy = [worker for worker in self._workers if worker.take(next(waiting, None))]
        while busy:
            for connection in wait([self._stopped, *(worker.connection for worker in busy)]):
                if connection is self._stopped:
                    return
                worker = next(worker for worker in busy if worker.connection is connection)
                yield from worker.events()
                if worker.unit_is_through:
                    yield UnitDone(worker.unit)
                    if not worker.take(next(waiting, None)):
                        busy.remove(worker)


class _Process:
    """One decoding process, from the parent's side; replaces itself when it dies."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._memory_file = _shared_memory(config.memory_bytes)
        memory = mmap.mmap(self._memory_file, config.memory_bytes)
        self._slots = np.frombuffer(memory, np.uint8).reshape(config.slots, *config.slot_shape)
        self._may_leak = min(_LEAKED_BYTES, (config.video_memory or 4 * _LEAKED_BYTES) // 4)
        self._left: deque[Video] = deque()
        self._video: Video | None = None
        self._since = 0.0
        self._starts = 0
        self.unit = ""
        self._start()

    def _start(self) -> None:
        self._is_up = False
        self._starts += 1
        self._process, self.connection = start_interpreter(_CHILD, [self._memory_file], _ONE_THREAD)
        tell(self.connection, self._config)

    def take(self, unit: tuple[str, Iterable[Video]] | None) -> bool:
        """Begin with a unit; False if there is none left."""
        if unit is None:
            return False
        self.unit, videos = unit
        self._left = deque(videos)
        if self._is_up:
            self._next_video()
        return True

    def _next_video(self) -> None:
        self._video = self._left.popleft() if self._left else None
        self._since = time.monotonic()
        if self._video is not None:
            tell(self.connection, self._video.path)

    @property
    def unit_is_through(self) -> bool:
        return self._video is None and not self._left

    def events(self) -> Iterator[Event]:
        """Take one message from the process, which is known to have one, or to be dead."""
        try:
            message = self.connection.recv()
        except (EOFError, OSError):  # at its end, or in the middle of a message
            yield from self._bury()
            return
        video = self._video
        if isinstance(message, Ready):
            self._is_up, self._starts, self._when_new = True, 0, message.resident
            self._next_video()
            return
        assert video is not None
        if isinstance(message, Started):
            yield VideoStarted(self.unit, video, message.timeline)
        elif isinstance(message, ClipReady):
            yield ClipDecoded(self.unit, video, message.span, self._slots[message.slot])
            tell(self.connection, message.slot)
        elif isinstance(message, Done):
            self._go_on(message.usage)
            yield VideoDone(self.unit, video, message.usage)
        elif isinstance(message, Failed):
            failure = self._failure(video, message.stage, message.reason)
            self._go_on(message.usage, is_sound=message.stage != "memory")
            yield VideoFailed(self.unit, video, failure, message.usage)

    def _go_on(self, usage: Usage, *, is_sound: bool = True) -> None:
        """Take the next video, with a new process where this one has leaked or ran out of memory."""
        if is_sound and usage.resident < self._when_new + self._may_leak:
            self._next_video()
            return
        self._video = None
        self.connection.close()
        self._process.kill()
        self._process.wait()
        self._start()

    def _bury(self) -> Iterator[Event]:
        """The process is dead: its video failed, and a new process goes on with the next."""
        self.connection.close()
        code = self._process.wait()
        if not self._is_up and self._starts >= _MOST_STARTS:
            raise VmaeEmbedError(
                f"decoding processes cannot be started ({describe_exit(code)}); "
                f"`{sys.executable} -c 'import vmae_embed.workers.child'` may say why"
            )
        video, self._video = self._video, None
        self._start()
        if video is not None:
            if code == -signal.SIGALRM:
                limit = f"{self._config.timeout_s:g} s" if self._config.timeout_s else "the default limit"
                failure = self._failure(video, "timeout", f"took longer than {limit} (--video-timeout)")
            elif code == EXIT_OUT_OF_MEMORY:
                limit = f"{(self._config.video_memory or 0) / 2**30:.3g} GiB"
                failure = self._failure(video, "memory", f"takes more than {limit} to decode (--video-memory)")
            else:
                failure = self._failure(video, "worker", f"its decoding process died ({describe_exit(code)})")
            yield VideoFailed(self.unit, video, failure, Usage(failure.seconds, 0.0, 0))

    def _failure(self, video: Video, stage: str, reason: str) -> Failure:
        seconds = time.monotonic() - self._since
        return Failure(video.id, video.path, stage, reason, round(seconds, 3), video.fingerprint)

    def close(self) -> None:
        """End the process: it sees the closed pipe, or is killed."""
        self.connection.close()
        if self._video is not None:
            self._process.kill()
        end_process(self._process)
        os.close(self._memory_file)


def _shared_memory(size: int) -> int:
    """Memory without a name, which the system takes back with the last process that holds it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("vmae-embed")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor
