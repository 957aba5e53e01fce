"""Speed and memory of the contamination scan on synthetic text with planted rows.

    python benchmarks/contamination.py [--rows 45000] [--megabytes 50 200]

Rows (as many as the suite darumeru has, of 8 to 120 words) and texts (JSONL, documents of 50 to
2,000 words) are drawn from one vocabulary of 300,000 made-up Russian words by Zipf's law. In each
text stand 500 rows verbatim and 500 with one word in 12 changed. Every size runs in a process of
its own; peak is the most that was resident. Prints one line per size and fails when a verbatim row,
or more than 2% of the changed ones (MinHash is a matter of chance), is not found.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lep_bench.leaderboard import contamination
from lep_bench.leaderboard.contamination import EvaluationRow

SYLLABLES = (
    "ба",
    "ве",
    "го",
    "ду",
    "жи",
    "зу",
    "ка",
    "лес",
    "мо",
    "нук",
    "ри",
    "са",
    "ти",
    "фу",
    "хо",
    "шин",
)
VOCABULARY = 300_000
PLANTED = 500  # of each kind


def vocabulary() -> np.ndarray:
    """Made-up words, the frequent ones short."""
    letters = np.random.default_rng(0)
    made: dict[str, None] = {}
    while len(made) < VOCABULARY:
        made[
            "".join(
                letters.choice(SYLLABLES, int(letters.integers(1, 2 + len(made).bit_length() // 4)))
            )
        ] = None
    return np.array(list(made), dtype=object)


def drawn(words: np.ndarray, chance: np.random.Generator, lengths: np.ndarray) -> list[list[str]]:
    """Texts of the given lengths, their words by Zipf's law."""
    taken = words[
        np.minimum(VOCABULARY ** chance.random(int(lengths.sum())), VOCABULARY - 1).astype(int)
    ].tolist()
    ends = np.cumsum(lengths).tolist()
    return [taken[begin:end] for begin, end in zip([0, *ends], ends)]


def rows(words: np.ndarray, count: int) -> list[EvaluationRow]:
    chance = np.random.default_rng(1)
    passages = drawn(words, chance, chance.integers(8, 121, count))
    return [
        EvaluationRow(f"task_{number % 17}", number, str(number), {"passage": " ".join(passage)})
        for number, passage in enumerate(passages)
    ]


def write(file: Path, words: np.ndarray, known: list[EvaluationRow], megabytes: int) -> None:
    chance, written, planted = np.random.default_rng(2), 0, 0
    with file.open("w", encoding="utf-8") as out:
        while written < megabytes * 1e6:
            for document in drawn(words, chance, chance.integers(50, 2001, 200)):
                if planted < 2 * PLANTED:  # every 20th row, so that all tasks have some
                    leak = known[20 * planted].doc["passage"].split()
                    if planted % 2:
                        leak = [
                            "изменено" if place % 12 == 6 else word
                            for place, word in enumerate(leak)
                        ]
                    document[25:25], planted = leak, planted + 1
                # bytes, nearly
                written += (
                    out.write(
                        json.dumps(
                            {"text": " ".join(document).capitalize() + "."}, ensure_ascii=False
                        )
                        + "\n"
                    )
                    * 1.85
                )


def measure(file: Path, count: int) -> None:
    known = rows(vocabulary(), count)
    (text,) = contamination.texts(str(file))
    marks, spent = [time.monotonic()], [time.process_time()]

    def documents() -> Iterator[str | dict[str, Any]]:
        spent.append(time.process_time())
        marks.append(time.monotonic())  # the index is made, the first document is asked for
        yield from text.documents

    report = contamination.scan(known, [replace(text, documents=documents())])
    indexed, seconds, used = (
        marks[1] - marks[0],
        time.monotonic() - marks[1],
        time.process_time() - spent[1],
    )
    hits = {hit.row.doc_id: hit.near for task in report.tasks for hit in task.hits}
    exact = [20 * number for number in range(0, 2 * PLANTED, 2)]
    near = [
        20 * number
        for number in range(1, 2 * PLANTED, 2)
        if len(known[20 * number].doc["passage"].split()) >= 24
    ]
    missed = (
        [number for number in exact if hits.get(number) is not False],
        [number for number in near if number not in hits],
    )
    megabytes, peak = (
        file.stat().st_size / 1e6,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )
    planted = {20 * number for number in range(2 * PLANTED)}
    print(
        f"{count:,} rows, {megabytes:.0f} MB, {report.texts[0]['words']:,} words: index "
        f"{indexed:.1f} s, scan {seconds:.1f} s = "
        f"{megabytes / seconds:.1f} MB/s (processor {used:.1f} s = {megabytes / used:.1f} MB/s), "
        f"peak {peak:.0f} MiB; planted and missed: {len(exact)} verbatim, {len(missed[0])}; "
        f"{len(near)} changed, {len(missed[1])}; other rows found: {len(hits.keys() - planted)}",
        flush=True,
    )
    sys.exit(bool(missed[0]) or len(missed[1]) > 0.02 * len(near))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=45_000)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure, given.rows)
    words = vocabulary()
    for size in given.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "text.jsonl"
            write(file, words, rows(words, given.rows), size)
            subprocess.run(
                [sys.executable, __file__, "--measure", file, "--rows", str(given.rows)], check=True
            )


if __name__ == "__main__":
    main()
