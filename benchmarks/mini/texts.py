"""Write the texts that the package ships, as lep_bench/mini/texts/NAME.jsonl.xz.

    python -m benchmarks.mini.texts [--out DIR]

`lep_bench.mini.corpus` reads them. Their hash stands in fingerprints: after a change, donors and
calibrated models are built anew.
"""

import argparse
import json
import lzma
from collections.abc import Iterable, Iterator
from pathlib import Path

from . import corpus

FOLDER = Path(__file__).resolve().parents[2] / "lep_bench" / "mini" / "texts"
PRETRAINING_CHARACTERS = 2_000_000  # the shipped families read half of it
# the defaults of self-calibration; the shipped families use 700 and 900
CALIBRATION_PROMPTS, COPIES = 13_531, 10_000


def pretraining_texts(characters: int) -> Iterator[str]:
    """The first documents for continued pre-training that hold `characters` together; the last one
    is whole.
    """
    left = characters
    for text in corpus.pretraining_texts():
        yield text
        left -= len(text)
        if left <= 0:
            return


def shipped() -> dict[str, Iterable[object]]:
    """The rows of every file, by the file's name without its ending."""
    return {
        "vocabulary": corpus.vocabulary_texts(),
        "pretraining": pretraining_texts(PRETRAINING_CHARACTERS),
        "calibration": corpus.calibration_prompts(CALIBRATION_PROMPTS),
        "copies": corpus.copy_prompts(COPIES),
    }


def write(folder: Path = FOLDER) -> None:
    """Write every file to `folder`. The rows depend on nothing else; the compressed bytes also on
    the version of liblzma.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in shipped().items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl.xz").write_bytes(
            lzma.compress(lines.encode(), preset=9 | lzma.PRESET_EXTREME)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER)
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
