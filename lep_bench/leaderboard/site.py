"""One self-contained page: table, pictures, models and their answers in a single file that opens
without network or server.

Names, answers and reasons are somebody else's: they stand in the page as escaped text, or in a
block of JSON that scripts put in place as text only; a Content-Security-Policy lets nothing run but
the two scripts that stand here, and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from lep_bench import __version__, files
from lep_bench.leaderboard import browse, plots, recommend, text
from lep_bench.leaderboard.cells import choose_results, describe_machine
from lep_bench.leaderboard.plots import WIDE, Curve
from lep_bench.leaderboard.table import SYMBOLS, Block, Cell, Row, Section, Table
from lep_bench.records.artifact import Lep
from lep_bench.records.schema import Sample, TaskResult

ASSETS = Path(__file__).parent / "assets"
SITE_FILE = "index.html"
# of cost.HEADERS; the rest stands with the model
SITE_COSTS = ("relative tokens", "tokens in", "tokens out", "seconds")
DEFAULT_SAMPLES = 100  # items per task on the page, unless another number is asked for


def write_site(
    folder: Path,
    table: Table,
    results: Iterable[TaskResult],
    samples: Callable[[TaskResult], Sequence[Sample]],
    *,
    artifacts: Iterable[Lep] = (),
    curves: Sequence[Curve] = (),
    most: int = DEFAULT_SAMPLES,
    questions: browse.Questions = lambda result, rows: {},
    drawn: Path | None = None,
) -> Path:
    """Write `folder`/index.html, whole or not at all; returns the file.

    `artifacts` are the lep.json of the models in the table, where there are any; of each task
    `most` items are shown (0: none), asked as `questions` says; pictures that `plots.draw` left in
    `drawn` are taken from there. Raises LepBenchError for a folder that cannot be written.
    """
    file = folder / SITE_FILE
    with files.explain_disk_errors(file):  # before the work, not after it
        folder.mkdir(parents=True, exist_ok=True)
    cells = [
        c.result for c in choose_results(results, table.suite, [task for task, _ in table.items])
    ]
    known = {lep.fingerprint: lep for lep in artifacts}
    first = {
        (r.model.name, r.scoring.dtype, r.provenance.engine): r
        for r in sorted(cells, key=lambda r: -r.model.seed)
    }
    opened = {}
    for number, block in enumerate(table.blocks):
        for row in block.rows:
            result = first.get((row.model, block.condition.dtype, block.condition.engine))
            lep = known.get(result.model.fingerprint) if result else None
            opened[browse.name_row(number, row.model)] = [
                asdict(part) for part in list_details(table, block, row, lep, result)
            ]
    data = {
        "models": opened,
        "names": {
            browse.name_row(n, row.model): row.model
            for n, b in enumerate(table.blocks)
            for row in b.rows
        },
        "conditions": [text.describe_condition(block) for block in table.blocks],
        "tasks": [
            asdict(one) for one in browse.collect_answers(table, cells, samples, most, questions)
        ],
    }
    pictures = "".join(
        _render_figure(picture, drawn) for picture in plots.plan_pictures(table, curves)
    )
    files.write_bytes(
        file, _fill_page(table, _embed_json(data), pictures).encode("utf-8", "replace")
    )
    return file


def _embed_json(data: object) -> str:
    """JSON that cannot end its script element; a lone half of a surrogate pair becomes an
    escape.
    """
    line = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    line = line.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return line.encode("utf-8", "backslashreplace").decode("utf-8")


def _fill_page(table: Table, data: str, pictures: str) -> str:
    style, library, script = (
        (ASSETS / name).read_text(encoding="utf-8")
        for name in ("page.css", "tablesort.min.js", "page.js")
    )
    allowed = (
        "default-src 'none'",
        "img-src data:",
        f"style-src '{_csp_hash(style)}'",
        f"script-src '{_csp_hash(library)}' '{_csp_hash(script)}'",
    )
    tables = "".join(
        _render_block(table, number, block) for number, block in enumerate(table.blocks)
    )
    policy = "; ".join((*allowed, "base-uri 'none'", "form-action 'none'"))
    filled = {
        "policy": policy,
        "style": style,
        "library": library,
        "script": script,
        "data": data,
        "title": _escape(table.title),
        "note": f'<p class="note" role="note">{_escape(table.note)}</p>' if table.note else "",
        "ship": _render_advice(table),
        "tables": tables or "<p>Nothing has been scored yet.</p>",
        "families": "".join(f"<option>{_escape(family)}</option>" for family in table.families),
        "stages": "".join(
            f"<option>{_escape(stage)}</option>"
            for stage in dict.fromkeys(row.stage for row in table.rows)
        ),
        "legend": _render_list(
            [
                *text.make_legend(table),
                *filter(None, map(text.describe_power, table.blocks)),
                *text.explain_cost(table),
            ]
        ),
        "pictures": pictures,
        "remarks": _render_remarks(table),
        "version": escape(__version__),
    }
    # In one pass: a name that looks like a place of the page stays a name.
    return re.sub(
        r"\{\{(\w+)\}\}",
        lambda found: filled[found[1]],
        (ASSETS / "page.html").read_text(encoding="utf-8"),
    )


def _csp_hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _escape(value: str) -> str:
    return escape(text.clean_text(value))


def _render_list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{_escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def _render_advice(table: Table) -> str:
    advised = recommend.recommendation_lines(
        table, lambda name: f"<code>{_escape(name)}</code>", _escape
    )
    parts = [
        (
            f"<div class=advice>{f'<h3>{family}</h3>' if family else ''}<p>"
            f"{'</p><p>'.join(lines)}</p></div>"
        )
        for family, lines in advised
    ]
    return "".join(parts) + f"<p class=small>{_escape(recommend.RULE)}</p>"


def _render_block(table: Table, number: int, block: Block) -> str:
    """A table per block, a body per family: only what may be compared is sorted together."""
    heads = [("model", "", "text", False)]
    heads += [
        (
            c.label,
            "" if c.in_mean or c.metric == SYMBOLS else c.task,
            "number",
            c.percent or c.metric == SYMBOLS,
        )
        for c in table.columns
    ]
    single = [i + 1 for i, c in enumerate(table.columns) if c.metric != SYMBOLS]
    heads += [(text.label_mean(table), "", "number", True), ("rank", "", "number", False)]
    heads += [(s.label, "", "number", True) for s in table.summaries]
    heads += [("difference", "", "number", True), *((h, "", "number", False) for h in SITE_COSTS)]
    cells = "".join(
        (
            f"<th scope=col data-sort-method={kind}{' data-sort-reverse' if best_first else ''}"
            f"{' class=task' if i in single else ''}>{_escape(label)}</th>"
        )
        for i, (label, _, kind, best_first) in enumerate(heads)
    )
    caption = (
        f"<caption><div>{_escape(text.describe_condition(block))}. <span>Headings sort "
        "within a family: "
        "click, or Enter.</span></div></caption>"
    )
    bodies = "".join(
        _render_section(table, number, section, len(heads), single) for section in block.sections
    )
    label = f"Table {number + 1}: {_escape(text.describe_condition(block))}"
    return (
        f'<div class=wide role=region tabindex=0 aria-label="{label}"><table>{caption}'
        f"<thead><tr>{cells}</tr></thead>{bodies}</table></div>"
    )


def _render_section(
    table: Table, number: int, section: Section, width: int, single: Sequence[int]
) -> str:
    head = (
        f"<tr class=family data-sort-method=none><th colspan={width} scope=rowgroup><span>"
        f"{_escape(section.family)}</span></th></tr>"
    )
    return (
        f"<tbody>{head}"
        f"{''.join(_render_row(table, number, section, row, single) for row in section.rows)}"
        "</tbody>"
    )


def _render_row(
    table: Table, number: int, section: Section, row: Row, single: Sequence[int]
) -> str:
    columns = [(c.percent, c.digits, cell) for c, cell in zip(table.columns, row.cells)]
    values = [
        (text.format_cell(cell, percent, digits, " ±"), cell.value)
        for percent, digits, cell in columns
    ]
    values += [
        (text.format_cell(row.mean, True, 1, " ±"), row.mean.value),
        (text.format_rank(row), sum(row.rank) if row.rank else None),
    ]
    values += [(text.format_cell(cell, True, 1, " ±"), cell.value) for cell in row.summaries]
    values.append(
        (
            text.format_difference(row.difference, " ±") if row.control else "",
            row.difference.value if row.difference else None,
        )
    )
    spent, words = (
        row.cost if row.cost and row.cost.tasks else None,
        dict(zip(text.COST_HEADERS, text.format_cost(table, row)[-len(text.COST_HEADERS) :])),
    )
    plain = (
        table.relative_tokens(row),
        *((spent.tokens_in, spent.tokens_out, spent.seconds) if spent else (None, None, None)),
    )
    values += zip((words[name] for name in SITE_COSTS), plain)
    tds = "".join(
        (
            f"<td{' class=task' if i in single else ''}"
            f"{f' data-sort={value:.9g}' if value is not None else ''}>{_mark_signs(shown)}</td>"
        )
        for i, (shown, value) in enumerate(values, 1)
    )
    marks = (f" <b>{_escape(row.letter)}</b>" if row.letter else "") + (
        f" <em>{_escape(text.format_marks(row))}</em>" if text.format_marks(row) else ""
    )
    name = f"<button type=button class=open>{_escape(row.label)}</button>{marks}"
    known = (
        f'data-row="{escape(browse.name_row(number, row.model))}" data-family="'
        f'{_escape(section.family)}" data-stage="{_escape(row.stage)}"'
    )
    return f'<tr {known}><th scope=row data-sort="{_escape(row.label)}">{name}</th>{tds}</tr>'


def _mark_signs(shown: str) -> str:
    """A cell's text, the verdict's sign with its word for those who hear it."""
    signs = {text.SIGNS[verdict]: verdict for verdict in ("higher", "lower")}
    return "".join(
        f'<span class={signs[c]} role=img aria-label="{signs[c]}">{c}</span>' if c in signs else c
        for c in _escape(shown)
    )


def _render_figure(picture: plots.Picture, drawn: Path | None) -> str:
    held = drawn is not None and not plots.explain_stale(picture, drawn)
    svg = base64.b64encode(
        (drawn / plots.FOLDER / f"{picture.name}.svg").read_bytes()
        if drawn and held
        else plots.render_picture(picture, "svg")
    ).decode()
    image = f'<img alt="{_escape(picture.alt)}" src="data:image/svg+xml;base64,{svg}">'
    return f"<figure>{image}<figcaption>{_escape(picture.caption)}</figcaption></figure>"


def _render_remarks(table: Table) -> str:
    lines = text.list_failures(table)
    lines += [
        f"Not compared with their controls: {', '.join(r.model for r in rows)}: {why}."
        for why, rows in text.list_refusals(table)
    ]
    lines += [
        text.describe_noise(n, describe_machine(n.machine), n.model, n.task) for n in table.noise
    ]
    for note in table.notes:
        models = "every model" if len(note.models) == table.models > 1 else ", ".join(note.models)
        lines.append(f"{note.text}: {', '.join(note.tasks)}; {models}")
    made = "".join(f"<pre>{escape(command)}</pre>" for command in table.made_by)
    return _render_list(lines) + f"<p>Reproduce with</p>{made}"


@dataclass(frozen=True)
class DetailTable:
    """A titled table; without `head` each line is a name and what belongs to it."""

    title: str
    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def list_details(
    table: Table, block: Block, row: Row, lep: Lep | None, result: TaskResult | None
) -> list[DetailTable]:
    """The parts of a row, empty ones left out."""
    parts = [
        DetailTable(
            "Scores",
            ("score", "value", "95% interval", "items", "against its control"),
            tuple(_list_scores(table, row)),
        ),
        DetailTable(
            "Planned comparisons",
            ("", *text.CONTRAST_HEADERS[1:-1], "verdict"),
            tuple(_list_contrasts(block, row)),
        ),
        DetailTable("Standing", (), tuple(_list_facts(table, row))),
        DetailTable(
            "Generated texts",
            (),
            tuple(zip(text.HEALTH_HEADERS, text.format_health(row))) if row.health else (),
        ),
        DetailTable("Cost", (), _list_cost(table, row)),
        *(_list_lineage(lep) if lep else _list_source(result)),
    ]
    return [part for part in parts if part.lines]


def _list_scores(table: Table, row: Row) -> list[tuple[str, ...]]:
    columns = [(c.label, c.percent, c.digits, cell) for c, cell in zip(table.columns, row.cells)]
    columns += [
        (text.label_mean(table), True, 1, row.mean),
        *((s.label, True, 1, cell) for s, cell in zip(table.summaries, row.summaries)),
    ]
    lines: list[tuple[str, ...]] = []
    for label, percent, digits, cell in columns:
        value = text.format_cell(replace(cell, verdict=None), percent, digits, None)
        lines.append(
            (
                label,
                value,
                _format_item_interval(cell, percent, digits),
                f"{cell.samples or ''}",
                _format_verdict(cell),
            )
        )
    return lines


def _format_item_interval(cell: Cell, percent: bool, digits: int) -> str:
    if cell.value is None or not cell.stderr:
        return text.MISSING
    half = WIDE * cell.stderr
    return (
        f"[{text.format_number(cell.value - half, percent, digits)}, "
        f"{text.format_number(cell.value + half, percent, digits)}]"
    )


def _format_verdict(cell: Cell) -> str:
    return f"{text.SIGNS[cell.verdict]} {cell.verdict}" if cell.verdict else ""


def _list_contrasts(block: Block, row: Row) -> list[tuple[str, ...]]:
    own = [f for f in block.findings if f.model == row.model]
    return [(f.question, f.difference.control, *text.format_contrast(f, " ±")) for f in own]


def _list_facts(table: Table, row: Row) -> list[tuple[str, str]]:
    facts = [("stage", row.stage), ("training seeds", text.format_seeds(row))]
    facts += (
        [
            (
                "rank",
                f"{text.format_rank(row)}: the ranks that the errors allow (95%, all rows jointly)",
            )
        ]
        if row.rank
        else []
    )
    if row.control:
        d = row.difference
        facts.append(("fair control", row.control))
        facts.append(
            (
                "difference of the mean",
                f"{text.format_difference(d, ' ±')} {text.format_interval(d)}"
                if d
                else row.refused or "not compared",
            )
        )
        facts += [("test", d.test)] if d and d.test else []
    facts += [("marks", text.format_marks(row))] if text.format_marks(row) else []
    return facts + [
        ("failed", f"{', '.join(f.tasks)}: {f.reason}")
        for f in table.failures
        if f.number == row.failure
    ]


def _list_cost(table: Table, row: Row) -> tuple[tuple[str, str], ...]:
    if row.cost is None or not row.cost.tasks:
        return ()
    pairs = list(zip(text.make_cost_headers(table), text.format_cost(table, row)))[
        -len(text.COST_HEADERS) :
    ]
    return (
        *pairs,
        ("measured on", row.cost.machine),
        *([("tasks counted", partly)] if (partly := text.count_timed(row)) else []),
    )


def _list_lineage(lep: Lep) -> list[DetailTable]:
    way = [(p.role, text.shorten_parent(p.name), p.revision or "", p.digest) for p in lep.parents]
    method = [
        ("method", lep.adapter or lep.stage),
        *_flatten(lep.params),
        ("row policy", lep.row_policy),
        ("training seed", str(lep.seed)),
    ]
    method += [
        ("vocabulary", f"{lep.vocabulary_size:,} entries"),
        *((f"rows {kind}", f"{n:,}") for kind, n in lep.rows.items()),
    ]
    method += [("fingerprint", lep.fingerprint), *(("note", note) for note in lep.notes)]
    fits = [
        DetailTable(f"Fit of the {matrix}", (), tuple(_flatten(report)))
        for matrix, report in lep.fit.items()
    ]
    training = DetailTable(
        "Training", (), tuple(_flatten({k: v for k, v in lep.training.items() if k != "loss"}))
    )
    return [
        DetailTable("Lineage", ("role", "model", "revision", "hash"), tuple(way)),
        DetailTable("How it was made", (), tuple(method)),
        *fits,
        training,
    ]


def _list_source(result: TaskResult | None) -> list[DetailTable]:
    """What the result itself says where the artifact is not in --out, or there is none: a
    checkpoint as it is.
    """
    if result is None:
        return []
    lines = [
        *(("from", text.shorten_parent(name)) for name in result.model.lineage),
        ("fingerprint", result.model.fingerprint),
    ]
    return [DetailTable("Lineage", (), tuple(lines))]


def _flatten(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Nested values as lines: `norms new donor`, `2.41`."""
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{before}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            lines += _flatten(value, f"{name} ")
        else:
            lines.append((name, text.format_value(value)))
    return lines
