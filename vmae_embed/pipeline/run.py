"""One device's work: units in, shards out.

Three threads, each a stage that waits only on its neighbours: one takes clips from the decoding
processes and fills batches, one runs the encoder, one writes shards. A batch holds consecutive
clips of one unit, so a unit's vectors do not depend on what ran beside it.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from queue import SimpleQueue
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vmae_embed.classifier import Classifier
from vmae_embed.library import Library
from vmae_embed.pipeline.channel import Channel, Closed
from vmae_embed.pipeline.progress import Progress, StageTimes
from vmae_embed.pipeline.unit import Batch, UnitRows, VideoRows
from vmae_embed.plan import Unit
from vmae_embed.workers import (
    ClipDecoded,
    DecodePool,
    Event,
    UnitDone,
    VideoDone,
    VideoFailed,
    VideoStarted,
    WorkerConfig,
)

# Clips of shared memory for each decoding process: one being written, the others in the pipe.
SLOTS = 4

# Whole batches that may wait for the encoder: it never waits for a copy, and memory stays small.
_BATCHES_AHEAD = 2

# Batches beside those that decoding processes fill: these, and two at the encoder.
SPARE_BATCHES = _BATCHES_AHEAD + 2


class Pending(Protocol):
    """Embeddings on their way."""

    def result(self) -> NDArray[np.float32]:
        """``(B, D)`` float32; with tokens ``(B, 1 + N, D)``."""
        ...


class ClipEncoder(Protocol):
    """What the pipeline needs of an encoder."""

    batch_size: int
    width: int

    def empty_batch(self) -> NDArray[np.uint8]:
        """Memory for ``(batch_size, T, H, W, 3)`` uint8."""
        ...

    def submit(self, frames: NDArray[np.uint8], *, with_tokens: bool = ...) -> Pending:
        """Begin with ``(B, T, H, W, 3)`` uint8, which stay as they are until the result is there.

        Tokens are asked for only where the library stores them.
        """
        ...

    def classifier(self) -> Classifier:
        """The head that takes its embeddings; asked for only where the library has labels."""
        ...


def run_units(
    units: Iterable[Unit], encoder: ClipEncoder, library: Library, config: WorkerConfig, *, workers: int
) -> Generator[Progress, None, None]:
    """Extract units into a library, each committed as soon as it is complete.

    Args:
        units: to extract; asked for the next one in a thread of its own.
        encoder: whose embeddings the library holds.
        library: locked by the caller.
        config: of the decoding processes.
        workers: how many of them.

    Yields:
        What happened, as it happens.

    Raises:
        LibraryError: a shard cannot be written.
        VmaeEmbedError: no decoding process can be started.
    """
    with DecodePool(config, workers) as pool:
        stages = _Stages(units, encoder, library, pool, workers)
        try:
            yield from stages.progress()
        finally:
            stages.stop()


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Let no second Ctrl-C cut short what the first one began; only the main thread ever hears one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)  # None where C code had set it


class _Stages:
    def __init__(
        self, units: Iterable[Unit], encoder: ClipEncoder, library: Library, pool: DecodePool, workers: int
    ) -> None:
        self._units, self._encoder, self._library, self._pool = units, encoder, library, pool
        self._submit = encoder.submit if library.token_shape is None else partial(encoder.submit, with_tokens=True)
        self._classifier = encoder.classifier() if library.config.classifier is not None else None
        # Each unit in flight may hold a batch that is not full: with fewer, all might wait for each other.
        buffers = workers + SPARE_BATCHES
        self._free: Channel[NDArray[np.uint8] | None] = Channel(buffers, [None] * buffers)
        self._to_encode: Channel[Batch | None] = Channel(_BATCHES_AHEAD)
        self._to_write: Channel[UnitRows | None] = Channel(_BATCHES_AHEAD)
        self._transfer_s = 0.0
        self._said: SimpleQueue[Progress | BaseException | None] = SimpleQueue()
        stages = (self._feed, self._encode, self._write)
        self._threads = [threading.Thread(target=self._run, args=(stage,), daemon=True) for stage in stages]
        for thread in self._threads:
            thread.start()

    def progress(self) -> Generator[Progress, None, None]:
        """Say what happens until all is written; raise what a stage raises."""
        while (said := self._said.get()) is not None:
            if isinstance(said, BaseException):
                raise said
            yield said

    def stop(self) -> None:
        """End the stages, wherever they are; a batch or a shard that has been begun is finished."""
        with _deaf_to_ctrl_c():
            self._pool.stop()
            for channel in (self._free, self._to_encode, self._to_write):
                channel.close()
            for thread in self._threads:
                thread.join()

    def _run(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except Closed:
            pass
        except BaseException as error:  # the main thread raises it
            self._said.put(error)

    # First stage: clips to batches ---------------------------------------------------------------

    def _feed(self) -> None:
        filling: dict[str, UnitRows] = {}
        for event in self._pool.decode((unit.name, unit.videos) for unit in self._units):
            if event.unit not in filling:
                filling[event.unit] = UnitRows(event.unit, self._library.spool_tokens(event.unit))
            unit = filling[event.unit]
            self._take(unit, event)
            if isinstance(event, UnitDone):
                last = unit.close_batch()
                last.is_last = True
                self._to_encode.put(last)
                del filling[event.unit]
        self._to_encode.put(None)

    def _take(self, unit: UnitRows, event: Event) -> None:
        if isinstance(event, VideoStarted):
            unit.current = VideoRows(event.video, event.timeline)
        elif isinstance(event, ClipDecoded):
            self._add(unit, event)
        elif isinstance(event, VideoDone):
            assert unit.current is not None
            unit.finished.append(unit.current)
            self._close(unit, event)
        elif isinstance(event, VideoFailed):
            unit.failures.append(event.failure)
            self._close(unit, event)

    def _add(self, unit: UnitRows, clip: ClipDecoded) -> None:
        rows = unit.current
        assert rows is not None
        if unit.batch is None:
            free = self._free.get()
            unit.batch = Batch(unit, self._encoder.empty_batch() if free is None else free)
        begun = time.monotonic()
        batch = unit.batch
        batch.frames[len(batch.owners)] = clip.frames
        self._transfer_s += time.monotonic() - begun
        batch.owners.append(rows)
        rows.spans.append(clip.span)
        if len(batch.owners) == len(batch.frames):
            unit.cover(round(clip.video.size * rows.share_decoded()))
            self._to_encode.put(unit.close_batch())

    def _close(self, unit: UnitRows, event: VideoDone | VideoFailed) -> None:
        unit.cover(event.video.size)
        unit.covered = 0
        times = StageTimes(event.usage.work_s, event.usage.wait_s, self._transfer_s)
        self._transfer_s = 0.0
        self._said.put(Progress(times=times))

    # Second stage: batches to embeddings ---------------------------------------------------------

    def _encode(self) -> None:
        ahead: tuple[Batch, Pending | None] | None = None
        while True:
            if ahead is not None and not len(self._to_encode):
                self._finish(*ahead)
                ahead = None
            begun = time.monotonic()
            batch = self._to_encode.get()
            taken = time.monotonic()
            # With one batch submitted before the last is waited for, the device never waits for us.
            clips = len(batch.owners) if batch is not None else 0
            pending = self._submit(batch.frames[:clips]) if batch is not None and clips else None
            times = StageTimes(starved_s=taken - begun, encode_s=time.monotonic() - taken)
            self._said.put(Progress(times=times))
            if ahead is not None:
                self._finish(*ahead)
            if batch is None:
                self._to_write.put(None)
                return
            ahead = batch, pending

    def _finish(self, batch: Batch, pending: Pending | None) -> None:
        times = StageTimes()
        if pending is not None:
            begun = time.monotonic()
            encoded = pending.result()
            taken = time.monotonic()
            batch.unit.take(batch.owners, encoded)
            times = StageTimes(encode_s=taken - begun, write_s=time.monotonic() - taken)
            self._free.put(batch.frames)
        self._said.put(Progress(embedded=len(batch.owners), bytes=batch.bytes, times=times))
        if batch.is_last:
            self._to_write.put(batch.unit)

    # Third stage: units to shards ----------------------------------------------------------------

    def _write(self) -> None:
        while (unit := self._to_write.get()) is not None:
            begun = time.monotonic()
            clips = unit.commit(self._library, self._classifier)
            times = StageTimes(write_s=time.monotonic() - begun)
            videos, failures = len(unit.finished) + len(unit.failures), tuple(unit.failures)
            self._said.put(Progress(committed=clips, videos=videos, failures=failures, times=times))
        self._said.put(None)
