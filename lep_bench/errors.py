"""Errors a user can act on, each one or two lines: what, where, what is known, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LepBenchError(Exception):
    """A mistake that the user can mend. The command line prints it without a traceback, exit 2."""


class ConfigError(LepBenchError):
    """A YAML file of ours or the user's is wrong; the text starts with ``file:line: field:``."""


class UnknownNameError(LepBenchError):
    """A model, task, suite, family or adapter that does not exist; the text offers near names."""


class CheckpointError(LepBenchError):
    """A folder that is no checkpoint, or checkpoints that do not belong together."""


class AdapterError(LepBenchError):
    """An adapter that cannot be loaded, that raised, or that returned something unusable."""


class TrainingDivergedError(LepBenchError):
    """The loss or a weight is not finite. This model and those made from it fail; the run goes
    on.
    """


class EngineError(LepBenchError):
    """An engine cannot take a model (memory, architecture). This model fails; the run goes on."""


class TaskError(LepBenchError):
    """A task folder that cannot be read or a task that breaks its contract."""


class RunFailedError(LepBenchError):
    """The command went through, but some cells failed or a check found errors: exit code 1."""


def explain_error(error: BaseException) -> str:
    """The first line of what somebody else's code raised, for a message of ours; no class name."""
    if isinstance(error, KeyError) and error.args:
        return f"there is no {error.args[0]!r}"
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else f"no reason given ({type(error).__name__})"


def count_noun(count: int, noun: str) -> str:
    """`1 model`, `2 models`, `1,200 entries`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def unknown_name(kind: str, name: str, known: Iterable[str], hint: str = "") -> UnknownNameError:
    """The error for an unknown name: near names where there are some, else all (at most eight)."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        text = f"did you mean {' or '.join(near)}?"
    elif names:
        text = "known: " + ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    else:
        text = "none is known"
    return UnknownNameError(f"unknown {kind} {name!r}: {text}" + (f" {hint}" if hint else ""))
