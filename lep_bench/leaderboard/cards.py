"""The model card of a model that lep-bench made: from what, how, how good it is, what it costs, how
to make it again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import shlex
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lep_bench import bundle, hub
from lep_bench.errors import LepBenchError
from lep_bench.leaderboard.cells import format_model_key
from lep_bench.leaderboard.page import (
    escape_markdown,
    format_code,
    format_table,
    make_page,
    replace_generated,
)
from lep_bench.leaderboard.table import SYMBOLS, Block, Cell, Column, Difference, Row, Table
from lep_bench.leaderboard.text import (
    COST_HEADERS,
    HEALTH_HEADERS,
    MISSING,
    clean_text,
    describe_condition,
    explain_seeds,
    format_cell,
    format_cost,
    format_health,
    format_interval,
    format_marks,
    format_number,
    format_p,
    format_value,
    label_mean,
    make_cost_headers,
    shorten_parent,
)
from lep_bench.records import artifact
from lep_bench.records.artifact import LEP, Lep, Parent
from lep_bench.records.schema import ModelRecord, TaskResult
from lep_bench.records.store import Store
from lep_bench.tasks import TaskFile, select_tasks

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


LANGUAGES = ("ru", "en")  # what a vocabulary is made for, and what the parents speak
BUILTIN_LICENCE = "apache-2.0"  # of the built-in checkpoints
UNKNOWN_LICENCE = "unknown: check before you publish"
FRONT_MATTER = re.compile(r"\A---\n(.*?\n)---\n", re.DOTALL)
# of the roles that one parent has, the first is named
_ROLES = ("base", "instruct", "donor", "start", "body")
_FIT = ("rows", "rank", "condition", "residual", "held_out_residual", "r2")


@dataclass(frozen=True)
class Ancestor:
    """A whole checkpoint at the beginning of a model's way. `place` is a Hub id, a built-in name or
    "" (somebody's folder: its path is nobody's business); `licence` is "" where it is not known."""

    role: str
    name: str
    place: str
    revision: str | None
    digest: str
    licence: str


@dataclass(frozen=True)
class Lineage:
    """How a model came about: its stages, oldest first, and the checkpoints that they began
    with.
    """

    steps: tuple[Lep, ...]
    ancestors: tuple[Ancestor, ...]

    @property
    def licences(self) -> tuple[str, ...]:
        """Of all ancestors, each once; "" among them: not all are known."""
        return tuple(dict.fromkeys(a.licence for a in self.ancestors))


def trace_lineage(result: TaskResult, store: Store, licences: Mapping[str, str]) -> Lineage | None:
    """The way of a result's model, from the `lep.json` files in OUT (of a local model: in its
    folder); None where there is none.

    `licences` are those that configs name, by location. Raises CheckpointError for a damaged
    `lep.json`.
    """
    last = read_stage(store, result.model.name, result.model.fingerprint)
    if (
        last is None
        and result.model.stage == "local"
        and (folder := Path(result.model.lineage[0])).is_absolute()
        and (folder / LEP).is_file()
    ):
        last = artifact.read_lep(folder)
    if last is None:
        return None
    steps: dict[str, Lep] = {}
    begun: dict[tuple[str, str | None], list[Parent]] = {}

    def walk(one: Lep) -> None:
        for parent in one.parents:
            before = read_stage(store, parent.name, parent.digest)
            if before is not None:
                walk(before)
            elif parent.role in _ROLES:
                begun.setdefault((parent.location, parent.revision), []).append(parent)
        steps.setdefault(one.fingerprint, one)

    walk(last)
    named = [min(parents, key=lambda p: _ROLES.index(p.role)) for parents in begun.values()]
    ancestors = [
        Ancestor(
            p.role,
            shorten_parent(p.name),
            _public_location(p.location),
            p.revision,
            p.digest,
            _find_licence(p, licences),
        )
        for p in named
    ]
    return Lineage(
        tuple(steps.values()), tuple(sorted(ancestors, key=lambda a: _ROLES.index(a.role)))
    )


def read_stage(store: Store, name: str, fingerprint: str) -> Lep | None:
    """The `lep.json` of a model of that fingerprint in OUT; None where it is not there. Raises
    CheckpointError for a damaged one.
    """
    try:
        folder = store.artifact(name, fingerprint)
    except LepBenchError:  # a name that is none of ours: a built-in one, a path
        return None
    return artifact.read_lep(folder) if (folder / LEP).is_file() else None


def _public_location(location: str) -> str:
    known = location.startswith(hub.BUILTIN) or (
        bundle.HUB_ID.fullmatch(location) and not Path(location).is_dir()
    )
    return location if known else ""


def _find_licence(parent: Parent, known: Mapping[str, str]) -> str:
    """What the checkpoint's own README.md or the bundle's manifest says, else the family's YAML; ""
    where none does. Nothing is fetched.
    """
    if parent.location.startswith(hub.BUILTIN):
        return BUILTIN_LICENCE
    with contextlib.suppress(LepBenchError, OSError, UnicodeDecodeError):
        folder = hub.find_cached(parent.location, parent.revision)
        said = (
            parse_front_matter(((folder or Path()) / "README.md").read_text(encoding="utf-8")).get(
                "license"
            )
            if folder
            else None
        )
        if isinstance(said, str) and said:
            return said
    root = bundle.data_folder()
    held = bundle.read_manifest(root) if root else None
    entry = held.entry("model", parent.location) if held else None
    return entry.licence if entry and entry.licence != "unknown" else known.get(parent.location, "")


def parse_front_matter(card: str) -> dict[str, Any]:
    """The front matter of a card; empty where it has none that can be read."""
    found = FRONT_MATTER.match(card)
    try:
        data = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError:
        data = {}
    return data if isinstance(data, dict) else {}


def render_card(
    table: Table,
    result: TaskResult,
    made: Lineage,
    tasks: Tasks,
    commands: Sequence[str],
    existing: str | None,
) -> str:
    """The text of a model's README.md; of an `existing` one, which has the markers, own prose and
    front matter stay.

    `result` is any of the model's, the newest best; `commands` make it and its control again."""
    name = result.model.name
    rows = list_rows(table, name)
    parts = [
        _render_summary(table, result),
        _render_lineage(made),
        _render_method(made),
        *(_render_scores(table, block, row) for block, row in rows),
    ]
    parts += [
        _render_cost(table, rows),
        _render_licences(made),
        _render_commands(table, result, commands),
        _render_limits(table, rows),
    ]
    matter = _make_front_matter(table, result, made, rows, tasks)
    if matter["license"] == "unknown":  # whoever looked it up wrote it there
        matter["license"] = parse_front_matter(existing or "").get("license", "unknown")
    return write_card(
        matter, name, "\n\n".join("\n".join(part) for part in parts if part) + "\n", existing
    )


