"""The model card of a model that lep-bench made: from what, how, how good it is, what it costs, how
to make it again.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from lep_bench import bundle, hub
from lep_bench.errors import LepBenchError
from lep_bench.leaderboard import cost, health, text, upload
from lep_bench.leaderboard.page import escape, format_code, format_table, fresh, place
from lep_bench.leaderboard.table import Block, Difference, Row, Table
from lep_bench.records import artifact
from lep_bench.records.artifact import LEP, Lep, Parent
from lep_bench.records.schema import TaskResult
from lep_bench.records.store import Store

LANGUAGES = ("ru", "en")  # what a vocabulary is made for, and what the parents speak
OURS = "apache-2.0"  # of the built-in checkpoints
LOOK = "not known: look before you publish"
FRONT = re.compile(r"\A---\n(.*?\n)---\n", re.DOTALL)
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
class Made:
    """How a model came about: its stages, oldest first, and the checkpoints that they began
    with.
    """

    steps: tuple[Lep, ...]
    ancestors: tuple[Ancestor, ...]

    @property
    def licences(self) -> tuple[str, ...]:
        """Of all ancestors, each once; "" among them: not all are known."""
        return tuple(dict.fromkeys(a.licence for a in self.ancestors))


def trace_lineage(result: TaskResult, store: Store, licences: Mapping[str, str]) -> Made | None:
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
            text.parent(p.name),
            _place(p.location),
            p.revision,
            p.digest,
            _licence(p, licences),
        )
        for p in named
    ]
    return Made(tuple(steps.values()), tuple(sorted(ancestors, key=lambda a: _ROLES.index(a.role))))


def read_stage(store: Store, name: str, fingerprint: str) -> Lep | None:
    """The `lep.json` of a model of that fingerprint in OUT; None where it is not there. Raises
    CheckpointError for a damaged one.
    """
    try:
        folder = store.artifact(name, fingerprint)
    except LepBenchError:  # a name that is none of ours: a built-in one, a path
        return None
    return artifact.read_lep(folder) if (folder / LEP).is_file() else None


def _place(location: str) -> str:
    known = location.startswith(hub.BUILTIN) or (
        bundle.HUB_ID.fullmatch(location) and not Path(location).is_dir()
    )
    return location if known else ""


def _licence(parent: Parent, known: Mapping[str, str]) -> str:
    """What the checkpoint's own README.md or the bundle's manifest says, else the family's YAML; ""
    where none does. Nothing is fetched.
    """
    if parent.location.startswith(hub.BUILTIN):
        return OURS
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
    found = FRONT.match(card)
    try:
        data = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError:
        data = {}
    return data if isinstance(data, dict) else {}


def render_card(
    table: Table,
    result: TaskResult,
    made: Made,
    tasks: upload.Tasks,
    commands: Sequence[str],
    existing: str | None,
) -> str:
    """The text of a model's README.md; of an `existing` one, which has the markers, own prose and
    front matter stay.

    `result` is any of the model's, the newest best; `commands` make it and its control again."""
    name = result.model.name
    rows = upload.standing(table, name)
    parts = [
        _what(table, result),
        _lineage(made),
        _method(made),
        *(_scores(table, block, row) for block, row in rows),
    ]
    parts += [
        _cost(table, rows),
        _licences(made),
        _again(table, result, commands),
        _limits(table, rows),
    ]
    matter = _matter(table, result, made, rows, tasks)
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
        "\n" + fresh(title, body)
        if existing is None
        else place(FRONT.sub("", existing, count=1), body)
    )
    assert page is not None, "whoever calls has looked for the markers"
    return (
        "---\n"
        f"{yaml.safe_dump(own | dict(matter), sort_keys=False, allow_unicode=True, width=1000)}"
        f"---\n{page}"
    )


