"""The checkpoints that a plan reads, and fetching those that are not here before the work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from lep_bench import hub
from lep_bench.config.models import NamedCheckpoint
from lep_bench.errors import CheckpointError
from lep_bench.files import format_size
from lep_bench.pipeline.plan import Plan

BYTES = 2  # per parameter: published checkpoints are bfloat16 or float16


def list_read(plan: Plan, named: Iterable[NamedCheckpoint]) -> dict[str, NamedCheckpoint]:
    """By reference, what the plan's nodes read: with all that the configs know about it (`named`),
    else only its location.
    """
    known = {hub.format_reference(c.location, c.revision): c for c in named}
    read = {reference for node in plan.nodes.values() for reference in plan.reads(node)}
    given = {
        reference: NamedCheckpoint("", *hub.parse_reference(reference))
        for reference in sorted(read - known.keys())
    }
    return {reference: c for reference, c in (known | given).items() if reference in read}


def fetch_checkpoints(checkpoints: dict[str, NamedCheckpoint]) -> tuple[int, dict[str, str]]:
    """Fetch what is not here. Returns how many were fetched, and for what cannot be had, or would
    not fit on the disk with the rest: reference -> why, in one line.
    """
    wanted = {
        reference: c
        for reference, c in checkpoints.items()
        if hub.find_cached(c.location, c.revision) is None
    }
    need, folder = sum(c.parameters or 0 for c in wanted.values()) * BYTES, cache_folder()
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    missing: dict[str, str] = {}
    reachable = True
    for reference, c in wanted.items():
        try:
            # offline nothing is fetched
            if need > free and os.environ.get("HF_HUB_OFFLINE") != "1":
                raise CheckpointError(
                    f"{c.location}: {format_size(need)} are to be fetched in all, "
                    f"{format_size(free)} are free in {folder}: set HF_HOME, or fetch less"
                )
            if not reachable:
                raise hub.HubUnreachableError.of(c.location)
            hub.locate(c.location, c.revision)
        except CheckpointError as error:
            reachable = reachable and not isinstance(error, hub.HubUnreachableError)
            missing[reference] = str(error)
    return len(wanted) - len(missing), missing


def cache_folder() -> Path:
    """Where the Hub's checkpoints are kept."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)