def write_card(matter: Mapping[str, Any], title: str, body: str, existing: str | None) -> str:
    """A page with front matter. Of an existing one the prose outside the markers stays, and keys
    that `matter` does not have.
    """
    own = parse_front_matter(existing or "")
    page = (
        "\n" + make_page(title, body)
        if existing is None
        else replace_generated(FRONT_MATTER.sub("", existing, count=1), body)
    )
    assert page is not None, "whoever calls has looked for the markers"
    return (
        "---\n"
        f"{yaml.safe_dump(own | dict(matter), sort_keys=False, allow_unicode=True, width=1000)}"
        f"---\n{page}"
    )


def _make_front_matter(
    table: Table,
    result: TaskResult,
    made: Lineage,
    rows: Sequence[tuple[Block, Row]],
    tasks: Tasks,
) -> dict[str, Any]:
    """The front matter as the Hub wants it: huggingface_hub builds it, model-index included."""
    from huggingface_hub import ModelCardData

    record = result.model
    parents = list(
        dict.fromkeys(
            a.place for a in made.ancestors if a.place and not a.place.startswith(hub.BUILTIN)
        )
    )
    tags = [
        "lep-bench",
        "vocabulary-adaptation",
        "learned-embedding-propagation",
        *filter(None, (record.vocabulary, record.propagation, record.tuning)),
    ]
    scores = make_eval_results(table, *rows[0], tasks) if rows else []
    licence = (
        made.licences[0]
        if len(made.licences) == 1
        else ("unknown" if "" in made.licences else "other")
    )
    data = ModelCardData(
        base_model=parents or None,
        base_model_relation="finetune" if parents else None,
        license=licence or "unknown",
        license_name="those-of-its-parents"
        if licence == "other" and len(made.licences) > 1
        else None,
        language=list(LANGUAGES),
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=tags,
        model_name=record.name,
        eval_results=scores or None,
    ).to_dict()
    data.pop("model_name", None)  # stands in the model-index
    return data


