"""What a piece of work takes of the machine: the kind of device, and the most memory it held."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

RESET, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def _gpus(device: str) -> Any:
    """`torch.cuda` where `device` is one of its, else None."""
    if not device.startswith("cuda"):
        return None
    import torch  # not above: the parent of a run checks rows, and need not wait for torch

    return torch.cuda if torch.cuda.is_available() else None


def device_kind(device: str) -> str:
    """`cpu`, or the name of the GPU: numbers from two kinds of device differ in their last digits, and so do their timings."""
    gpus = _gpus(device)
    return str(gpus.get_device_name(device)) if gpus else device


def forget_peak(device: str) -> None:
    """From here on `peak` counts. Where the system cannot forget (not Linux), it counts from the start of the process."""
    if gpus := _gpus(device):
        gpus.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        RESET.write_text("5", encoding="ascii")  # resets VmHWM, see proc(5)


def peak(device: str) -> int:
    """Bytes: on a GPU the most that torch held there, else the most resident memory of this process."""
    if gpus := _gpus(device):
        return int(gpus.max_memory_allocated(device))
    try:
        line = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
