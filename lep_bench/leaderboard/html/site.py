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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

from lep_bench import __version__, files
from lep_bench.leaderboard import cost, plots, recommend, text
from lep_bench.leaderboard.cells import choose_results
from lep_bench.leaderboard.curves import Curve
from lep_bench.leaderboard.html import browse, details
from lep_bench.leaderboard.table import SYMBOLS, Block, Row, Section, Table
from lep_bench.records.artifact import Lep
from lep_bench.records.schema import Sample, TaskResult

ASSETS = Path(__file__).parent / "assets"
FILE = "index.html"
# of cost.HEADERS; the rest stands with the model
COSTS = ("relative tokens", "tokens in", "tokens out", "seconds")
SAMPLES = 100  # items per task on the page, unless another number is asked for


def write_site(
    folder: Path,
    table: Table,
    results: Iterable[TaskResult],
    samples: Callable[[TaskResult], Sequence[Sample]],
    *,
    artifacts: Iterable[Lep] = (),
    curves: Sequence[Curve] = (),
    most: int = SAMPLES,
    questions: browse.Questions = lambda result, rows: {},
    drawn: Path | None = None,
) -> Path:
    """Write `folder`/index.html, whole or not at all; returns the file.

    `artifacts` are the lep.json of the models in the table, where there are any; of each task
    `most` items are shown (0: none), asked as `questions` says; pictures that `plots.draw` left in
    `drawn` are taken from there. Raises LepBenchError for a folder that cannot be written.
    """
    file = folder / FILE
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
            opened[browse.row_name(number, row.model)] = [
                asdict(part) for part in details.list_details(table, block, row, lep, result)
            ]
    data = {
        "models": opened,
        "names": {
            browse.row_name(n, row.model): row.model
            for n, b in enumerate(table.blocks)
            for row in b.rows
        },
        "conditions": [text.condition(block) for block in table.blocks],
        "tasks": [
            asdict(one) for one in browse.collect_answers(table, cells, samples, most, questions)
        ],
    }
    pictures = "".join(_figure(picture, drawn) for picture in plots.plan_pictures(table, curves))
    files.write_bytes(file, _page(table, _json(data), pictures).encode("utf-8", "replace"))
    return file


def _json(data: object) -> str:
    """JSON that cannot end its script element; a lone half of a surrogate pair becomes an
    escape.
    """
    line = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    line = line.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return line.encode("utf-8", "backslashreplace").decode("utf-8")


def _page(table: Table, data: str, pictures: str) -> str:
    style, library, script = (
        (ASSETS / name).read_text(encoding="utf-8")
        for name in ("page.css", "tablesort.min.js", "page.js")
    )
    allowed = (
        "default-src 'none'",
        "img-src data:",
        f"style-src '{_hash(style)}'",
        f"script-src '{_hash(library)}' '{_hash(script)}'",
    )
    tables = "".join(_table(table, number, block) for number, block in enumerate(table.blocks))
    policy = "; ".join((*allowed, "base-uri 'none'", "form-action 'none'"))
    filled = {
        "policy": policy,
        "style": style,
        "library": library,
        "script": script,
        "data": data,
        "title": _safe(table.title),
        "note": f'<p class="note" role="note">{_safe(table.note)}</p>' if table.note else "",
        "ship": _ship(table),
        "tables": tables or "<p>Nothing has been scored yet.</p>",
        "families": "".join(f"<option>{_safe(family)}</option>" for family in table.families),
        "stages": "".join(
            f"<option>{_safe(stage)}</option>"
            for stage in dict.fromkeys(row.stage for row in table.rows)
        ),
        "legend": _list(
            [
                *text.legend(table),
                *filter(None, map(text.smallest, table.blocks)),
                *cost.remarks(table),
            ]
        ),
        "pictures": pictures,
        "remarks": _remarks(table),
        "version": escape(__version__),
    }
    # In one pass: a name that looks like a place of the page stays a name.
    return re.sub(
        r"\{\{(\w+)\}\}",
        lambda found: filled[found[1]],
        (ASSETS / "page.html").read_text(encoding="utf-8"),
    )


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _safe(value: str) -> str:
    return escape(text.clean(value))


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{_safe(line)}</li>' for line in lines)}</ul>" if lines else ""


def _ship(table: Table) -> str:
    advised = recommend.recommendation_lines(
        table, lambda name: f"<code>{_safe(name)}</code>", _safe
    )
    parts = [
        (
            f"<div class=advice>{f'<h3>{family}</h3>' if family else ''}<p>"
            f"{'</p><p>'.join(lines)}</p></div>"
        )
        for family, lines in advised
    ]
    return "".join(parts) + f"<p class=small>{_safe(recommend.RULE)}</p>"


