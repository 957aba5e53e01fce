"""Time and memory of the main job: `lep-bench run --models all`, cold, then again with everything
cached.

    python benchmarks/run_all.py [--out DIR] [-- further arguments of lep-bench run]

Prints a table and writes benchmarks/results/run_all.json. Memory is the largest sum over the
process tree of resident pages that no other process shares plus a proportional part of the shared
ones (PSS), sampled five times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import psutil


def measure(command: list[str]) -> dict[str, float]:
    """Wall seconds, CPU seconds of the tree and peak memory (GiB) of one command; its output goes
    through.
    """
    begin = time.monotonic()
    before = os.times()
    process = psutil.Popen(command)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, _memory(process))
        time.sleep(0.2)
    after = os.times()
    cpu = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    return {
        "exit": process.returncode,
        "wall_s": time.monotonic() - begin,
        "cpu_s": cpu,
        "peak_gib": peak / 2**30,
    }


def _memory(process: psutil.Process) -> float:
    total = 0
    try:
        for member in [process, *process.children(recursive=True)]:
            total += member.memory_full_info().pss
    except psutil.Error:
        pass  # it ended while we looked
    return float(total)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("rest", nargs="*")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = given.out or Path(scratch) / "runs"
        command = [
            str(Path(sys.executable).parent / "lep-bench"),
            "run",
            "--models",
            "all",
            "--out",
            str(out),
            *given.rest,
        ]
        rows = {
            "cold": measure(command),
            "again": measure(command),
            "--help": measure([command[0], "--help"]),
        }
    print(f"\n{platform.machine()}, {len(os.sched_getaffinity(0))} cores")
    print(f"{'':8} {'exit':>4} {'wall s':>8} {'CPU s':>8} {'peak GiB':>9}")
    for name, row in rows.items():
        print(
            f"{name:8} {row['exit']:4d} {row['wall_s']:8.1f} {row['cpu_s']:8.1f} "
            f"{row['peak_gib']:9.2f}"
        )
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    record = {
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "command": "lep-bench run --models all",
        "rows": rows,
    }
    (results / "run_all.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