def _render_summary(table: Table, result: TaskResult) -> list[str]:
    way = {
        "init": (
            "the base model with a new vocabulary; new rows are means of old ones, nothing was "
            "trained"
        ),
        "instruct-init": (
            "the instruct model with a new vocabulary; new rows are means of old ones, nothing "
            "was trained"
        ),
        "donor": (
            "the base model with a new vocabulary, embeddings and head trained on Russian text; "
            "the body is the base model's"
        ),
        "propagation": "the instruct model with a donor's vocabulary, "
        "whose embeddings were carried over by "
        "Learned Embedding Propagation "
        "([arXiv 2412.21140](https://arxiv.org/abs/2412.21140)) without training the instruct "
        "model on it",
        "instruct": "the instruct model with its own vocabulary",
        "local": "adapted with `lep-bench adapt`",
    }
    stage = way.get(result.model.stage, result.model.stage)
    stage += (
        f"; vocabulary: {format_code(result.model.vocabulary)}" if result.model.vocabulary else ""
    )
    tuned = f"; then tuned: {format_code(result.model.tuning)}" if result.model.tuning else ""
    lines = [f"> **{escape_markdown(table.note)}**", ""] if table.note else []
    lines += [f"{stage[0].upper()}{stage[1:]}{tuned}. Languages: Russian and English.", ""]
    return [*lines, "Written by `lep-bench publish` from measured results."]


def _render_lineage(made: Lineage) -> list[str]:
    rows = []
    for a in made.ancestors:
        where = format_code(a.place) if a.place else f"{format_code(a.name)} (a local folder)"
        built_in = a.place.startswith(hub.BUILTIN)
        revision = (
            format_code(a.revision)
            if a.revision
            else "of lep-bench"
            if built_in
            else "not pinned"
            if a.place
            else MISSING
        )
        rows.append(
            [
                a.role,
                where,
                revision,
                format_code(a.digest) if a.digest else MISSING,
                escape_markdown(a.licence or UNKNOWN_LICENCE),
            ]
        )
    return [
        "## Parents",
        "",
        *format_table(
            ["role", "checkpoint", "revision", "hash of its tensors", "licence"], rows, "l"
        ),
    ]


def _render_method(made: Lineage) -> list[str]:
    """Each stage with its parameters, training and rows; the fit."""
    rows = []
    for lep in made.steps:
        given = ", ".join(f"{key} {format_value(value)}" for key, value in lep.params.items())
        method = format_code(lep.adapter) if lep.adapter else MISSING
        rows.append(
            [
                escape_markdown(lep.stage),
                format_code(lep.model),
                method,
                escape_markdown(given) or MISSING,
                format_code(lep.fingerprint),
            ]
        )
    lines = [
        "## How it was made",
        "",
        *format_table(["stage", "model", "method", "parameters", "fingerprint"], rows, "l"),
        "",
    ]
    last = made.steps[-1]
    if last.rows:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in last.rows.items() if count)
        lines.append(
            f"- Vocabulary: {last.vocabulary_size:,} entries; rows: {escape_markdown(kinds)}; row "
            f"policy {escape_markdown(last.row_policy)}."
        )
    for lep in (step for step in made.steps if step.training):
        numbers = {
            key.replace("_", " "): value
            for key, value in lep.training.items()
            if isinstance(value, int | float) and key != "seconds"
        }
        told = ", ".join(f"{key} {format_value(value)}" for key, value in numbers.items())
        lines.append(
            f"- Training of {format_code(lep.model)} (seed {lep.seed}): {escape_markdown(told)}."
        )
    notes = {note: step.model for step in made.steps for note in step.notes}
    lines += [
        f"- Note of {format_code(model)}: {escape_markdown(note.rstrip('.'))}."
        for note, model in notes.items()
    ]
    for lep in (step for step in made.steps if step.fit):
        heads = ("matrix", "method", *(key.replace("_", " ") for key in _FIT))
        rows = [
            [matrix, *(format_value(fit.get(key, MISSING)) for key in ("method", *_FIT))]
            for matrix, fit in lep.fit.items()
        ]
        lines += [
            "",
            f"Fit of {format_code(lep.adapter or lep.stage)}, per matrix:",
            "",
            *format_table(heads, [list(map(escape_markdown, row)) for row in rows], "llr"),
        ]
    return lines


