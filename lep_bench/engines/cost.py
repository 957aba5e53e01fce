"""What a piece of work takes of the machine: the kind of device, and the most memory it held."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import torch

RESET, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def device_kind(device: str) -> str:
    """`cpu`, or the name of the GPU: numbers from two kinds of device differ in their last digits, and so do their timings."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") and torch.cuda.is_available() else device


def forget_peak(device: str) -> None:
    """From here on `peak` counts. Where the system cannot forget (not Linux), it counts from the start of the process."""
    if device.startswith("cuda") and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        RESET.write_text("5", encoding="ascii")  # resets VmHWM, see proc(5)


def peak(device: str) -> int:
    """Bytes: on a GPU the most that torch held there, else the most resident memory of this process."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated(device))
    try:
        line = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
