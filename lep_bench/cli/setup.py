"""What run, leaderboard and export have in common: the suite, what is known, where it goes, and
plans from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lep_bench import plugin
from lep_bench.cli.app import check_folder
from lep_bench.config import load, models, schema
from lep_bench.errors import LepBenchError, UnknownNameError
from lep_bench.pipeline.plan import Plan, Server, Settings, make_plan
from lep_bench.records.schema import ModelRecord, TaskResult
from lep_bench.records.store import Store
from lep_bench.tasks import lm_eval_folders, select_tasks


@dataclass(frozen=True)
class Setup:
    """The parsed command line of everything that plans."""

    suite: schema.Suite
    configs: load.Configs
    registry: plugin.Registry
    store: Store
    settings: Settings
    seeds: int
    adapter_folders: tuple[Path, ...]
    task_folders: tuple[Path, ...]

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
    ) -> Setup:
        """Read the suite (`dtype` in place of its own) and discover the adapters. Raises
        LepBenchError for unknown names and broken files.
        """
        check_folder(out, "--out")
        known = load.Configs.of(configs or ())
        chosen = known.suite(suite)
        chosen = chosen.model_copy(update={"dtype": dtype}) if dtype else chosen
        methods = plugin.discover_adapters(adapters or ())
        folders = (*(tasks or ()), *lm_eval_folders(chosen.lm_eval))
        return cls(
            chosen,
            known,
            methods,
            Store(out),
            Settings(engine, server, limit),
            seeds or chosen.seeds,
            tuple(adapters or ()),
            folders,
        )

    def plan(self, patterns: Sequence[str], tasks: Sequence[str] | None = None) -> Plan:
        """The plan for models and tasks (default: the suite's; none: only build). Raises
        LepBenchError.
        """
        specs = models.select_models(patterns, self.suite, self.configs, self.registry, self.seeds)
        try:
            files = select_tasks(self.suite.tasks if tasks is None else tasks, self.task_folders)
        except UnknownNameError as error:
            raise (
                error
                if tasks is not None
                else UnknownNameError(
                    f"{self.configs.place('suites', self.suite.name, 'tasks')}: {error}"
                )
            ) from error
        plan = make_plan(
            self.suite, specs, files, self.configs, self.registry, self.store, self.settings
        )
        self.own_names(specs, {record.name: record for record, _, _ in plan.expected})
        return plan

    def own_names(
        self, specs: Sequence[models.ModelSpec], records: Mapping[str, ModelRecord]
    ) -> None:
        """Raise LepBenchError where stored rows of a local model's name are of another checkpoint:
        this one's would take their place.
        """
        for spec in (spec for spec in specs if spec.stage == "local" and spec.name in records):
            record = records[spec.name]
            for old in self.store.read_all(self.suite.name, spec.name):
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

    def scored(self) -> list[TaskResult]:
        """Every stored result of the suite."""
        return self.store.read_all(self.suite.name)

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
