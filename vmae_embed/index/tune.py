"""Finding how much of an index must be looked at, by measuring it on the library's own vectors."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vmae_embed.index.ann import Effort, candidates
from vmae_embed.index.backend import Knn
from vmae_embed.index.similarity import exact_search, normalise, score

_QUERIES = 1000
# Of the library, that may be left out while it is measured.
_HELD_OUT = 0.1
_VIDEOS = 200
_CANDIDATES = (1, 2, 4, 8, 16, 32, 64)
_TIMED_SEARCHES = 64
# Of scores, relative: their float32.
_ROUNDING = 1e-6

# Relative costs of a search's parts, as measured on one core of an AVX2 machine (docs/benchmarks.md): a code that is
# scanned, a byte of it; a candidate that is fetched and compared with in full, a number of it; a centroid, a number.
_SCAN, _FETCH, _CENTROID = 0.06, 0.5, 0.06


@dataclass(frozen=True)
class Measured:
    """What was measured of an index.

    Attributes:
        recall: share of the true nearest that were found.
        error: standard error of that, as of so many videos and not of so many clips.
        queries: that it was measured on.
    """

    recall: float
    error: float
    queries: int


class Trial:
    """A search for some videos among all others, with the true answers.

    Queries that are in the index find themselves and their neighbours in time, which says little of
    queries that are not. So whole videos are left out.

    Attributes:
        queries: rows that are searched for.
    """

    def __init__(
        self,
        index: Any,
        vectors: NDArray[Any],
        live: NDArray[np.int64],
        videos: NDArray[np.int32],
        metric: str,
        at: int,
        seed: int,
        knn: Knn | None = None,
    ) -> None:
        """Choose the videos and find the true answers.

        Args:
            index: of FAISS, IVF.
            vectors: ``(N, D)``.
            live: ascending rows that the index holds.
            videos: of each of those, a number of its video.
            metric: one of `vmae_embed.index.spec.METRICS`.
            at: nearest that count.
            seed: of the choice.
            knn: as `vmae_embed.index.similarity.exact_search` takes it.
        """
        self._index, self._vectors, self._metric = index, vectors, metric
        held_out = hold_out(live, videos, seed)
        self.queries = np.random.default_rng(seed).permutation(held_out)[:_QUERIES]
        self._videos = videos[np.searchsorted(live, self.queries)]
        self._rest = np.setdiff1d(live, held_out, assume_unique=True)
        self._at = min(at, len(self._rest))
        # Of as many candidates, a neighbour is among fewer while videos are left out: count as many fewer.
        self._share = len(self._rest) / len(live)
        asked = np.asarray(vectors[self.queries], dtype=np.float32)
        self._asked = np.ascontiguousarray(normalise(asked) if metric == "cosine" else asked, dtype=np.float32)
        # As many again, for those that are as near as the last that counts.
        scores, rows = exact_search(vectors, asked, 2 * self._at, metric, self._rest, knn)
        self._floor = scores[:, self._at - 1 : self._at]
        self._truth = np.where(scores >= self._floor, rows, -1)
        # Of clips that occur many times, any are as near: those are told by their scores.
        self._tied = scores[:, -1] >= self._floor[:, 0]
        self._found: dict[int, NDArray[np.int64]] = {}

    def measure(self, effort: Effort) -> Measured:
        """Measure the recall of an effort."""
        shares = self._shares(effort)
        recall = float(shares.mean())
        # Of whole videos: their clips do as well as each other.
        missed = np.bincount(self._videos, weights=shares - recall)
        return Measured(recall, float(np.sqrt(np.square(missed).sum()) / len(shares)), len(shares))

    def _shares(self, effort: Effort) -> NDArray[np.float64]:
        places = self._places(effort.nprobe)
        found = (places < effort.candidates * self._at * self._share).sum(axis=1)
        shares: NDArray[np.float64] = np.minimum(found, self._at) / self._at
        return shares

    def _places(self, nprobe: int) -> NDArray[np.int64]:
        """Where among the candidates each true neighbour comes; what is among them will be ranked exactly."""
        if nprobe not in self._found:
            most = min(_CANDIDATES[-1] * self._at, self._index.ntotal)
            rows = candidates(self._index, self._asked, most, nprobe, self._rest)
            places = np.full(self._truth.shape, np.iinfo(np.int64).max)
            for query, (place, truth, found) in enumerate(zip(places, self._truth, rows, strict=True)):
                if self._tied[query]:
                    near = self._as_near(query, found[found >= 0])[: len(place)]
                    place[: len(near)] = near
                    continue
                _, mine, theirs = np.intersect1d(truth, found[found >= 0], return_indices=True)
                place[mine] = theirs
            self._found[nprobe] = places
        return self._found[nprobe]

    def _as_near(self, query: int, found: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where among some rows those come that are as near to a query as the last that counts."""
        asked = self._asked[query : query + 1].astype(np.float64)
        scores = score(asked, self._vectors[found][None], self._metric)[0]
        floor = float(self._floor[query, 0])
        return np.flatnonzero(scores >= floor - _ROUNDING * abs(floor))

    def tune(self, target: float) -> tuple[Effort, Measured]:
        """Find the least effort that reaches a recall with a margin of a standard error, or the most there is.

        Costs are reckoned, not timed: the same library gives the same effort.
        """
        best: tuple[float, Effort, Measured] | None = None
        most = Effort(self._index.nlist, _CANDIDATES[-1])
        if self.measure(most).recall < target:  # the codes cannot tell neighbours apart
            return most, self.measure(most)
        for nprobe in _steps(self._index.nlist):
            if best is not None and self._cost(Effort(nprobe, 1)) > best[0]:
                break
            for count in _CANDIDATES:
                effort = Effort(nprobe, count)
                measured = self.measure(effort)
                if measured.recall - measured.error >= target or measured.recall == 1:
                    if best is None or self._cost(effort) < best[0]:
                        best = self._cost(effort), effort, measured
                    break
        return (best[1], best[2]) if best else (most, self.measure(most))

    def most_within(self, effort: Effort, share: float) -> tuple[Effort, Measured]:
        """Find what reaches the highest recall at a share of an effort's cost; the least effort if nothing does."""
        allowed = share * self._cost(effort)
        best = Effort(1, 1), self.measure(Effort(1, 1))
        for nprobe in _steps(self._index.nlist):
            affordable = [count for count in _CANDIDATES if self._cost(Effort(nprobe, count)) <= allowed]
            if not affordable:
                break
            tried = Effort(nprobe, affordable[-1])
            measured = self.measure(tried)
            if measured.recall > best[1].recall:
                best = tried, measured
        return best

    def _cost(self, effort: Effort) -> float:
        index = self._index
        scanned: float = effort.nprobe / index.nlist * index.ntotal * index.code_size * _SCAN
        fetched: float = effort.candidates * self._at * index.d * _FETCH
        return scanned + fetched + float(index.nlist * index.d * _CENTROID)


