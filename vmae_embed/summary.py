"""What a run did, where its time went, and what held it back."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from vmae_embed.library import Library
from vmae_embed.pipeline import Progress, StageTimes
from vmae_embed.records import Failure

# A stage that is busy for more of the time than this, while the encoder waits for less or more than that, is
# what holds a run back. Of shorter runs, the start of processes says more than any stage.
_BUSY, _IDLE = 0.5, 0.25
_TOO_SHORT_S = 2.0


@dataclass(frozen=True)
class Setup:
    """How a run was set up.

    Attributes:
        devices: that the encoder runs on.
        workers: decoding processes, of all devices together.
        decoder: one of `vmae_embed.decode.DECODERS`.
        dtype: of the forward pass.
        batch_size: clips in one forward pass.
        compiled: whether the encoder is.
    """

    devices: tuple[str, ...]
    workers: int
    decoder: str
    dtype: str
    batch_size: int
    compiled: bool


@dataclass
class Summary:
    """What a run did.

    Attributes:
        library: that it wrote to.
        begun: when it began, by `time.monotonic`.
        setup: how it was set up; None if there was nothing to extract.
        videos: extracted or failed in this run.
        clips: added.
        held: videos that needed nothing.
        failures: of this run.
        known_failures: videos that failed in earlier runs and were not tried again.
        vanished: videos in the library that no source lists any more.
        pruned: of them, removed.
        updated: held videos whose path or carried columns are listed otherwise now.
        ignored: files in folders that are no videos by their suffix, counted by suffix.
        seconds: wall time.
        extracting_s: of it, from the start of the first unit on.
        times: of the stages, over ``extracting_s``.
    """

    library: Library
    begun: float
    setup: Setup | None = None
    videos: int = 0
    clips: int = 0
    held: int = 0
    failures: list[Failure] = field(default_factory=list)
    known_failures: int = 0
    vanished: int = 0
    pruned: int = 0
    updated: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    extracting_s: float = 0.0
    times: StageTimes = field(default_factory=StageTimes)
    _started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    _extracting_since: float | None = None

    def begin(self, setup: Setup) -> None:
        """Extraction begins."""
        self.setup = setup
        self._extracting_since = time.monotonic()

    def add(self, progress: Progress) -> None:
        """Count what happened."""
        self.clips += progress.committed
        self.videos += progress.videos
        self.failures += progress.failures
        self.times += progress.times

    def end(self) -> None:
        """The run is over."""
        self.seconds = time.monotonic() - self.begun
        if self._extracting_since is not None:
            self.extracting_s = time.monotonic() - self._extracting_since

    def shares(self) -> dict[str, float]:
        """Share of the time that each stage was busy, from 0 to 1; the stages run beside each other."""
        if self.setup is None or not self.extracting_s:
            return {}
        times, wall = self.times, self.extracting_s
        devices, workers = len(self.setup.devices) * wall, self.setup.workers * wall
        return {
            "decoding": times.decode_s / workers,
            "transfer": times.transfer_s / devices,
            "encoding": times.encode_s / devices,
            "writing": times.write_s / devices,
            "decoders waiting": times.blocked_s / workers,
            "encoder waiting": times.starved_s / devices,
        }

    def bound(self) -> str | None:
        """The one thing that held the run back, and what may help; None if nothing ran for long enough to tell."""
        shares = self.shares()
        if not shares or self.setup is None or self.extracting_s < _TOO_SHORT_S:
            return None
        fewer = "or fewer clips (--hop, --clips-per-video)"
        if shares["writing"] >= _BUSY:
            return "write-bound: a faster disk"
        if shares["decoding"] >= _BUSY and shares["encoder waiting"] >= _IDLE:
            processes = f"{self.setup.workers} decoding process{'' if self.setup.workers == 1 else 'es'}"
            return f"decode-bound by {processes}: more of them (--workers, on more processors), {fewer}"
        if shares["encoding"] >= _BUSY and shares["encoder waiting"] < _IDLE:
            if all(device.startswith("cpu") for device in self.setup.devices):
                faster = "a GPU" + (", --dtype float32" if self.setup.dtype == "float16" else "")
            else:
                faster = "more devices (--devices 0,1,..)"
                faster += ", --dtype bfloat16" if self.setup.dtype == "float32" else ""
            return f"encode-bound: {faster}, {fewer}"
        return None

    def to_log(self, ended: str | None) -> dict[str, Any]:
        """Return the run's entry in ``library.json``.

        Args:
            ended: ``done``, ``interrupted``, or the error; None while it runs.
        """
        entry: dict[str, Any] = {"started": self._started, "ended": ended}
        if self.setup is not None:
            entry |= asdict(self.setup)
        if ended is not None:
            entry |= {
                "seconds": round(self.seconds, 3),
                "videos": self.videos,
                "clips": self.clips,
                "failures": dict(Counter(failure.stage for failure in self.failures)),
                "clips_per_s": round(self.clips / self.extracting_s, 3) if self.extracting_s else 0.0,
                "shares": {name: round(share, 4) for name, share in self.shares().items()},
                "bound": self.bound(),
            }
        return entry