def _matter(
    table: Table,
    result: TaskResult,
    made: Made,
    rows: Sequence[tuple[Block, Row]],
    tasks: upload.Tasks,
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
        record.vocabulary,
        record.propagation,
        record.tuning,
    ]
    tags = list(filter(None, tags))
    scores = upload.eval_results(table, *rows[0], tasks) if rows else []
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


def _what(table: Table, result: TaskResult) -> list[str]:
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
        "propagation": "the instruct model with a donor's vocabulary, whose embeddings were carried over by "
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
    lines = [f"> **{escape(table.note)}**", ""] if table.note else []
    lines += [f"{stage[0].upper()}{stage[1:]}{tuned}. Languages: Russian and English.", ""]
    return [*lines, "Written by `lep-bench publish` from what was measured."]


def _lineage(made: Made) -> list[str]:
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
            else text.MISSING
        )
        rows.append(
            [
                a.role,
                where,
                revision,
                format_code(a.digest) if a.digest else text.MISSING,
                escape(a.licence or LOOK),
            ]
        )
    return [
        "## What it was made from",
        "",
        *format_table(
            ["role", "checkpoint", "revision", "hash of its tensors", "licence"], rows, "l"
        ),
    ]


def _method(made: Made) -> list[str]:
    """Each stage with its parameters, training and rows; the fit."""
    rows = []
    for lep in made.steps:
        given = ", ".join(f"{key} {text.short(value)}" for key, value in lep.params.items())
        method = format_code(lep.adapter) if lep.adapter else text.MISSING
        rows.append(
            [
                escape(lep.stage),
                format_code(lep.model),
                method,
                escape(given) or text.MISSING,
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
            f"- Vocabulary: {last.vocabulary_size:,} entries; rows: {escape(kinds)}; row "
            f"policy {escape(last.row_policy)}."
        )
    for lep in (step for step in made.steps if step.training):
        numbers = {
            key.replace("_", " "): value
            for key, value in lep.training.items()
            if isinstance(value, int | float) and key != "seconds"
        }
        told = ", ".join(f"{key} {text.short(value)}" for key, value in numbers.items())
        lines.append(f"- Training of {format_code(lep.model)} (seed {lep.seed}): {escape(told)}.")
    notes = {note: step.model for step in made.steps for note in step.notes}
    lines += [
        f"- Note of {format_code(model)}: {escape(note.rstrip('.'))}."
        for note, model in notes.items()
    ]
    for lep in (step for step in made.steps if step.fit):
        heads = ("matrix", "method", *(key.replace("_", " ") for key in _FIT))
        rows = [
            [matrix, *(text.short(fit.get(key, text.MISSING)) for key in ("method", *_FIT))]
            for matrix, fit in lep.fit.items()
        ]
        lines += [
            "",
            f"Fit of {format_code(lep.adapter or lep.stage)}, per matrix:",
            "",
            *format_table(heads, [list(map(escape, row)) for row in rows], "llr"),
        ]
    return lines


def _scores(table: Table, block: Block, row: Row) -> list[str]:
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
                escape(column.label),
                *(text.cell(one, column.percent, column.digits, " ±") for one in shown),
            ]
        )
    rows.append(
        [
            f"**{escape(text.mean_label(table))}**",
            *(text.cell(r.mean, True, 1, " ±") for r in (row, control) if r),
        ]
    )
    lines = [f"## Scores: {escape(text.condition(block))}", "", *format_table(heads, rows), ""]
    lines += [f"- Marked: {escape(text.marks(row))}."] if text.marks(row) else []
    lines.append(
        "- Scores are in percent, ± one standard error over items, clustered by item group."
    )
    if any(cell.verdict for cell in row.cells):
        equal = f"= equal (within ±{text.number(table.delta, True, 1)})"
        lines.append(
            f"- ▲ higher, ▼ lower, {equal}, · undecided: against its fair control, corrected "
            "by Holm over tasks and models."
        )
    if row.difference and control:
        lines.append(
            f"- **Against {format_code(control.model)}, its fair control: "
            f"{_told(row.difference)}.**"
        )
    elif control:
        lines.append(
            f"- No difference from {format_code(control.model)}, its fair control: "
            f"{escape(row.refused or 'not both have the whole mean')}."
        )
    else:
        lines.append(
            "- There is no fair control of it in this suite: the numbers say nothing about "
            "what the adaptation did."
        )
    for finding in block.findings:
        if finding.model == row.model and (
            control is None or finding.difference.control != control.model
        ):
            lines.append(
                f"- {escape(finding.question)} Against "
                f"{format_code(finding.difference.control)}: {_told(finding.difference)}."
            )
    return lines


