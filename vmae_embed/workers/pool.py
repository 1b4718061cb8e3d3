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
import subprocess
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
from vmae_embed.workers.messages import ClipReady, Done, Failed, Ready, Started, WorkerConfig

_PARTING_S = 5.0

# `-c` and `-m` put the working directory first: a file there named as a module is would stand in for it.
_CHILD = "import sys; sys.path[0] or sys.path.pop(0); from vmae_embed.workers.child import main; main(sys.argv[1:])"


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


@dataclass(frozen=True, slots=True)
class VideoFailed:
    """A video failed; its clips are void."""

    unit: str
    failure: Failure


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
            for worker in self._workers:
                closing.callback(worker.close)

    def decode(self, units: Iterable[tuple[str, Iterable[Video]]]) -> Iterator[Event]:
        """Decode units, as many at a time as there are processes.

        Args:
            units: names and videos, taken one by one as processes come free.

        Yields:
            Events; those of one unit in order.

        Raises:
            VmaeEmbedError: no process can be started.
        """
        waiting = iter(units)
        busy = [worker for worker in self._workers if worker.take(next(waiting, None))]
        while busy:
            for connection in wait([worker.connection for worker in busy]):
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
        self._left: deque[Video] = deque()
        self._video: Video | None = None
        self._since = 0.0
        self.unit = ""
        self._start()

    def _start(self) -> None:
        self.connection, theirs = Pipe()
        self._is_up = False
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(theirs.fileno()), str(self._memory_file)],
                pass_fds=(theirs.fileno(), self._memory_file),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the parent, which closes the pipes in order
            )
        except OSError as error:
            raise VmaeEmbedError(f"decoding processes cannot be started ({error})") from error
        theirs.close()
        self._tell(self._config)

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
            self._tell(self._video.path)

    def _tell(self, message: str | int | WorkerConfig) -> None:
        # A process that has died cannot be told; its end of file is next in the pipe, for `_bury`.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(message)

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
            self._is_up = True
            self._next_video()
            return
        assert video is not None
        if isinstance(message, Started):
            yield VideoStarted(self.unit, video, message.timeline)
        elif isinstance(message, ClipReady):
            yield ClipDecoded(self.unit, video, message.span, self._slots[message.slot])
            self._tell(message.slot)
        elif isinstance(message, Done):
            self._next_video()
            yield VideoDone(self.unit, video)
        elif isinstance(message, Failed):
            failure = self._failure(video, message.stage, message.reason)
            self._next_video()
            yield VideoFailed(self.unit, failure)

    def _bury(self) -> Iterator[Event]:
        """The process is dead: its video failed, and a new process goes on with the next."""
        self.connection.close()
        code = self._process.wait()
        if not self._is_up:
            raise VmaeEmbedError(
                f"decoding processes cannot be started ({_describe_exit(code)}); "
                f"`{sys.executable} -c 'import vmae_embed.workers.child'` may say why"
            )
        video, self._video = self._video, None
        self._start()
        if video is not None:
            if code == -signal.SIGALRM:
                limit = f"{self._config.timeout_s:g} s" if self._config.timeout_s else "the default limit"
                yield VideoFailed(
                    self.unit, self._failure(video, "timeout", f"took longer than {limit} (--video-timeout)")
                )
            else:
                reason = f"its decoding process died ({_describe_exit(code)})"
                yield VideoFailed(self.unit, self._failure(video, "worker", reason))

    def _failure(self, video: Video, stage: str, reason: str) -> Failure:
        seconds = time.monotonic() - self._since
        return Failure(video.id, video.path, stage, reason, round(seconds, 3), video.fingerprint)

    def close(self) -> None:
        """End the process: it sees the closed pipe, or is killed."""
        self.connection.close()
        if self._video is not None:
            self._process.kill()
        try:
            self._process.wait(_PARTING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
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


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
