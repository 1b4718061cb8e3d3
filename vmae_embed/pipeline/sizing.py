"""How many decoding processes this machine can feed."""

from __future__ import annotations

import math
import os
from pathlib import Path

from vmae_embed.pipeline.run import SPARE_BATCHES

# A core decodes 10 to 30 clips of 720p a second, or 50 to 130 of 240p (docs/benchmarks.md).
_MOST_A_DEVICE = 64

# Each process fills a batch of its own; all of these together may take a quarter of the memory.
_SHARE_FOR_BATCHES = 4


def decoding_processes(units: int, devices: int, batch_bytes: int, *, asked: int | None) -> int:
    """Share out decoding processes.

    Args:
        units: to extract; a process works on one at a time.
        devices: that are fed.
        batch_bytes: of one batch of clips.
        asked: processes that the user wants, of all devices together; None for one a processor.

    Returns:
        Processes for each device, at least 1.
    """
    wanted = asked or min(_processors(), _MOST_A_DEVICE * devices)
    batches = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _SHARE_FOR_BATCHES // batch_bytes
    return max(min(min(wanted, units) // devices, batches // devices - SPARE_BATCHES), 1)


def _processors() -> int:
    """How many this process may use, by affinity and by a container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(min(allowed, math.ceil(int(quota) / int(period))), 1)
    except (OSError, ValueError):  # no such file, or "max": no quota
        return allowed
