"""`lep-bench check`: test the invariants of a model folder (whole checkpoint, patch or tokenizer).
Each violation is a finding that tells the user what to do.
"""

from __future__ import annotations

from pathlib import Path

from lep_bench.errors import CheckpointError
from lep_bench.surgery.check import configs, tokenizer, weights
from lep_bench.surgery.check.findings import LEVELS, Finding, InspectedModel

__all__ = ["Finding", "check_folder", "refuse_errors"]


def check_folder(folder: Path) -> list[Finding]:
    """All findings about a folder, errors first.

    Reads headers, embedding and head (in blocks) and the files beside them. Compares with a parent
    if that is on this machine. Raises CheckpointError if the folder cannot be read as a checkpoint
    or tokenizer at all.
    """
    model = InspectedModel.open(folder)
    parts = [tokenizer.check_tokenizer, configs.check_configs]
    if model.checkpoint is not None:
        parts.insert(0, weights.check_weights)
    findings = [finding for part in parts for finding in part(model)]
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def refuse_errors(folder: Path) -> list[Finding]:
    """`check_folder`, but raises CheckpointError with the first error if there are any."""
    findings = check_folder(folder)
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more errors)" if len(errors) > 1 else ""
        raise CheckpointError(f"{errors[0].where}: {errors[0].what}; {errors[0].how}{more}")
    return findings