def _render_scores(table: Table, block: Block, row: Row) -> list[str]:
    """Every score beside the fair control's, the paired difference of the mean, and the other
    planned comparisons.
    """
    peers = {r.model: r for r in block.rows}
    control = peers.get(row.control or "")
    heads, rows = ["score", "this model", *([format_code(control.model)] if control else [])], []
    for i, column in enumerate(table.columns):
        # The control's own verdicts are about another control.
        shown = [row.cells[i], *([replace(control.cells[i], verdict=None)] if control else [])]
        rows.append(
            [
                escape_markdown(column.label),
                *(format_cell(one, column.percent, column.digits, " ±") for one in shown),
            ]
        )
    rows.append(
        [
            f"**{escape_markdown(label_mean(table))}**",
            *(format_cell(r.mean, True, 1, " ±") for r in (row, control) if r),
        ]
    )
    lines = [
        f"## Scores: {escape_markdown(describe_condition(block))}",
        "",
        *format_table(heads, rows),
        "",
    ]
    lines += [f"- Marked: {escape_markdown(format_marks(row))}."] if format_marks(row) else []
    lines.append(
        "- Scores are in percent, ± one standard error over items, clustered by item group."
    )
    if any(cell.verdict for cell in row.cells):
        equal = f"= equal (within ±{format_number(table.delta, True, 1)})"
        lines.append(
            f"- ▲ higher, ▼ lower, {equal}, · undecided: against its fair control, corrected "
            "by Holm over tasks and models."
        )
    if row.difference and control:
        lines.append(
            f"- **Against {format_code(control.model)}, its fair control: "
            f"{_format_contrast(row.difference)}.**"
        )
    elif control:
        lines.append(
            f"- No difference from {format_code(control.model)}, its fair control: "
            f"{escape_markdown(row.refused or 'not both have the whole mean')}."
        )
    else:
        lines.append(
            "- This suite has no fair control for it, so the numbers do not show what the "
            "adaptation did."
        )
    for finding in block.findings:
        if finding.model == row.model and (
            control is None or finding.difference.control != control.model
        ):
            lines.append(
                f"- {escape_markdown(finding.question)} Against "
                f"{format_code(finding.difference.control)}: "
                f"{_format_contrast(finding.difference)}."
            )
    return lines


def _format_contrast(d: Difference) -> str:
    """`−26.8 points, 95% interval [−29.5, −24.1], corrected p <0.001: lower`."""
    said = f"{format_number(d.value, True, 1, sign=True)} points"
    said += (
        f", 95% interval {format_interval(d)}"
        if d.low is not None
        else f" ±{format_number(d.stderr, True, 1)}"
        if d.stderr
        else ""
    )
    said += f", corrected p {format_p(d.corrected)}" if d.corrected is not None else ""
    return said + (f": {d.verdict}" if d.verdict else "")


def _render_cost(table: Table, rows: Sequence[tuple[Block, Row]]) -> list[str]:
    """What its texts look like, and what its answers took."""
    found = []
    for block, row in rows:
        how = escape_markdown(describe_condition(block))
        if row.health:
            told = [
                f"{h} {v}"
                for h, v in zip(HEALTH_HEADERS, format_health(row), strict=True)
                if v != MISSING
            ]
            found.append(f"- {how}: " + ", ".join(told) + "; shares in percent.")
        if row.cost and row.cost.tasks:
            spent = zip(make_cost_headers(table), format_cost(table, row), strict=True)
            told = [
                f"{escape_markdown(head)} {value}"
                for head, value in spent
                if head in COST_HEADERS and value != MISSING
            ]
            found.append(f"- {how}: {', '.join(told)}; {escape_markdown(row.cost.machine)}.")
    return ["## Health and cost", "", *found] if found else []


