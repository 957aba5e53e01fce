"""Two models, or a model and its baseline, compared from what an --out folder holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import filter as filter_names
from fnmatch import fnmatchcase
from pathlib import Path

from lep_bench.config.load import Configs
from lep_bench.config.schema import Suite
from lep_bench.errors import LepBenchError, unknown_name
from lep_bench.files import write_text
from lep_bench.leaderboard.assemble import make_drafts
from lep_bench.leaderboard.cells import Chosen, Lookup, Metrics, choose_results
from lep_bench.leaderboard.compare import Comparison, GateResult, compare_models, gate_models
from lep_bench.leaderboard.examine import examine_results
from lep_bench.leaderboard.measure import Draft
from lep_bench.leaderboard.snapshot import Snapshot, read_snapshot, render_snapshot
from lep_bench.records.schema import CHANGED, Sample
from lep_bench.records.store import Store
from lep_bench.tasks import lm_eval_folders


@dataclass(frozen=True)
class StoredResults:
    """The results of some models of a suite."""

    suite: Suite
    store: Store
    drafts: Sequence[Draft]
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
        """The newest results of the models that match a pattern. Raises LepBenchError for a pattern
        without a match, and where results or samples are missing or damaged.
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
        scored = {_cell_key(c) for c in chosen if c.failure is None}
        folders = (*(tasks or ()), *lm_eval_folders(own.lm_eval))
        chosen, items = examine_results(chosen, store.skim, Metrics.load(own.tasks, folders))
        for c in chosen:
            if c.failure is not None and (_cell_key(c) in scored or CHANGED in c.failure):
                raise LepBenchError(f"{out}: {c.failure}")
        return cls(own, store, make_drafts(chosen, own), items)

    @property
    def chosen(self) -> list[Chosen]:
        """Every result once."""
        every = [c for d in self.drafts for cells in d.cells.values() for c in cells.values()]
        return list({id(c): c for c in every}.values())

    def find_model(self, pattern: str) -> str:
        """The name of the one model that fits. Raises LepBenchError where several do."""
        names = sorted({d.record.name for d in self.drafts if fnmatchcase(d.record.name, pattern)})
        if len(names) > 1 and pattern not in names:
            raise LepBenchError(
                f"{pattern} fits {len(names)} models: {', '.join(names[:4])}"
                f"{', ...' if names[4:] else ''}: name one"
            )
        return pattern if pattern in names else names[0]

    def pair_drafts(self, a: str, b: str) -> list[tuple[Draft, Draft]]:
        """The rows of two models (names or patterns) that were prompted alike. Raises LepBenchError
        for one model, and where no rows were prompted alike.
        """
        first, second = self.find_model(a), self.find_model(b)
        if first == second:
            raise LepBenchError(f"{a} and {b} are both {first}: name two models")
        ours, theirs = (
            [d for d in self.drafts if d.record.name == name] for name in (first, second)
        )
        pairs = [(x, y) for x in ours for y in theirs if x.condition == y.condition]
        if not pairs:
            raise LepBenchError(
                f"{first} and {second} were prompted in different ways: "
                f"{_describe_conditions(ours)} against {_describe_conditions(theirs)}: run one "
                "with the other's settings"
            )
        return pairs

    def compare(self, a: str, b: str) -> list[tuple[Draft, Draft, Comparison]]:
        """The models that `a` and `b` name (names, or patterns that fit one), once for every
        condition under which both were prompted. Raises LepBenchError where they may not be
        compared.
        """
        pairs = self.pair_drafts(a, b)
        return [(x, y, compare_models(x, y, self.suite, self.items)) for x, y in pairs]

    def list_differing(
        self, a: Draft, b: Draft, tasks: Sequence[str], most: int
    ) -> list[tuple[str, Sample, Sample]]:
        """Up to `most` items (task, sample of a, sample of b) whose scores differ, of each model's
        first seed; from every task in turn.
        """
        by_task: list[list[tuple[str, Sample, Sample]]] = []
        for task in tasks if most else ():
            first, second = (next(iter(draft.scored(task).values())).result for draft in (a, b))
            metric = first.primary
            pairs = zip(self.store.read_samples(first), self.store.read_samples(second))
            differing = [
                (task, x, y) for x, y in pairs if x.values.get(metric) != y.values.get(metric)
            ]
            by_task.append(differing[:most])
        turns = [own[i] for i in range(most) for own in by_task if i < len(own)]
        return sorted(turns[:most], key=lambda item: tasks.index(item[0]))

    def write_baseline(self, file: Path) -> None:
        """Keep these results for `gate`."""
        write_text(file, render_snapshot(Snapshot(self.suite, [], self.chosen, self.items)))

    def gate(self, baseline: Path, patterns: Sequence[str], max_drop: float) -> list[GateResult]:
        """Each model of the baseline that fits a pattern, then and now: see `compare.gate_models`.
        Raises LepBenchError where the two cannot be compared.
        """
        held = read_snapshot(baseline)
        if (held.suite.name, held.suite.mean) != (self.suite.name, self.suite.mean):
            raise LepBenchError(
                f"{baseline}: is of suite {held.suite.name}, whose mean differs from "
                f"{self.suite.name}'s current one: write it again with --write"
            )
        old = [
            draft
            for draft in make_drafts(held.chosen, held.suite)
            if any(fnmatchcase(draft.record.name, pattern) for pattern in patterns)
        ]
        pairs = _match_drafts(old, self.drafts, self.suite, baseline)
        return gate_models(pairs, self.suite, (held.lookup, self.items), max_drop)


def match_names(
    names: Iterable[str], patterns: Sequence[str], kind: str = "model", hint: str = ""
) -> list[str]:
    """The names that match a pattern. Raises UnknownNameError for a pattern without a match."""
    known = list(names)
    for pattern in patterns:
        if not filter_names(known, pattern):
            raise unknown_name(kind, pattern, known, hint)
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _cell_key(c: Chosen) -> tuple[str, int, str, str]:
    return c.result.model.name, c.result.model.seed, c.result.task, c.result.key


def _describe_conditions(drafts: Sequence[Draft]) -> str:
    conditions = {
        f"{c.format}, {c.shots}-shot, protocol {c.protocol}, engine {c.engine}, {c.dtype}"
        for c in (draft.condition for draft in drafts)
    }
    return " or ".join(sorted(conditions))


def _match_drafts(
    old: Sequence[Draft], new: Sequence[Draft], suite: Suite, baseline: Path
) -> list[tuple[Draft, Draft]]:
    """(baseline, now) of every row of the baseline with the whole mean. Raises LepBenchError where
    there is none, or none now prompted alike.
    """
    whole = [d for d in old if all(d.scored(task) for task in suite.mean.tasks)]
    if not whole:
        raise LepBenchError(
            f"{baseline}: none of these models has a score for every task of the mean there: "
            "name others with --models, or write it again"
        )
    pairs = []
    for before in whole:
        name = before.record.name
        now = [d for d in new if (d.record.name, d.condition) == (name, before.condition)]
        unscored = [task for task in suite.mean.tasks if not any(d.scored(task) for d in now)]
        if unscored:
            raise LepBenchError(
                f"{name} has no score now of {', '.join(unscored)}, prompted as for {baseline}: "
                "run it, or leave it out with --models"
            )
        pairs += [(before, draft) for draft in now]
    return pairs
