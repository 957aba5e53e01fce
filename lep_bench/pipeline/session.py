"""What run, leaderboard, publish and export have in common: the suite, the configs and adapters,
the output folder, and plans from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lep_bench import plugin
from lep_bench.config import load, models, schema
from lep_bench.errors import LepBenchError, UnknownNameError, count_noun
from lep_bench.files import check_folder
from lep_bench.pipeline.plan import ExpectedCell, Plan, Server, Settings, make_plan
from lep_bench.records.schema import ModelRecord, TaskResult
from lep_bench.records.store import Store, SuiteResults
from lep_bench.tasks import TaskFile, lm_eval_folders, select_tasks


@dataclass(frozen=True)
class Session:
    """A suite and everything that plans of it are made from. Each config and each result is read
    once.
    """

    suite: schema.Suite
    configs: load.Configs
    registry: plugin.Registry
    store: Store
    settings: Settings
    seeds: int
    adapter_folders: tuple[Path, ...]
    task_folders: tuple[Path, ...]
    results: SuiteResults

    @classmethod
    def read(
        cls,
        suite: str,
        out: Path,
        configs: Sequence[Path] | None,
        adapters: Sequence[Path] | None = None,
        tasks: Sequence[Path] | None = None,
        *,
        limit: int | None = None,
        seeds: int | None = None,
        dtype: str | None = None,
        engine: str = "hf",
        server: Server = Server(),
    ) -> Session:
        """Read the suite (`dtype` in place of its own) and discover the adapters. Raises
        LepBenchError for unknown names and broken files.
        """
        check_folder(out, "--out")
        known = load.Configs.of(configs or ())
        chosen = known.suite(suite)
        chosen = chosen.model_copy(update={"dtype": dtype}) if dtype else chosen
        methods = plugin.discover_adapters(adapters or ())
        folders = (*(tasks or ()), *lm_eval_folders(chosen.lm_eval))
        store = Store(out)
        return cls(
            chosen,
            known,
            methods,
            store,
            Settings(engine, server, limit),
            seeds or chosen.seeds,
            tuple(adapters or ()),
            folders,
            store.results(chosen.name),
        )

    def plan(
        self, patterns: Sequence[str], tasks: Sequence[str] | None = None, *, board: bool = False
    ) -> Plan:
        """The plan for models and tasks (default: the suite's; none: only build). `board`: say also
        which cells the suite's leaderboard shows, with these models in it. Raises LepBenchError.
        """
        specs = self._select(patterns)
        chosen = self._tasks() if tasks is None else select_tasks(tasks, self.task_folders)
        shown = self._select(["all", *patterns]) if board else specs
        plan = make_plan(
            self.suite,
            specs,
            chosen,
            self.configs,
            self.registry,
            self.store,
            self.settings,
            self.results,
            (shown, self._tasks()) if board else ((), ()),
        )
        records = {record.name: record for record, _, _ in (*plan.expected, *plan.shown)}
        self._check_names(shown, records)
        return plan

    def _select(self, patterns: Sequence[str]) -> list[models.ModelSpec]:
        return models.select_models(patterns, self.suite, self.configs, self.registry, self.seeds)

    def _tasks(self) -> list[TaskFile]:
        """The suite's."""
        try:
            return select_tasks(self.suite.tasks, self.task_folders)
        except UnknownNameError as error:
            place = self.configs.locate_field("suites", self.suite.name, "tasks")
            raise UnknownNameError(f"{place}: {error}") from error

    def _check_names(
        self, specs: Sequence[models.ModelSpec], records: Mapping[str, ModelRecord]
    ) -> None:
        """Raise LepBenchError where stored rows of a local model's name are of another checkpoint:
        this one's would take their place.
        """
        for spec in (spec for spec in specs if spec.stage == "local" and spec.name in records):
            record = records[spec.name]
            for old in self.results.of_model(spec.name):
                if (
                    old.model.lineage[:1] != record.lineage[:1]
                    and old.model.fingerprint != record.fingerprint
                ):
                    folder = self.store.result(self.suite.name, spec.name, old.task, old.key).parent
                    raise LepBenchError(
                        f"{self.store.root} has results of {spec.name} from "
                        f"{old.model.lineage[0]}, those of {spec.location} would take their "
                        f"place: {models.suggest_other_name(spec)}, give another --out, or "
                        f"delete {folder}"
                    )

    def checkpoints(self, patterns: Sequence[str] = ()) -> list[models.NamedCheckpoint]:
        """The checkpoints that the suite's families and baselines name, and those that `patterns`
        name.
        """
        return models.list_checkpoints(
            models.widen_suite(self.suite, patterns, self.configs), self.configs
        )

    def names_of(self, results: Sequence[TaskResult]) -> list[str]:
        """Names of scored models that a plan can be made for today: the user's own checkpoints by
        their location.
        """
        wide = models.widen_suite(self.suite, {r.model.name for r in results}, self.configs)
        known = {model.name for model in models.list_models(wide, self.configs, self.registry)}
        own = {r.model.lineage[0] for r in results if r.model.stage == "local"}
        # A folder may be gone; Hub ids and built-in checkpoints can be planned for wherever they
        # are.
        return sorted(
            {name for name in own if not Path(name).is_absolute() or Path(name).is_dir()}
            | known & {r.model.name for r in results}
        )

    def cells(self, expected: Iterable[ExpectedCell]) -> tuple[list[TaskResult], list[str]]:
        """The current results among the expected cells, and the models' names in their order."""
        # Models api:NAME are expected under every engine, each time as the same cell.
        wanted = {(record.name, task, key): record for record, task, key in expected}
        found = [(self.results.find(*cell), record) for cell, record in wanted.items()]
        current = [
            result
            for result, record in found
            if result is not None
            and (result.status == "failed" or result.model.fingerprint == record.fingerprint)
        ]
        return current, list(dict.fromkeys(model for model, _, _ in wanted))

    def expect_stored(self) -> tuple[Session, list[ExpectedCell], str]:
        """Every cell that is expected where results are stored already, whatever engine, number
        format and row limit they were scored with; and a line on those that are not shown ("" for
        none). The session is the one that scored the last of them. Raises LepBenchError where there
        are no results to show.
        """
        suite, out = self.suite.name, self.store.root
        scored = self.results.of_model()
        if not scored:
            raise LepBenchError(
                f"no results of suite {suite} in {out}: run lep-bench run --suite {suite} first, "
                "or name its --out folder"
            )
        limits: dict[tuple[str, str], set[int | None]] = {}
        for result in scored:
            ways = limits.setdefault((result.scoring.dtype, result.provenance.engine), set())
            ways.add(result.scoring.limit)
        session, expected = self, list[ExpectedCell]()
        patterns = ["all", *self.names_of(scored)]
        for (dtype, engine), ways in sorted(limits.items()):
            # a server's number format is not known, and no suite's
            own = self.suite.model_copy(update={} if engine == "api" else {"dtype": dtype})
            # Results under a row limit are shown only where there are none without.
            for limit in (None,) if None in ways else sorted(ways, key=repr):
                session = replace(
                    self,
                    suite=own,
                    settings=replace(self.settings, engine=engine, limit=limit),
                    seeds=1 + max(result.model.seed for result in scored),
                )
                expected += session.plan(patterns).expected
        mend = "give --data, --configs and --tasks-dir as in the run, or run"
        now = {(record.name, task, key): record.fingerprint for record, task, key in expected}
        cells = {(r.model.name, r.task, r.key): r for r in scored}
        if not cells.keys() & now.keys():
            raise LepBenchError(
                f"{out} has {len(scored)} results of suite {suite}, all of other tasks, rows or "
                f"settings than now: {mend} it again"
            )
        shown = {cell[:2] for cell, r in cells.items() if now.get(cell) == r.model.fingerprint}
        old = [
            f"{r.model.name} {r.task}"
            for r in scored
            if r.status == "ok" and (r.model.name, r.task) not in shown
        ]
        old = list(dict.fromkeys(old))
        which = ", ".join(old[:4]) + (", ..." if old[4:] else "")
        line = (
            f"not shown: {count_noun(len(old), 'score')} in {out}, of other models, tasks, rows or "
            f"settings than now: {which}: {mend} again"
        )
        return session, expected, line if old else ""