def _render_licences(made: Lineage) -> list[str]:
    known = ", ".join(format_code(licence) for licence in made.licences if licence)
    said = f"Its parents are under {known}; their terms bind this model." if known else ""
    doubt = " The licence of some parents is unknown." if "" in made.licences else ""
    return [
        "## Licences",
        "",
        f"{said}{doubt} Check each parent's page before you publish weights.".strip(),
    ]


def _render_commands(table: Table, result: TaskResult, commands: Sequence[str]) -> list[str]:
    packages = result.provenance.packages
    versions = ", ".join(
        escape_markdown(f"{name} {version}") for name, version in sorted(packages.items())
    )
    commit = result.provenance.git_commit
    export = (
        [f"lep-bench export {shlex.quote(result.model.name)} ./exported --suite {table.suite}"]
        if result.model.family
        else []
    )
    lines = [
        "## Reproduce",
        "",
        "```",
        *(clean_text(command) for command in (*commands, *export)),
        "```",
        "",
    ]
    made = (
        f"Made with {versions}{f', commit {format_code(commit)}' if commit else ''}."
        if versions
        else ""
    )
    return [
        *lines,
        f"{made} This card comes without weights: `lep-bench export` writes them.".strip(),
    ]


def _render_limits(table: Table, rows: Sequence[tuple[Block, Row]]) -> list[str]:
    limited = any(row.limit is not None for _, row in rows)
    lines: Iterator[str] = filter(
        None,
        (
            (
                "Only what is scored above was measured: not safety, not long texts, no languages "
                "other than Russian and English. How the new vocabulary affects other languages "
                "is unknown."
            ),
            explain_seeds(table),
            (
                "Some scores cover only part of the items (limit); the metadata of this card "
                "leave them out."
            )
            if limited
            else "",
            "The training texts were not searched for the suite's rows."
            if table.contamination is None
            else "",
            "The parents' limits remain: an adapted model knows what its instruct model knew.",
        ),
    )
    return ["## Limits", "", *(f"- {line}" for line in lines)]


EVERY_EVAL_EVER = "0.2.1"  # version of eval.schema.json in github.com/evaleval/every_eval_ever
UNKNOWN = "unknown"
Tasks = Mapping[str, TaskFile]


def is_adapted(model: ModelRecord) -> bool:
    """Whether a model is one that lep-bench makes: anything of a family but its untuned base and
    instruct.
    """
    return model.family is not None and (
        model.stage not in ("base", "instruct") or model.tuning is not None
    )


def list_rows(table: Table, model: str) -> list[tuple[Block, Row]]:
    """The rows of a model that hold a number, those with most scores first."""
    rows = [(block, row) for block in table.blocks for row in block.rows if row.model == model]
    rows = [found for found in rows if any(c.value is not None for c in found[1].cells)]
    return sorted(rows, key=lambda found: -sum(c.value is not None for c in found[1].cells))


def find_dataset(task: TaskFile | None) -> str | None:
    """The Hub id of a task's rows; None for rows that stand beside the task, or under no id that
    could be named.
    """
    name = task.dataset[0] if task is not None and task.dataset else ""
    return name if bundle.HUB_ID.fullmatch(name) else None


def has_hub_datasets(tasks: Sequence[str], folders: Sequence[Path]) -> bool:
    """Whether the rows of at least one of these tasks are a data set of the Hub."""
    return any(find_dataset(task) for task in select_tasks(tasks, folders))


def _find_revision(task: TaskFile | None) -> str | None:
    """The commit of the rows; a branch or a shortened hash is none."""
    return (
        task.revision
        if task is not None and re.fullmatch(r"[0-9a-f]{40}", task.revision or "")
        else None
    )


