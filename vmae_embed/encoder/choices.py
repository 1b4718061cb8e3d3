"""What a caller can choose: pooling, device and precision, checked before anything is loaded."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from vmae_embed.errors import UsageError

if TYPE_CHECKING:
    import torch

POOLINGS = ("mean", "first-token")
DTYPES = ("float32", "bfloat16", "float16")


def check_pooling(pooling: str, *, warn: bool = True) -> str:
    """Return one of `POOLINGS`; ``"cls"`` means the first token, and warns.

    Raises:
        UsageError: no such pooling.
    """
    if pooling == "cls":
        if warn:
            warnings.warn(
                "VideoMAE has no CLS token; pooling 'cls' takes the first token, which is the top-left patch "
                "of the first two frames (say 'first-token' to mean that)",
                stacklevel=2,
            )
        return "first-token"
    if pooling not in POOLINGS:
        raise UsageError(f"pooling={pooling!r}: choose one of {', '.join(POOLINGS)} (or cls for first-token)")
    return pooling


def check_device(device: str | torch.device | None) -> torch.device:
    """Return the device; None takes a GPU where there is one.

    Raises:
        UsageError: this machine, or this build of torch, does not have it.
    """
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"(cpu|cuda|mps|xpu)(:\d+)?", str(device)):
        raise UsageError(f"device={str(device)!r}: give cpu, cuda, cuda:1, ...")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"device={str(device)!r}: not to be had here ({reason}); cpu always is") from error
    return chosen


def check_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return the precision of the matrix products; None takes bfloat16 where the hardware has it.

    Raises:
        UsageError: none of `DTYPES`.
    """
    import torch

    if dtype is None:
        return torch.bfloat16 if _has_bfloat16(device) else torch.float32
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise UsageError(f"dtype={name!r}: choose one of {', '.join(DTYPES)}")
    chosen: torch.dtype = getattr(torch, name)
    return chosen


def _has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 runs in hardware; elsewhere torch emulates it, slower than float32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and not _cpu_flags().isdisjoint({"avx512_bf16", "amx_bf16"})
    )


def _cpu_flags() -> frozenset[str]:
    """What Linux says that an x86 processor can do; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())
