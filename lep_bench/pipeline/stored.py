"""What an output folder holds of some models, and two of them compared item by item."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lep_bench.config.load import Configs
from lep_bench.config.schema import Suite
from lep_bench.errors import LepBenchError, unknown_name
from lep_bench.leaderboard.assemble import drafts_of
from lep_bench.leaderboard.cells import Lookup, Metrics, choose_results
from lep_bench.leaderboard.compare import Comparison, compare_models
from lep_bench.leaderboard.examine import examine_results
from lep_bench.leaderboard.measure import Draft
from lep_bench.records.schema import CHANGED
from lep_bench.records.store import Store
from lep_bench.tasks import lm_eval_folders


@dataclass(frozen=True)
class StoredResults:
    """What an --out folder holds of some models of a suite, newest results first in line."""

    suite: Suite
    store: Store
    drafts: list[Draft]
    items: Lookup

    @classmethod
    def read(
        cls,
        suite: str,
        out: Path,
        configs: Sequence[Path] | None,
        tasks: Sequence[Path] | None,
        patterns: Sequence[str],
    ) -> StoredResults:
        """Of models that fit a pattern. Raises LepBenchError for a pattern that fits none, and
        where samples are missing or damaged.
        """
        own, store = Configs.of(configs or ()).suite(suite), Store(out)
        results = store.read_all(own.name)
        if not results:
            raise LepBenchError(
                f"no results of suite {suite} in {out}: run lep-bench run --suite {suite} "
                "first, or name its --out folder"
            )
        names = match_names(
            {r.model.name for r in results},
            patterns,
            hint=f"(models with results of suite {suite} in {out})",
        )
        chosen = [
            c for c in choose_results(results, own.name, own.tasks) if c.result.model.name in names
        ]
        whole = {
            (c.result.model.name, c.result.model.seed, c.result.task, c.result.key)
            for c in chosen
            if c.failure is None
        }
        folders = (*(tasks or ()), *lm_eval_folders(own.lm_eval))
        chosen, items = examine_results(chosen, store.skim, Metrics.of(own.tasks, folders))
        for c in chosen:
            cell = (c.result.model.name, c.result.model.seed, c.result.task, c.result.key)
            if c.failure is not None and (cell in whole or CHANGED in c.failure):
                raise LepBenchError(f"{out}: {c.failure}")
        return cls(own, store, drafts_of(chosen, own), items)

    def compare(self, a: str, b: str) -> list[tuple[Draft, Draft, Comparison]]:
        """The models that `a` and `b` name (names, or patterns that fit one), once for every
        condition under which both were asked. Raises LepBenchError where they may not be compared.
        """
        names = [_match_one(self.drafts, pattern) for pattern in (a, b)]
        if names[0] == names[1]:
            raise LepBenchError(f"{a} and {b} are both {names[0]}: name two models")
        ours, theirs = ([d for d in self.drafts if d.record.name == name] for name in names)
        pairs = [(x, y) for x in ours for y in theirs if x.condition == y.condition]
        if not pairs:
            raise LepBenchError(
                f"{names[0]} and {names[1]} were asked in different ways: "
                f"{_describe_conditions(ours)} against {_describe_conditions(theirs)}: run one "
                "like the other"
            )
        return [(x, y, compare_models(x, y, self.suite, self.items)) for x, y in pairs]


def match_names(
    names: Iterable[str], patterns: Sequence[str], kind: str = "model", hint: str = ""
) -> list[str]:
    """The names that match a pattern. Raises UnknownNameError for a pattern without a match."""
    known = list(names)
    for pattern in patterns:
        if not fnmatch.filter(known, pattern):
            raise unknown_name(kind, pattern, known, hint)
    return [
        name for name in known if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    ]


def _match_one(drafts: Sequence[Draft], pattern: str) -> str:
    """The name of the one model that fits. Raises LepBenchError where several do."""
    names = sorted({d.record.name for d in drafts if fnmatch.fnmatchcase(d.record.name, pattern)})
    if len(names) > 1 and pattern not in names:
        raise LepBenchError(
            f"{pattern} fits {len(names)} models: {', '.join(names[:4])}"
            f"{', ...' if names[4:] else ''}: name one"
        )
    return pattern if pattern in names else names[0]


def _describe_conditions(drafts: Sequence[Draft]) -> str:
    """How models were asked, in words."""
    ways = {
        f"{c.format}, {c.shots}-shot, protocol {c.protocol}, engine {c.engine}, {c.dtype}"
        for c in (d.condition for d in drafts)
    }
    return " or ".join(sorted(ways))