def _told(d: Difference) -> str:
    """`−26.8 points, 95% interval [−29.5, −24.1], corrected p <0.001: lower`."""
    said = f"{text.number(d.value, True, 1, sign=True)} points"
    said += (
        f", 95% interval {text.interval(d)}"
        if d.low is not None
        else f" ±{text.number(d.stderr, True, 1)}"
        if d.stderr
        else ""
    )
    said += f", corrected p {text.p_value(d.corrected)}" if d.corrected is not None else ""
    return said + (f": {d.verdict}" if d.verdict else "")


def _cost(table: Table, rows: Sequence[tuple[Block, Row]]) -> list[str]:
    """What its texts look like, and what its answers took."""
    found = []
    for block, row in rows:
        how = escape(text.condition(block))
        if row.health:
            told = [
                f"{h} {v}"
                for h, v in zip(health.HEADERS, health.numbers(row), strict=True)
                if v != text.MISSING
            ]
            found.append(f"- {how}: " + ", ".join(told) + "; shares in percent.")
        if row.cost and row.cost.tasks:
            spent = zip(cost.headers(table), cost.numbers(table, row), strict=True)
            told = [
                f"{escape(head)} {value}"
                for head, value in spent
                if head in cost.HEADERS and value != text.MISSING
            ]
            found.append(f"- {how}: {', '.join(told)}; {escape(row.cost.machine)}.")
    return ["## Health and cost", "", *found] if found else []


def _licences(made: Made) -> list[str]:
    known = ", ".join(format_code(licence) for licence in made.licences if licence)
    said = f"Its parents are under {known}; what binds them binds this model." if known else ""
    doubt = " Of some parents the licence is not known here." if "" in made.licences else ""
    return [
        "## Licences",
        "",
        f"{said}{doubt} Look at each parent's page before you publish weights.".strip(),
    ]


def _again(table: Table, result: TaskResult, commands: Sequence[str]) -> list[str]:
    packages = result.provenance.packages
    versions = ", ".join(escape(f"{name} {version}") for name, version in sorted(packages.items()))
    commit = result.provenance.git_commit
    export = (
        [f"lep-bench export {shlex.quote(result.model.name)} ./exported --suite {table.suite}"]
        if result.model.family
        else []
    )
    lines = [
        "## Make it again",
        "",
        "```",
        *(text.clean(command) for command in (*commands, *export)),
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
        f"{made} No weights lie beside this card: `lep-bench export` writes them.".strip(),
    ]


def _limits(table: Table, rows: Sequence[tuple[Block, Row]]) -> list[str]:
    limited = any(row.limit is not None for _, row in rows)
    lines: Iterator[str] = filter(
        None,
        (
            "Only what is scored above was measured: no safety, no long texts, no languages "
            "but Russian and English. What another language costs "
            "after the change of vocabulary is not known.",
            text.seed_remark(table),
            (
                "Some scores are of a part of the items only (limit); they are in no metadata of "
                "this card."
            )
            if limited
            else "",
            "Nobody looked for the suite's rows in the training texts."
            if table.contamination is None
            else "",
            "The parents' limits stay: an adapted model knows what its instruct model knew.",
        ),
    )
    return ["## Limits", "", *(f"- {line}" for line in lines)]
