"""Time the linear probe on a Kinetics-sized job, beside scikit-learn on a part of it.

    python scripts/bench_probe.py [--rows 240000] [--width 768] [--classes 400] [--part 24000]

Features are generated: classes overlap and features are correlated, as embeddings are. Each fit runs in
a process of its own, whose peak memory is said; scikit-learn's time on all rows is an estimate, in
proportion to rows, which flatters it where it needs more iterations.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

STRENGTHS = (1000.0, 100.0, 10.0, 1.0)


def features(rows: int, width: int, classes: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """``(B, D)`` float32 and ``(B,)``: a centre for each class and noise, mixed so that features are correlated."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(width, width)) * (np.arange(1, width + 1) ** -0.5)[:, None] / width**0.5
    centres = rng.normal(size=(classes, width)).astype(np.float32)
    y = rng.integers(0, classes, rows)
    x = np.empty((rows, width), dtype=np.float32)
    for start in range(0, rows, 10_000):
        part = y[start : start + 10_000]
        x[start : start + 10_000] = (centres[part] + 4 * rng.normal(size=(len(part), width))) @ mixing
    return x, y


def run(what: str, rows: int, width: int, classes: int) -> dict[str, Any]:
    x, y = features(rows, width, classes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    if what == "sklearn":
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        x = StandardScaler().fit_transform(x)
        fitted = LogisticRegression(C=1 / STRENGTHS[1], max_iter=1000).fit(x, y)
        said = {"iterations": int(fitted.n_iter_.max())}
    else:
        from vmae_embed.probes import LinearProbe

        probe = LinearProbe(l2=STRENGTHS if what == "grid" else STRENGTHS[1]).fit(x, y)
        said = {"iterations": probe.n_iter_, "l2": probe.l2_, "validation": probe.validation_}
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "what": what,
        "rows": rows,
        "seconds": seconds,
        "peak_mb": peak / 1024,
        "features_mb": before / 1024,
        **said,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=240_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--classes", type=int, default=400)
    parser.add_argument("--part", type=int, default=24_000, help="rows for the comparison")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(run(given.only, given.rows, given.width, given.classes)))
        return
    for what, rows in (("one", given.part), ("sklearn", given.part), ("one", given.rows), ("grid", given.rows)):
        command = [sys.executable, __file__, "--only", what, "--rows", str(rows)]
        command += ["--width", str(given.width), "--classes", str(given.classes)]
        made = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(made.strip(), flush=True)


if __name__ == "__main__":
    main()
