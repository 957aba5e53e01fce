"""Speed and memory of the contamination scan on synthetic text with planted rows.

    python benchmarks/contamination.py [--rows 45000] [--megabytes 50 200]

Rows (as many as the suite darumeru has, of 8 to 120 words) and texts (JSONL, documents of 50 to
2,000 words) are drawn from one vocabulary of 300,000 made-up Russian words by Zipf's law. Each text
contains 500 rows verbatim. Every size runs in a process of its own, and peak is the most that was
resident. Prints one line per size, and fails when a planted row is missed or another one is found.
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
PLANTED = 500  # rows
EVERY = 40  # of so many rows one is planted, so that all tasks have some


def make_vocabulary() -> np.ndarray:
    """Made-up words, the frequent ones short."""
    letters = np.random.default_rng(0)
    words: dict[str, None] = {}
    while len(words) < VOCABULARY:
        length = int(letters.integers(1, 2 + len(words).bit_length() // 4))
        words["".join(letters.choice(SYLLABLES, length))] = None
    return np.array(list(words), dtype=object)


def draw_texts(
    words: np.ndarray, chance: np.random.Generator, lengths: np.ndarray
) -> list[list[str]]:
    """Texts of the given lengths, their words by Zipf's law."""
    taken = words[
        np.minimum(VOCABULARY ** chance.random(int(lengths.sum())), VOCABULARY - 1).astype(int)
    ].tolist()
    ends = np.cumsum(lengths).tolist()
    return [taken[begin:end] for begin, end in zip([0, *ends], ends)]


def make_rows(words: np.ndarray, count: int) -> list[EvaluationRow]:
    chance = np.random.default_rng(1)
    passages = draw_texts(words, chance, chance.integers(8, 121, count))
    return [
        EvaluationRow(f"task_{number % 17}", number, str(number), {"passage": " ".join(passage)})
        for number, passage in enumerate(passages)
    ]


def write_text(file: Path, words: np.ndarray, known: list[EvaluationRow], megabytes: int) -> None:
    chance, written, planted = np.random.default_rng(2), 0.0, 0
    with file.open("w", encoding="utf-8") as out:
        while written < megabytes * 1e6:
            for document in draw_texts(words, chance, chance.integers(50, 2001, 200)):
                if planted < PLANTED:
                    leak = known[EVERY * planted].doc["passage"].split()
                    document[25:25], planted = leak, planted + 1
                line = {"text": " ".join(document).capitalize() + "."}
                # bytes, nearly
                written += out.write(json.dumps(line, ensure_ascii=False) + "\n") * 1.85


def measure(file: Path, count: int) -> None:
    known = make_rows(make_vocabulary(), count)
    (text,) = contamination.open_texts(str(file))
    marks, spent = [time.monotonic()], [time.process_time()]

    def documents() -> Iterator[str | dict[str, Any]]:
        spent.append(time.process_time())
        marks.append(time.monotonic())  # the index is made, the first document is asked for
        yield from text.documents

    report = contamination.scan(known, [replace(text, documents=documents())])
    seconds, used = time.monotonic() - marks[1], time.process_time() - spent[1]
    flagged = {hit.row.doc_id for task in report.tasks for hit in task.hits}
    planted = {EVERY * number for number in range(PLANTED)}
    megabytes = file.stat().st_size / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{count:,} rows, {megabytes:.0f} MB, {report.texts[0]['words']:,} words: index "
        f"{marks[1] - marks[0]:.1f} s, scan {seconds:.1f} s = {megabytes / seconds:.1f} MB/s "
        f"(processor {used:.1f} s = {megabytes / used:.1f} MB/s), peak {peak:.0f} MiB; "
        f"{len(planted)} rows planted, {len(planted - flagged)} missed, "
        f"{len(flagged - planted)} others found",
        flush=True,
    )
    sys.exit(flagged != planted)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=45_000)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.rows)
    words = make_vocabulary()
    for size in options.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "text.jsonl"
            write_text(file, words, make_rows(words, options.rows), size)
            subprocess.run(
                [sys.executable, __file__, "--measure", file, "--rows", str(options.rows)],
                check=True,
            )


if __name__ == "__main__":
    main()
