"""What is asked of an index, and which layouts of FAISS can give it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vmae_embed.errors import UsageError

METRICS = ("cosine", "ip", "l2")
FACTORIES = ("auto", "exact", "ivfpq")

# Up to here an exact search of 768 numbers a vector takes single milliseconds, and thousands a second in batches.
EXACT_BELOW = 20_000

# FAISS asks for 39 training vectors a cell or centroid (ClusteringParameters::min_points_per_centroid).
TRAINING_A_CELL = 39
# FAISS takes a graph over that many centroids and more for faster than comparing with each.
_FLAT_CENTROIDS = 16_384

_FACTORY = re.compile(
    r"IVF(?P<nlist>\d+)(?:_HNSW(?P<links>\d+))?,"
    r"(?P<code>PQ(?P<parts>\d+)(?:x(?P<bits>\d+)(?:fsr?)?)?|SQ(?:8|6|4|fp16)|Flat|RaBitQ(?:fs)?)"
)


@dataclass(frozen=True)
class IndexSpec:
    """What a user asks of an index.

    Attributes:
        factory: ``auto``, ``exact``, ``ivfpq``, or FAISS's description of an IVF index
            (``IVF4096,PQ192x4fsr``).
        target_recall: share of the true nearest that a search should find, above 0 and at most 1.
        at: of how many nearest.
        memory: bytes that the index may take while it is searched; None for any.
        latency_ms: milliseconds that a single search may take in the median; None for any.
        metric: ``cosine``, ``ip`` (inner product) or ``l2`` (Euclidean distance).
        nlist: cells; None chooses.
        train_size: vectors to train on; None chooses.
        seed: of sampling and clustering.
    """

    factory: str = "auto"
    target_recall: float = 0.95
    at: int = 10
    memory: int | None = None
    latency_ms: float | None = None
    metric: str = "cosine"
    nlist: int | None = None
    train_size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what can be checked without the vectors.

        Raises:
            UsageError: a value that is out of range.
        """
        if self.factory not in FACTORIES:
            parse_factory(self.factory)
            if self.nlist is not None:
                raise UsageError(f"factory={self.factory!r} states its cells: give no --nlist beside it")
        if self.factory == "exact" and self.nlist is not None:
            raise UsageError("an exact index has no cells: give no --nlist, or --factory ivfpq")
        if self.metric not in METRICS:
            raise UsageError(f"metric={self.metric!r}: choose one of {', '.join(METRICS)}")
        if not 0 < self.target_recall <= 1:
            raise UsageError(f"target-recall={self.target_recall:g}: give a share above 0, at most 1")
        limits = {"at": self.at, "nlist": self.nlist, "train-size": self.train_size, "memory": self.memory}
        for name, value in limits.items():
            if value is not None and value < 1:
                raise UsageError(f"{name}={value}: give at least 1")
        if self.latency_ms is not None and not self.latency_ms > 0:
            raise UsageError(f"latency-ms={self.latency_ms:g}: give milliseconds above 0")
        if not 0 <= self.seed < 2**31:
            raise UsageError(f"seed={self.seed}: give 0 or above, below 2^31")

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> IndexSpec:
        """Read back what `to_dict` gave; any of KeyError, TypeError, UsageError if it is not that."""
        return cls(**fields)

    def builds_as(self, other: IndexSpec) -> bool:
        """Whether an index built for the other can be tuned to this one without building it anew."""
        tuned = {"target_recall", "at", "latency_ms"}
        ours, theirs = self.to_dict(), other.to_dict()
        return all(ours[name] == theirs[name] for name in ours if name not in tuned)


@dataclass(frozen=True)
class Layout:
    """An IVF index of FAISS: cells, and the code of each vector in them.

    Attributes:
        nlist: cells.
        code: FAISS's word for the code.
        links: of the graph over the centroids; 0 compares with each.
    """

    nlist: int
    code: str
    links: int = 0

    @property
    def factory(self) -> str:
        """FAISS's description."""
        return f"IVF{self.nlist}{f'_HNSW{self.links}' if self.links else ''},{self.code}"

    def ram_bytes(self, count: int, width: int) -> int:
        """Bytes that FAISS holds while it searches: codes, ids, centroids."""
        return count * (self._code_bytes(width) + 8) + self.nlist * (4 * width + 8 * self.links)

    def training(self) -> int:
        """Vectors that training takes at least."""
        parts, bits = self._product()
        return max(TRAINING_A_CELL * self.nlist, TRAINING_A_CELL * 2**bits if parts else 1)

    def check(self, count: int, width: int, train_size: int | None) -> None:
        """Refuse what these vectors cannot train.

        Raises:
            UsageError: naming what is wrong and what can be had.
        """
        parts, bits = self._product()
        if parts and bits not in (4, 8):
            raise UsageError(f"{self.code} has codes of {bits} bits; use 8 (PQ{parts}) or 4 (PQ{parts}x4fsr)")
        if parts and width % parts:
            fits = max(n for n in range(1, parts + 1) if width % n == 0)
            raise UsageError(
                f"{self.code} cuts vectors into {parts} parts; their {width} numbers are no multiple of that. "
                f"Use PQ{fits}, or --factory auto"
            )
        held = f"the library holds {count:,}"
        if train_size is not None and train_size < count:
            count, held = train_size, f"--train-size gives {train_size:,}"
        most = count // TRAINING_A_CELL
        if self.nlist > most:
            raise UsageError(
                f"nlist={self.nlist} needs at least {TRAINING_A_CELL * self.nlist:,} training vectors "
                f"({TRAINING_A_CELL} a cell); {held}. Use --nlist {max(most, 1)} or fewer, or --factory auto"
            )
        if self.training() > count:
            raise UsageError(
                f"{self.code} needs at least {self.training():,} training vectors for its codes; "
                f"{held}. Use --factory auto"
            )

    def _product(self) -> tuple[int, int]:
        """Parts and bits of a product quantizer; 0 and 0 if it is none."""
        match = re.fullmatch(r"PQ(\d+)(?:x(\d+)(?:fsr?)?)?", self.code)
        return (int(match[1]), int(match[2] or 8)) if match else (0, 0)

    def _code_bytes(self, width: int) -> int:
        parts, bits = self._product()
        if parts:
            return math.ceil(parts * bits / 8)
        by_number = {"SQ8": 8, "SQ6": 6, "SQ4": 4, "SQfp16": 16, "Flat": 32}
        if self.code in by_number:
            return math.ceil(width * by_number[self.code] / 8)
        return math.ceil(width / 8) + 8  # RaBitQ: a bit a number, and two factors


