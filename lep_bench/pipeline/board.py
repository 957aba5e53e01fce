"""The leaderboard of a session: its files, made from the current results, and the prompts behind
stored answers, made again without weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lep_bench import hub
from lep_bench.config import models
from lep_bench.config.load import Configs
from lep_bench.config.models import ModelSpec
from lep_bench.config.schema import Suite
from lep_bench.errors import LepBenchError
from lep_bench.leaderboard import cards, plots, site
from lep_bench.leaderboard.release import Board, ScoredRun
from lep_bench.pipeline.plan import choose_scoring, make_plan
from lep_bench.pipeline.session import Session
from lep_bench.plugin import Registry
from lep_bench.records.schema import TaskResult
from lep_bench.records.store import Store
from lep_bench.tasks import TaskFile, scan_tasks

if TYPE_CHECKING:
    from lep_bench.evaluate.prompts import Item


def find_tokenizer(
    model: str, task: TaskFile, suite: Suite, configs: Configs, registry: Registry, out: Path
) -> tuple[ModelSpec, Path]:
    """The model of a name and the folder of its tokenizer. Raises LepBenchError for a model that is
    not there or has to be built first.
    """
    family = model.split("/")[0]
    wide = suite.model_copy(
        update={
            "families": (family,) if family in configs.names("families") else suite.families,
            "baselines": tuple(configs.names("baselines")),
        }
    )
    specs = models.select_models([model], wide, configs, registry)
    if len(specs) != 1:
        raise LepBenchError(
            f"{model} names {len(specs)} models: give one of "
            f"{', '.join(spec.name for spec in specs[:4])}, ..."
        )
    (spec,) = specs
    location, revision = spec.location, spec.revision
    if spec.family is not None and spec.tuning is None and spec.stage in ("base", "instruct"):
        parents = configs.family(spec.family)
        location = getattr(parents, spec.stage)
        revision = getattr(parents, f"{spec.stage}_revision")
    if location is None:
        plan = make_plan(wide, [spec], [task], configs, registry, Store(out))
        maker = plan.makers[spec.key]
        if not maker.startswith("checkpoint:"):
            node = next((node for node in plan.cached if node.id == maker), None)
            if node is None:
                raise LepBenchError(
                    f"{model} is not built yet in {out}: run lep-bench run --suite "
                    f"{suite.name} --models {model} first, or name its --out"
                )
            return spec, node.folder
        location, revision = hub.parse_reference(maker)
    folder = hub.locate_tokenizer(location, revision)
    if spec.family is None and spec.format is None:
        spec = replace(spec, format="chat" if hub.has_chat_template(folder) else "plain")
    return spec, folder


def make_question_reader(
    suite: Suite,
    configs: Configs,
    registry: Registry,
    store: Store,
    task_folders: Sequence[Path],
    warn: Callable[[str], None],
) -> Callable[[TaskResult, Sequence[int]], Mapping[tuple[int, str], str]]:
    """A function (result, row numbers) -> {(row number, hash of the row): what the model read}.

    Prompts are compiled again as the result's model was asked. Where that is impossible (rows or
    tokenizer are not here) the mapping is empty, and `warn` is told why.
    """

    def read_questions(result: TaskResult, rows: Sequence[int]) -> dict[tuple[int, str], str]:
        from lep_bench.evaluate.lmeval import compile_tasks

        try:
            task = scan_tasks(task_folders).get(result.task)
            # local/NAME is found by its place only
            name = result.model.lineage[0] if result.model.stage == "local" else result.model.name
            spec, folder = find_tokenizer(name, task, suite, configs, registry, store.root)
            family = configs.family(spec.family) if spec.family else None
            conversation, scoring = choose_scoring(suite, spec, family)
            (compiled,) = compile_tasks(
                [task.name],
                folder,
                conversation,
                limit=max(rows) + 1,
                task_folders=task_folders,
                metadata=scoring.passed_on(),
                prove=False,
            )
        except LepBenchError as error:
            warn(f"{result.task}: no questions on the page: {error}")
            return {}
        texts = {
            (item.doc_id, item.doc_hash): _format_item(item)
            for item in compiled.items
            if item.doc_id in set(rows)
        }
        return {key: text for key, text in texts.items() if text}

    return read_questions


def _format_item(item: Item) -> str:
    """What the model read, roles before their messages, the options below. Empty for running text:
    the sample itself has it.
    """
    prompts = [
        "\n".join(f"{m['role']}: {m['content']}" for m in prompt.messages)
        if prompt.messages
        else prompt.text
        for prompt in item.prompts
    ]
    text = "\n\n".join(prompts).strip()
    return "\n".join([text, *(f"— {option}" for option in item.options)]) if text else ""


def make_scored_run(
    session: Session, results: Sequence[TaskResult], order: Sequence[str], data: Path | None
) -> ScoredRun:
    """The results of a session with the settings that reproduce them."""
    return ScoredRun(
        session.suite,
        session.configs,
        session.registry,
        session.store,
        results,
        order,
        session.adapter_folders,
        session.task_folders,
        data,
    )


def write_board(
    session: Session, results: Sequence[TaskResult], order: Sequence[str], data: Path | None
) -> Board:
    """Write OUT/SUITE/leaderboard. Raises LepBenchError."""
    return Board.write(make_scored_run(session, results, order, data))


def write_html(board: Board, folder: Path, samples: int, warn: Callable[[str], None]) -> Path:
    """Write the self-contained page of a leaderboard to `folder`, with `samples` items of each
    task; returns the file. `warn` is told of questions that cannot be made again.
    """
    run = board.run
    artifacts = cards.read_artifacts(run.store, run.results)
    return site.write_site(
        folder,
        board.table,
        run.results,
        run.store.read_samples,
        artifacts=artifacts,
        curves=plots.make_curves(artifacts),
        most=samples,
        questions=make_question_reader(
            run.suite, run.configs, run.registry, run.store, run.task_folders, warn
        ),
        drawn=board.folder,
    )