def time_searches(search_one: Any, queries: NDArray[np.floating[Any]]) -> dict[str, float]:
    """Milliseconds of single searches: median and 99th percentile.

    Args:
        search_one: takes ``(1, D)``.
        queries: ``(Q, D)`` to time with.
    """
    few = queries[np.arange(_TIMED_SEARCHES) % len(queries)]
    for query in few[:4]:
        search_one(query[None])
    taken = []
    for query in few:
        begun = time.perf_counter()
        search_one(query[None])
        taken.append(1000 * (time.perf_counter() - begun))
    return {"p50": float(np.percentile(taken, 50)), "p99": float(np.percentile(taken, 99))}


def _steps(nlist: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12 .. up to all cells."""
    doubling = [2**power for power in range(nlist.bit_length())]
    between = [3 * 2**power for power in range(nlist.bit_length())]
    return sorted({n for n in [*doubling, *between] if n < nlist} | {nlist})


def hold_out(live: NDArray[np.int64], videos: NDArray[np.int32], seed: int) -> NDArray[np.int64]:
    """Rows of whole videos to leave out, chosen at random: a tenth of all at most; single clips where videos are large.

    Args:
        live: ascending rows.
        videos: of each of those, a number of its video.
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    allowed = max(int(_HELD_OUT * len(live)), 1)
    sizes = np.bincount(videos)
    order = rng.permutation(len(sizes))
    order = order[sizes[order] <= max(allowed // 8, 1)]
    total = np.cumsum(sizes[order])
    # Many videos, for the clips of one are alike; and no more than that takes.
    enough = (total >= 2 * _QUERIES) & (np.arange(len(order)) + 1 >= _VIDEOS)
    most = int(enough.argmax()) + 1 if enough.any() else len(order)
    held_out = live[np.isin(videos, order[:most][total[:most] <= allowed])]
    wanted = min(_QUERIES // 4, allowed)
    if len(held_out) < wanted:
        others = np.setdiff1d(live, held_out, assume_unique=True)
        held_out = np.concatenate([held_out, rng.permutation(others)[: wanted - len(held_out)]])
    return np.sort(held_out)
