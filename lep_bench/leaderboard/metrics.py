"""The tasks' own metric code, loaded by path: how a score that is no mean over items comes from the items' stored values.

The metrics.py beside a task's YAML may offer, all by {task: {metric: ...}}: `AGGREGATIONS`, a function from the list of the values to
the score; `RESAMPLED`, the same for many weightings of the values at once, f(distinct, whole, counts) -> scores: `distinct` the K
different values, `whole` [K] how often each occurs, `counts` [B, K] how often in each of B resamples; and `UNITS` = {task:
function(value)} where only whole units may be left out: an exam's grade without some of its questions is no grade.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lep_bench import paths, taskfiles
from lep_bench.errors import TaskError

if TYPE_CHECKING:
    import numpy as np

Aggregation = Callable[[list[Any]], float]
Resampled = Callable[[Sequence[Any], "np.ndarray", "np.ndarray"], "np.ndarray"]
MANY = 200  # distinct values; above, resampling by a function that is not vectorised takes seconds per cell


@dataclass(frozen=True)
class Metrics:
    """What the tasks' metrics.py files offer. `own`: the tasks that have such a file."""

    aggregations: dict[str, dict[str, Aggregation]] = field(default_factory=dict)
    resampled: dict[str, dict[str, Resampled]] = field(default_factory=dict)
    units: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    own: frozenset[str] = frozenset()

    @classmethod
    def of(cls, tasks: Sequence[str], folders: Sequence[Path] = ()) -> Metrics:
        """Of the named tasks, in the shipped task folders and the user's. Raises TaskError for a metrics.py that cannot be imported."""
        known = taskfiles.scan(folders).tasks
        files = {task: known[task].folder / "metrics.py" for task in tasks if task in known}
        there = {file for file in files.values() if file.is_file()}
        found: tuple[dict[str, Any], ...] = ({}, {}, {})
        for module in map(_module, sorted(there)):
            for held, name in zip(found, ("AGGREGATIONS", "RESAMPLED", "UNITS")):
                held |= getattr(module, name, {})
        return cls(*found, frozenset(task for task, file in files.items() if file in there))

    def raw(self, task: str, metric: str, values: Sequence[Any]) -> Raw | None:
        """The stored values of a score that is no mean over items; None where its aggregation is not offered or cannot take them."""
        if metric not in self.aggregations.get(task, {}):
            return None
        try:
            keys = [tuple(v) if type(v) is list else v for v in values]
            places: dict[Hashable, int] = {key: i for i, key in enumerate(dict.fromkeys(keys))}
            codes = [places[key] for key in keys]
        except TypeError:  # not hashable: lists in lists
            return None
        return self.coded(task, metric, tuple(places), codes)

    def coded(self, task: str, metric: str, distinct: Sequence[Any], codes: Sequence[int]) -> Raw | None:
        """As `raw`, from the distinct values and each item's place among them."""
        import numpy as np

        plain, fast = (held.get(task, {}).get(metric) for held in (self.aggregations, self.resampled))
        if plain is None or (fast is None and len(distinct) > MANY):
            return None
        return Raw(tuple(distinct), np.asarray(codes, dtype=np.intp), fast or _one_by_one(plain))


@dataclass(frozen=True, eq=False)
class Raw:
    """What a score that is no mean is computed from: K `distinct` values, `codes` [N] (each item's place among them)."""

    distinct: tuple[Any, ...]
    codes: np.ndarray
    function: Resampled

    @property
    def whole(self) -> np.ndarray:
        """[K]: how many items have each value."""
        import numpy as np

        return np.bincount(self.codes, minlength=len(self.distinct)).astype(np.float64)

    def scores(self, counts: np.ndarray) -> np.ndarray:
        """[B] scores of B resamples, counts [B, K] of the distinct values in each; not finite where a resample has none."""
        import numpy as np

        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.function(self.distinct, self.whole, np.asarray(counts, dtype=np.float64)), dtype=np.float64)

    def shares(self) -> tuple[float, np.ndarray] | None:
        """The score and [N] each item's share in it: centred jackknife pseudo-values, score + (n - 1) (mean of the scores without one
        item - score without this one). Their mean is the score, their clustered standard error the jackknife's. None where there is no such."""
        import numpy as np

        whole, n = self.whole, len(self.codes)
        if n < 2:
            return None
        try:
            score, *without = self.scores(np.vstack([whole, whole - np.eye(len(whole))]))
        except (ArithmeticError, ValueError, TypeError, LookupError):  # values of another kind than the metric takes
            return None
        shares = score + (n - 1) * (whole @ np.array(without) / n - np.array(without))
        return (float(score), shares[self.codes]) if np.isfinite(shares).all() else None


def exchanges(a: Raw, b: Raw) -> np.ndarray:
    """[N]: half of what the difference of two scores, a - b, loses when the two answers to an item are exchanged; of a mean this is the
    item's difference over N. Not finite where the score is not known without the answers as they are."""
    import numpy as np

    places = {value: i for i, value in enumerate(dict.fromkeys((*a.distinct, *b.distinct)))}
    count = len(places)
    ours, theirs = (Raw(tuple(places), np.array([places[value] for value in raw.distinct])[raw.codes], raw.function) for raw in (a, b))
    pairs, of = np.unique(ours.codes * count + theirs.codes, return_inverse=True)
    change = np.eye(count)[pairs % count] - np.eye(count)[pairs // count]
    gaps = ours.scores(np.vstack([ours.whole, ours.whole + change])) - theirs.scores(np.vstack([theirs.whole, theirs.whole - change]))
    return np.where(pairs % count == pairs // count, 0.0, (gaps[0] - gaps[1:]) / 2)[of]


def _one_by_one(plain: Aggregation) -> Resampled:
    import numpy as np

    def score(values: list[Any]) -> float:
        try:
            return plain(values)
        except (ArithmeticError, ValueError, LookupError):  # nothing left to divide, to count, to choose from
            return math.nan

    def scores(distinct: Sequence[Any], whole: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return np.array([score([v for v, n in zip(distinct, row) for _ in range(int(n))]) for row in counts])

    return scores


def _module(file: Path) -> Any:
    try:
        return paths.module(file, "metrics")
    except (ImportError, SyntaxError, NameError, OSError) as error:
        raise TaskError(f"{file}: cannot be imported: {type(error).__name__}: {error}") from error