def _table(table: Table, number: int, block: Block) -> str:
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
    heads += [(text.mean_label(table), "", "number", True), ("rank", "", "number", False)]
    heads += [(s.label, "", "number", True) for s in table.summaries]
    heads += [("difference", "", "number", True), *((h, "", "number", False) for h in COSTS)]
    cells = "".join(
        (
            f"<th scope=col data-sort-method={kind}{' data-sort-reverse' if best_first else ''}"
            f"{' class=task' if i in single else ''}>{_safe(label)}</th>"
        )
        for i, (label, _, kind, best_first) in enumerate(heads)
    )
    caption = (
        f"<caption><div>{_safe(text.condition(block))}. <span>Headings sort within a family: "
        "click, or Enter.</span></div></caption>"
    )
    bodies = "".join(
        _body(table, number, section, len(heads), single) for section in block.sections
    )
    label = f"Table {number + 1}: {_safe(text.condition(block))}"
    return (
        f'<div class=wide role=region tabindex=0 aria-label="{label}"><table>{caption}'
        f"<thead><tr>{cells}</tr></thead>{bodies}</table></div>"
    )


def _body(table: Table, number: int, section: Section, width: int, single: Sequence[int]) -> str:
    head = (
        f"<tr class=family data-sort-method=none><th colspan={width} scope=rowgroup><span>"
        f"{_safe(section.family)}</span></th></tr>"
    )
    return (
        f"<tbody>{head}"
        f"{''.join(_row(table, number, section, row, single) for row in section.rows)}</tbody>"
    )


def _row(table: Table, number: int, section: Section, row: Row, single: Sequence[int]) -> str:
    columns = [(c.percent, c.digits, cell) for c, cell in zip(table.columns, row.cells)]
    values = [
        (text.cell(cell, percent, digits, " ±"), cell.value) for percent, digits, cell in columns
    ]
    values += [
        (text.cell(row.mean, True, 1, " ±"), row.mean.value),
        (text.rank(row), sum(row.rank) if row.rank else None),
    ]
    values += [(text.cell(cell, True, 1, " ±"), cell.value) for cell in row.summaries]
    values.append(
        (
            text.difference(row.difference, " ±") if row.control else "",
            row.difference.value if row.difference else None,
        )
    )
    spent, words = (
        row.cost if row.cost and row.cost.tasks else None,
        dict(zip(cost.HEADERS, cost.numbers(table, row)[-len(cost.HEADERS) :])),
    )
    plain = (
        cost.relative(table, row),
        *((spent.tokens_in, spent.tokens_out, spent.seconds) if spent else (None, None, None)),
    )
    values += zip((words[name] for name in COSTS), plain)
    tds = "".join(
        (
            f"<td{' class=task' if i in single else ''}"
            f"{f' data-sort={value:.9g}' if value is not None else ''}>{_signed(shown)}</td>"
        )
        for i, (shown, value) in enumerate(values, 1)
    )
    marks = (f" <b>{_safe(row.letter)}</b>" if row.letter else "") + (
        f" <em>{_safe(text.marks(row))}</em>" if text.marks(row) else ""
    )
    name = f"<button type=button class=open>{_safe(row.label)}</button>{marks}"
    known = (
        f'data-row="{escape(browse.row_name(number, row.model))}" data-family="'
        f'{_safe(section.family)}" data-stage="{_safe(row.stage)}"'
    )
    return f'<tr {known}><th scope=row data-sort="{_safe(row.label)}">{name}</th>{tds}</tr>'


def _signed(shown: str) -> str:
    """A cell's text, the verdict's sign with its word for those who hear it."""
    signs = {text.SIGNS[verdict]: verdict for verdict in ("higher", "lower")}
    return "".join(
        f'<span class={signs[c]} role=img aria-label="{signs[c]}">{c}</span>' if c in signs else c
        for c in _safe(shown)
    )


def _figure(picture: plots.Picture, drawn: Path | None) -> str:
    held = drawn is not None and not plots.why_stale(picture, drawn)
    svg = base64.b64encode(
        (drawn / plots.FOLDER / f"{picture.name}.svg").read_bytes()
        if drawn and held
        else plots.render_picture(picture, "svg")
    ).decode()
    image = f'<img alt="{_safe(picture.alt)}" src="data:image/svg+xml;base64,{svg}">'
    return f"<figure>{image}<figcaption>{_safe(picture.caption)}</figcaption></figure>"


def _remarks(table: Table) -> str:
    lines = text.failures(table)
    lines += [
        f"Not compared with their controls: {', '.join(r.model for r in rows)}: {why}."
        for why, rows in cost.refusals(table)
    ]
    lines += [cost.noise(n, cost.named(n.machine), n.model, n.task) for n in table.noise]
    for note in table.notes:
        models = "every model" if len(note.models) == table.models > 1 else ", ".join(note.models)
        lines.append(f"{note.text}: {', '.join(note.tasks)}; {models}")
    made = "".join(f"<pre>{escape(command)}</pre>" for command in table.made_by)
    return _list(lines) + f"<p>Made again by</p>{made}"
