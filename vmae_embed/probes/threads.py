"""How many cores a fit takes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let torch use so many threads for each product; None for as many as it would.

    Threads that share small products wait for each other after each. Where the cores are shared too,
    each wait lasts until the scheduler has come round: 2026-11-21, 2 cores beside other work, fits
    of some hundred clips took 13 s with one thread and minutes with two; on idle cores 8 and 11 s.
    """
    import torch

    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        # It counts for the thread that calls it, and for threads that have yet to begin.
        torch.set_num_threads(before)
