"""`lep-bench check`: the invariants of a model folder (whole checkpoint, patch, or tokenizer), as
findings a user can act on.
"""

from __future__ import annotations

from pathlib import Path

from lep_bench.errors import CheckpointError
from lep_bench.surgery.check import configs, tokenizer, weights
from lep_bench.surgery.check.findings import LEVELS, Finding, InspectedModel

__all__ = ["Finding", "check", "refuse"]


def check_folder(folder: Path) -> list[Finding]:
    """All findings about a folder, errors first; empty when nothing is to be said.

    Reads headers, embedding and head (in blocks) and the files beside them; a parent is compared
    with where it is on this machine. Raises CheckpointError when the folder cannot be read as a
    checkpoint or tokenizer at all.
    """
    model = InspectedModel.open(folder)
    parts = [tokenizer.check_tokenizer, configs.check_configs]
    if model.checkpoint is not None:
        parts.insert(0, weights.check_weights)
    found = [finding for part in parts for finding in part(model)]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def refuse_errors(folder: Path) -> list[Finding]:
    """`check`, but raises CheckpointError with the errors where there are any."""
    found = check_folder(folder)
    errors = [finding for finding in found if finding.level == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more errors)" if len(errors) > 1 else ""
        raise CheckpointError(f"{errors[0].where}: {errors[0].what}; {errors[0].how}{more}")
    return found