def parse_factory(text: str) -> Layout | None:
    """Read FAISS's description of an index; None for an exact one.

    Raises:
        UsageError: it is none, or of a kind that cannot follow a library.
    """
    if text in ("exact", "Flat"):
        return None
    match = _FACTORY.fullmatch(text.replace(" ", ""))
    if match is None or int(match["nlist"]) < 1 or match["parts"] == "0":
        raise UsageError(
            f"factory={text!r}: give auto, exact, ivfpq, or a bare IVF index with PQ, SQ, Flat or RaBitQ codes, "
            "such as IVF4096,PQ192x4fsr; others (HNSW, OPQ, IDMap, Refine) cannot remove clips, or answer wrongly then"
        )
    return Layout(int(match["nlist"]), match["code"], int(match["links"] or 0))


def plan_layouts(spec: IndexSpec, count: int, width: int) -> list[Layout | None]:
    """Say what to try, the best first; None stands for an exact index.

    Args:
        spec: what is asked for.
        count: N vectors.
        width: D numbers each.

    Raises:
        UsageError: what is asked for cannot be had with these vectors; nothing has been trained yet.
    """
    if spec.factory not in ("auto", "ivfpq"):
        layout = parse_factory(spec.factory)
        if layout is not None:
            layout.check(count, width, spec.train_size)
        return _within_memory(spec, [layout], count, width)
    nlist = spec.nlist or _choose_nlist(min(count, spec.train_size or count))
    links = 32 if nlist > _FLAT_CENTROIDS else 0
    # 4-bit codes of the residuals, for FAISS's SIMD scan: of 4 numbers each, of more where memory is short.
    codes = [f"PQ{parts}x4fsr" for parts in _parts(width)]
    product = [Layout(nlist, code, links) for code in codes[: None if spec.memory else 1]]
    trainable = count >= product[0].training() and (spec.train_size or count) >= product[0].training()
    if spec.factory == "ivfpq" or spec.nlist is not None:
        product[0].check(count, width, spec.train_size)
        return _within_memory(spec, product, count, width)[:1]
    if not trainable:
        return _within_memory(spec, [None], count, width)
    if count < EXACT_BELOW:
        return _within_memory(spec, [None, *product], count, width)
    # Where product codes cannot tell neighbours apart, a byte a number mostly can.
    return _within_memory(spec, [*product, Layout(nlist, "SQ8", links), None], count, width)


def _within_memory(spec: IndexSpec, layouts: Sequence[Layout | None], count: int, width: int) -> list[Layout | None]:
    if spec.memory is None:
        return list(layouts)
    # An exact search is fast while the vectors stay in memory.
    needs = [layout.ram_bytes(count, width) if layout else 4 * count * width for layout in layouts]
    fits = [layout for layout, need in zip(layouts, needs, strict=True) if need <= spec.memory]
    if not fits:
        name = "the smallest index" if spec.factory == "auto" else spec.factory
        raise UsageError(
            f"memory={spec.memory:,} bytes: {name} takes {min(needs):,} for {count:,} vectors of {width} numbers. "
            f"Use --memory {math.ceil(min(needs) / 2**20)}M"
        )
    return fits


def _choose_nlist(count: int) -> int:
    """A power of two near 4 sqrt(N), as FAISS's guidelines have it, that N vectors can train."""
    most = max(min(4 * count**0.5, count / TRAINING_A_CELL), 1)
    return int(2 ** int(math.log2(most)))


def _parts(width: int) -> list[int]:
    """Numbers of parts that divide the width: about 4 numbers each, then 8, 16 and 32."""
    wanted = [max(width // numbers, 1) for numbers in (4, 8, 16, 32)]
    parts = [next(n for n in range(most, 0, -1) if width % n == 0) for most in wanted]
    return list(dict.fromkeys(parts))
