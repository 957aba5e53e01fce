"""lep-bench: give a language model a Russian vocabulary, carry it into its instruct version (LEP),
and measure what came out.

    import lep_bench

    frame = lep_bench.run("all", "mini")            # what `lep-bench run` does
    frame = lep_bench.results("runs")               # what was scored, one row per score
    items = lep_bench.samples("runs", task="mini_facts_ru")
    lep_bench.compare("mini-llama/bpe/swap", "mini-llama/bpe/overlap", out="runs")
    lep_bench.adapt(base, instruct, donor, "out")   # LEP on any three checkpoints
    lep_bench.check("out")

Every function raises `lep_bench.errors.LepBenchError`, one line that says what to do, for what the
caller can mend. Importing the package imports neither torch nor pandas.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

    from lep_bench.leaderboard.cells import Chosen


__all__ = ["adapt", "check", "compare", "results", "run", "samples"]
__version__ = "0.1.0"


def adapt(
    base: str | Path,
    instruct: str | Path,
    donor: str | Path,
    out: str | Path,
    *,
    method: str = "conversion",
    params: dict[str, Any] | None = None,
    row_policy: Literal["bytes-exact", "paper"] = "bytes-exact",
    discard_donor_body: bool = False,
    device: str = "cpu",
    adapters: Sequence[Path] = (),
) -> Path:
    """Learned Embedding Propagation (arXiv 2412.21140, section 3.4): the instruct model with the
    donor's vocabulary.

    base, instruct, donor: checkpoint folders, Hub ids or `builtin:FAMILY/base`. method: a
    propagation adapter's name. A donor whose body differs from the base's is refused unless
    `discard_donor_body`: only its embeddings are used. `device` ("cpu" or "cuda") does the float64
    products. Writes a complete checkpoint to `out` (which must not exist), with `lep.json` beside
    it, and returns its path. Raises LepBenchError (one line: what, where, what to do) when the
    three do not belong together.
    """
    from lep_bench import plugin
    from lep_bench.surgery import propagate

    adapter = plugin.discover_adapters(adapters).get("propagation", method).adapter
    settings = adapter.params.model_validate(params or {})
    return propagate.adapt(
        str(base),
        str(instruct),
        str(donor),
        Path(out),
        adapter,
        settings,
        policy=row_policy,
        discard_donor_body=discard_donor_body,
        device=device,
    )


def run(
    models: str | Sequence[str] = "all",
    suite: str = "mini",
    *,
    tasks: Sequence[str] | None = None,
    out: str | Path = "runs",
    limit: int | None = None,
    seeds: int | None = None,
    dtype: str | None = None,
    engine: str = "auto",
    hardware: str = "auto",
    workers: int | None = None,
    url: str | None = None,
    key_variable: str | None = None,
    configs: Sequence[Path] = (),
    adapters: Sequence[Path] = (),
    tasks_dir: Sequence[Path] = (),
    data: Path | None = None,
    offline: bool = False,
) -> pd.DataFrame:
    """Adapt, score and compare models, as the command `lep-bench run` does with the same options.

    models: a name, pattern, checkpoint folder, Hub id or "all", or several of them. Artifacts,
    results and the leaderboard are kept in `out`: interrupted anywhere, the same call goes on. Work
    is done in processes of its own, so a script that calls this needs `if __name__ ==
    "__main__":`. Returns `results(out, suite)`. A cell that fails is a row with status "failed".
    """
    from lep_bench import bundle

    # before anything is imported that reads the environment once
    bundle.use_data_folder(data, offline)
    import sys

    from lep_bench.config.load import Configs
    from lep_bench.pipeline.execute import Unobserved
    from lep_bench.pipeline.hardware import resolve_hardware
    from lep_bench.pipeline.plan import Server
    from lep_bench.pipeline.run import plan_run, run_plan
    from lep_bench.pipeline.session import Session

    place = resolve_hardware(Configs.of(configs), hardware, engine, workers)
    session = Session.read(
        suite,
        Path(out),
        configs,
        adapters,
        tasks_dir,
        limit=limit,
        seeds=seeds,
        dtype=dtype,
        engine=place.engine,
        server=Server(url or "", key_variable),
    )
    patterns = [models] if isinstance(models, str) else list(models)
    request = plan_run(session, patterns, tasks, data)
    run_plan(
        session,
        request,
        place,
        Unobserved,
        lambda line: print(line, file=sys.stderr),
        offline=offline,
    )
    return results(out, suite)


def results(out: str | Path = "runs", suite: str | None = None) -> pd.DataFrame:
    """What was scored: one row per model, training seed, task, metric and condition.

    out: the --out folder of a run. suite: may be left out where the folder has one. Columns and
    dtypes are those of `lep_bench.records.frame.RESULTS`: `score` is a share of 1, bits per byte or
    what the metric says, and NaN unless `status` is "ok"; `stderr` is in the same unit; `seconds`
    are those of the whole cell. Where a cell was scored more than once, the current result stands
    before one of an older task version (`stale`), a score before a failure, all rows before some.
    Raises LepBenchError where there are no results.
    """
    from lep_bench.records.frame import make_results_frame

    return make_results_frame((cell.result, cell.stale) for cell in _read_cells(out, suite))


def samples(
    out: str | Path = "runs",
    suite: str | None = None,
    *,
    model: str | None = None,
    task: str | None = None,
) -> pd.DataFrame:
    """Every item of the scored cells: gold answer, the model's answer, and its score.

    model, task: only of this model, of this task. Columns and dtypes are those of
    `lep_bench.records.frame.SAMPLES`. Failed cells have no items. Raises LepBenchError where there
    are no results, for names without results, and for samples that are missing or damaged.
    """
    from lep_bench.errors import unknown_name
    from lep_bench.records.frame import make_samples_frame
    from lep_bench.records.store import Store

    cells = [cell.result for cell in _read_cells(out, suite)]
    for kind, wanted, known in (
        ("model", model, {result.model.name for result in cells}),
        ("task", task, {result.task for result in cells}),
    ):
        if wanted is not None and wanted not in known:
            raise unknown_name(kind, wanted, sorted(known), f"(with results in {out})")
    store = Store(Path(out))
    return make_samples_frame(
        (result, store.read_samples(result))
        for result in cells
        if model in (None, result.model.name)
        and task in (None, result.task)
        and result.status == "ok"
    )


def compare(
    a: str,
    b: str,
    *,
    out: str | Path = "runs",
    suite: str | None = None,
    configs: Sequence[Path] = (),
    tasks_dir: Sequence[Path] = (),
) -> pd.DataFrame:
    """Two models item by item: one row per task of the suite's mean, and one for the mean.

    a, b: names, or patterns that fit one model. Columns: task ("mean" in the last row), a and b
    (scores), difference (a - b, paired over the items), low and high (its 95% interval), p, p_holm
    (corrected for the number of tasks; the mean's is its own p), verdict (a is "higher", "lower",
    "equal" or "undecided"; NA: not known), and how both were asked: protocol, shots, format,
    engine, dtype. Models that were asked in several ways have the rows once for each. Raises
    LepBenchError where the two may not be compared.
    """
    import dataclasses

    import pandas as pd

    from lep_bench.pipeline.stored import StoredResults
    from lep_bench.records.store import find_suite

    place = Path(out)
    stored = StoredResults.read(suite or find_suite(place), place, configs, tasks_dir, [a, b])
    rows = [
        {
            "task": line.task,
            "a": line.a,
            "b": line.b,
            "difference": line.difference.value,
            "low": line.difference.low,
            "high": line.difference.high,
            "p": line.difference.p,
            "p_holm": line.difference.corrected,
            "verdict": line.difference.verdict,
            **dataclasses.asdict(comparison.condition),
        }
        for _, _, comparison in stored.compare(a, b)
        for line in (*comparison.lines, *([comparison.mean] if comparison.mean else []))
    ]
    numbers = dict.fromkeys(("a", "b", "difference", "low", "high", "p", "p_holm"), "float64")
    words = dict.fromkeys(("task", "verdict", "protocol", "format", "engine", "dtype"), "string")
    return pd.DataFrame(rows).astype({**numbers, **words, "shots": "Int64"})


def check(path: str | Path) -> pd.DataFrame:
    """What vocabulary surgery broke in a checkpoint, patch or tokenizer, as `lep-bench check` says.

    path: a folder, Hub id or builtin:FAMILY/base. One row per finding, errors first: level
    ("error", "warning", "note"), file, tensor ("embedding", "head"; NA: neither), message. Empty
    where nothing is to be said. Raises CheckpointError for a folder that is none of these.
    """
    import re

    import pandas as pd

    from lep_bench import hub
    from lep_bench.surgery.check import check_folder

    name = str(path)
    findings = check_folder(hub.find_local(name) or hub.locate(name))
    rows = []
    for finding in findings:
        file, tensor = finding.where, None
        if of_matrix := re.fullmatch(r"(.+) \((embedding|head)\)", file):
            file, tensor = of_matrix.groups()
        rows.append((finding.level, file, tensor, f"{finding.what}; {finding.how}"))
    return pd.DataFrame(rows, columns=["level", "file", "tensor", "message"], dtype="string")


def _read_cells(out: str | Path, suite: str | None) -> list[Chosen]:
    """One result per cell and condition."""
    from lep_bench.errors import LepBenchError
    from lep_bench.leaderboard.cells import choose_results
    from lep_bench.records.store import Store, find_suite

    name = suite or find_suite(Path(out))
    stored = Store(Path(out)).read_all(name)
    if not stored:
        raise LepBenchError(
            f"no results of suite {name} in {out}: run lep-bench run --suite {name} first, or name "
            "its --out folder"
        )
    cells = choose_results(stored, name, sorted({result.task for result in stored}))
    return sorted(
        cells, key=lambda c: (c.result.model.name, c.result.model.seed, c.result.task, c.result.key)
    )