def round_score(cell: Cell, column: Column) -> float:
    """A score as the page prints it, with one digit more."""
    assert cell.value is not None
    return float(format_number(cell.value, column.percent, column.digits + 1).replace("−", "-"))


def _citable_scores(table: Table, row: Row) -> list[tuple[Column, Cell]]:
    """What may be cited: whole and current scores."""
    pairs = zip(table.columns, row.cells, strict=True)
    return [
        (column, cell)
        for column, cell in pairs
        if cell.value is not None and cell.limit is None and not cell.stale
    ]


def make_eval_results(table: Table, block: Block, row: Row, tasks: Tasks) -> list[EvalResult]:
    """The row for the front matter's model-index. A task without a data set on the Hub stands there
    under its own name.
    """
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=find_dataset(tasks.get(column.task)) or column.task,
            dataset_name=column.task,
            dataset_config=task.config if (task := tasks.get(column.task)) else None,
            dataset_revision=_find_revision(task),
            dataset_args={"num_few_shot": block.condition.shots},
            metric_type=column.metric,
            metric_name=f"{column.label}{', percent' if column.percent else ''}",
            metric_value=round_score(cell, column),
        )
        for column, cell in _citable_scores(table, row)
    ]


def render_eval_results(
    table: Table, block: Block, row: Row, tasks: Tasks, date: str
) -> dict[str, str]:
    """File name -> text of the row's `.eval_results/*.yaml`, one per task: only tasks whose rows
    are a data set of the Hub.

    The format: huggingface.co/docs/hub/eval-results. The Hub shows an entry where the data set's
    owners registered it as a benchmark; `task_id` is lm-eval's name of the task.
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    found = {}
    for column, cell in _citable_scores(table, row):
        name, task = find_dataset(tasks.get(column.task)), tasks.get(column.task)
        if name is None or column.key != column.task:
            continue
        error = (
            f", standard error {format_number(cell.stderr, column.percent, column.digits + 1)}"
            if cell.stderr
            else ""
        )
        notes = (
            f"{column.metric}{', percent' if column.percent else ''}{error}; "
            f"{clean_text(describe_condition(block))}; {cell.samples} items; lep-bench"
        )
        entry = EvalResultEntry(
            name,
            column.task,
            round_score(cell, column),
            dataset_revision=_find_revision(task),
            date=date,
            notes=notes,
        )
        found[f"{column.task}.yaml"] = yaml.safe_dump(
            eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True
        )
    return found


def find_newest_time(results: Sequence[TaskResult]) -> datetime:
    """When the newest of these results was made: the time of all that is published of them, so that
    the same results give the same bytes.
    """
    found = max((r.provenance.created for r in results), default="")
    try:
        stamp = datetime.fromisoformat(found)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
    return stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)


def render_record(
    table: Table,
    block: Block,
    row: Row,
    tasks: Tasks,
    results: Sequence[TaskResult],
    command: str,
    organisation: str,
) -> tuple[str, str] | None:
    """Path below the folder `data/` and text of a row's record; `results` are the model's own,
    `command` makes them again. None where no score may be cited.

    A model that is not on the Hub goes by the organisation's name. The file's name depends on
    suite, model and way of asking alone: published again, the record takes its predecessor's place.
    """
    scores, own = _citable_scores(table, row), max(results, key=lambda r: r.provenance.created)
    if not scores:
        return None
    given = own.model.lineage[0] if own.model.lineage and not is_adapted(own.model) else ""
    if not bundle.HUB_ID.fullmatch(given):
        given = f"{_slug(organisation)}/{row.model.replace('/', '--')}"
    developer, name = given.split("/")
    when = find_newest_time(results)
    made = [
        _make_evaluation(block, column, cell, tasks.get(column.task), when.isoformat(), command)
        for column, cell in scores
    ]
    content = json.dumps(made, sort_keys=True, ensure_ascii=False, allow_nan=False)
    ours, packages = is_adapted(own.model), own.provenance.packages
    found = {
        "schema_version": EVERY_EVAL_EVER,
        "evaluation_id": f"{table.suite}/{given}/{int(when.timestamp())}",
        "evaluation_timestamp": when.isoformat(),
        "retrieved_timestamp": str(int(when.timestamp())),
        "dedupe_identity": {
            "content_hash": hashlib.sha256(content.encode()).hexdigest(),
            "hash_algorithm": "sha256",
        },
        "source_metadata": {
            "source_name": f"lep-bench, suite {table.suite}",
            "source_type": "evaluation_run",
            "source_organization_name": organisation or UNKNOWN,
            "evaluator_relationship": "first_party" if ours else "third_party",
        },
        "model_info": {
            "name": row.model,
            "id": given,
            "developer": developer,
            "inference_engine": {
                "name": block.condition.engine,
                "version": own.provenance.engine_version or UNKNOWN,
            },
            "additional_details": {
                "fingerprint": own.model.fingerprint,
                "stage": own.model.stage,
                "dtype": block.condition.dtype,
            },
        },
        "eval_library": {
            "name": "lep-bench",
            "version": packages.get("lep-bench", UNKNOWN),
            "additional_details": {
                name: version for name, version in sorted(packages.items()) if name != "lep-bench"
            },
        },
        "evaluation_results": made,
    }
    # By its form a random one (version 4), as that project wants it, but always the same.
    identity = uuid.UUID(
        bytes=hashlib.sha256(f"{table.suite}/{given}/{block.condition}".encode()).digest()[:16],
        version=4,
    )
    path = "/".join(part.lstrip(".") or UNKNOWN for part in (table.suite, developer, name))
    return f"{path}/{identity}.json", json.dumps(
        found, indent=1, ensure_ascii=False, allow_nan=False
    ) + "\n"


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or UNKNOWN


def _make_evaluation(
    block: Block, column: Column, cell: Cell, task: TaskFile | None, when: str, command: str
) -> dict[str, Any]:
    assert cell.value is not None
    name, c = find_dataset(task), block.condition
    details = {
        "task": column.task,
        **({"version": task.version, "fingerprint": task.fingerprint} if task else {}),
    }
    details |= {"revision": task.revision} if task and task.revision else {}
    if name is None:
        data: dict[str, Any] = {
            "source_type": "other",
            "additional_details": details | {"rows": "beside the lm-eval task of this name"},
        }
    else:
        data = {
            "source_type": "hf_dataset",
            "hf_repo": name,
            "samples_number": cell.samples,
            "additional_details": details,
        }
    uncertainty: dict[str, Any] = {"num_samples": cell.samples}
    if cell.stderr is not None:
        uncertainty["standard_error"] = {
            "value": float(f"{cell.stderr:.6g}"),
            "method": "over items, clustered by item group",
        }
    how = {
        "protocol": c.protocol,
        "shots": str(c.shots),
        "format": c.format,
        "training_seeds": str(cell.seeds),
    }
    return {
        "evaluation_name": column.key,
        "evaluation_timestamp": when,
        "source_data": {"dataset_name": name or column.task, **data},
        "metric_config": {
            "evaluation_description": f"{column.metric} of {column.task}",
            "lower_is_better": not column.percent and column.metric != SYMBOLS,
            # never left out: the schema would ask for the fields of levels
            "score_type": "continuous",
            "min_score": 0.0 if cell.value >= 0 else -1.0,  # a correlation
            # What is no share has no bound; the schema wants one.
            "max_score": 1.0 if column.percent else float(max(8, math.ceil(cell.value))),
        },
        "score_details": {"score": float(f"{cell.value:.10g}"), "uncertainty": uncertainty},
        "generation_config": {
            "generation_args": {"execution_command": command},
            "additional_details": how,
        },
    }


def read_artifacts(store: Store, results: Iterable[TaskResult]) -> list[Lep]:
    """The lep.json of every scored model and of all its ancestors, as far as they were made into
    `store` and are still there.

    Raises CheckpointError for a damaged one."""
    found: dict[str, Lep] = {}
    wanted = [(format_model_key(result), result.model.fingerprint) for result in results]
    for name, fingerprint in wanted:  # grows while it is read: parents follow
        if fingerprint not in found and (lep := read_stage(store, name, fingerprint)) is not None:
            found[fingerprint] = lep
            wanted += [(parent.name, parent.digest) for parent in lep.parents]
    return list(found.values())
