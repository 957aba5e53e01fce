"""The four vocabularies on real tokenizers at the paper's sizes: symbols per token, time, memory,
exactness, decomposition.

    python benchmarks/real.py && python benchmarks/vocabularies.py [--work DIR]

Every vocabulary is made by `lep-bench vocabulary METHOD BASE OUT --corpus FILE` with its default
sizes, in a process of its own (wall seconds, peak resident memory). bpe and unigram, which replace
the old vocabulary, read Russian and English texts; the others, which add to it, only the Russian
ones. Symbols per token are counted on the tenth of the Russian documents that nothing was trained
on. Where a text gives fewer tokens than the paper's size, the most that it gives are made and the
row says so. Mismatches: new tokens whose rows of T stand for other bytes than the token's own, and
byte tokens that are not carried over to themselves. Writes benchmarks/results/vocabularies.json.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import real
from tokenizers import Tokenizer

from lep_bench.surgery.decompose import NEW, Decomposition, decompose, spell_bytes
from lep_bench.surgery.tokenizers import loading
from lep_bench.surgery.tokenizers.tokens import SPACE, Tokens

RESULTS = Path(__file__).resolve().parent / "results" / "vocabularies.json"
BASES = ("llama3", "mistral", "openchat")
METHODS = ("bpe", "unigram", "extended", "optimized")
# What the paper has, on its own Russian text; Mistral's Optimized was not made.
PAPER = {"llama3": (2.89, 4.40, 4.35, 3.78, 3.40), "mistral": (2.44, 3.76, 3.78, 3.77, None)}


def mismatches(old: Tokens, new: Tokens, taken: Decomposition) -> tuple[int, int]:
    """(ordinary tokens whose row of T is not the mean of old tokens that spell its bytes, bytes
    whose token is not the old one's).
    """
    wrong = 0
    loose = np.flatnonzero(taken.kinds == NEW)
    for number, ids in zip(
        loose, spell_bytes(old, [new.bytes_of(int(n)) or b"" for n in loose]), strict=True
    ):
        start, end = taken.T.indptr[number : number + 2]
        row = dict(zip(taken.T.indices[start:end].tolist(), taken.T.data[start:end].tolist()))
        exact = b"".join(old.bytes_of(i) or b"" for i in ids) == new.bytes_of(int(number))
        wrong += (
            not exact
            or row.keys() != set(ids)
            or any(abs(row[i] - ids.count(i) / len(ids)) > 1e-12 for i in row)
        )
    for number, match in taken.overlap:
        start, end = taken.T.indptr[number : number + 2]
        wrong += list(taken.T.indices[start:end]) != [match] or old.bytes_of(
            int(match)
        ) != new.bytes_of(int(number))
    carried = dict(taken.overlap.tolist())

    def of(tokens: Tokens, byte: int) -> int | None:
        return tokens.find(bytes([byte]), as_byte_token=True)

    bad = sum(
        of(new, byte) is None or carried.get(of(new, byte)) != of(old, byte) for byte in range(256)
    )
    assert len(loose) + len(taken.overlap) + len(new.specials) == new.size
    return wrong, bad


def resident(process: int) -> int:
    """KiB of VmHWM, the most that was resident so far; 0 once the process has ended."""
    try:
        found = re.search(
            r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text(encoding="ascii")
        )
    except OSError:
        return 0
    return int(found[1]) if found else 0


def make(work: Path, base: str, method: str, *extra: str) -> dict[str, Any]:
    """Run the command; once more with the most that the text gives where that is less than the
    paper's size.
    """
    name = f"{base}-{method}{''.join(extra)}"
    corpus = work / ("ru-en.jsonl" if method in ("bpe", "unigram") else "ru.jsonl")
    program = str(Path(sys.executable).parent / "lep-bench")
    command = [
        program,
        "vocabulary",
        method,
        str(work / base),
        str(work / name),
        "--corpus",
        str(corpus),
        *extra,
    ]
    filled = None
    while True:
        begin = time.monotonic()
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said)
            peak = 0
            while process.poll() is None:
                peak = max(peak, resident(process.pid))
                time.sleep(0.05)
            said.seek(0)
            out = said.read()
        seconds = time.monotonic() - begin
        given = re.search(r"the text gives only (\d+) of the (\d+)", out)
        if process.returncode == 0 or filled or not given:
            break
        filled = f"{int(given[1]):,} of {int(given[2]):,}"
        command += ["--size", given[1]]
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: {out.strip()}")
    training = re.search(r"training\s+([\d.]+) s", out)
    report = json.loads((work / name / "vocabulary.json").read_text(encoding="utf-8"))
    row = {key: report[key] for key in ("entries", "kept", "new", "unreachable", "characters")}
    return {
        "base": base,
        "method": method + ("".join(extra)),
        "corpus": corpus.stem,
        "filled": filled,
        **row,
        "wall_s": round(seconds, 1),
        "training_s": float(training[1]) if training else None,
        "peak_gib": round(peak / 2**20, 2),
    }


def symbols(folder: Path, texts: list[str]) -> float:
    """Characters per token, special tokens not counted."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = sum(len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts)
    return round(sum(map(len, texts)) / tokens, 3)


def timed(old: Tokens, new: Tokens) -> dict[str, float]:
    """Seconds to take `new` apart: all of `decompose` (which does it for both row policies), and
    one tokenizer call per token.
    """
    tokenizer, _ = loading.load_tokenizer(old.folder)
    begin = time.monotonic()
    decompose(old, new)
    middle = time.monotonic()
    for piece in new.pieces:
        tokenizer((piece or "").replace(SPACE, " "), add_special_tokens=False)
    return {
        "tokens": new.size,
        "batched_s": round(middle - begin, 2),
        "one_by_one_s": round(time.monotonic() - middle, 2),
    }


def measure(work: Path) -> dict[str, Any]:
    for base in BASES:
        if not (work / base).is_dir():
            real.TOKENIZERS[base](work / base)
    russian, english = real.training(), real.english()
    held = [text for text in real.russian() if real.held_out(text)]
    for name, texts in (("ru", russian), ("ru-en", russian + english)):
        lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
        (work / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    rows: list[dict[str, Any]] = []
    decomposing = {}
    for base in BASES:
        old = Tokens.read(work / base)
        rows.append(
            {
                "base": base,
                "method": "original",
                "entries": old.size,
                "symbols_per_token": symbols(work / base, held),
            }
        )
        show(rows[-1])
        for method, *extra in (*((m,) for m in METHODS), ("extended", "--union")):
            row = make(work, base, method, *extra)
            new = Tokens.read(work / f"{base}-{row['method']}")
            taken = decompose(old, new)
            row["symbols_per_token"] = symbols(new.folder, held)
            row["byte_mismatches"], row["wrong_byte_tokens"] = mismatches(old, new, taken)
            if method in ("bpe", "unigram") and base != "openchat":
                decomposing[f"{base} {method}"] = timed(old, new)
            rows.append(row)
            show(row)
    return {
        "texts": {
            "russian": sum(map(len, russian)),
            "english": sum(map(len, english)),
            "held_out_russian": sum(map(len, held)),
        },
        "rows": rows,
        "decomposing": decomposing,
    }


def show(row: dict[str, Any]) -> None:
    """One line of the table."""
    paper = dict(zip(("original", *METHODS), PAPER.get(row["base"], ()))).get(row["method"])
    figures = f"{row['symbols_per_token']:7.2f} {f'{paper:.2f}' if paper else '—':>7}"
    if row["method"] == "original":
        print(f"{row['base']:9} {'original':17} {row['entries']:8,} {'':8} {figures}", flush=True)
        return
    filled = f"  text filled {row['filled']}" if row["filled"] else ""
    print(
        f"{row['base']:9} {row['method']:17} {row['entries']:8,} {row['new']:8,} {figures} "
        f"{row['wall_s']:7.0f} {row['training_s']:9.0f} "
        f"{row['peak_gib']:9.2f} {row['unreachable']:8,} {row['byte_mismatches']:10} "
        f"{row['wrong_byte_tokens']:6}  {row['corpus']}{filled}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=None,
        help="an empty folder for what is made; default: a temporary one",
    )
    given = parser.parse_args().work
    if not real.available():
        print("python benchmarks/real.py fetches the tokenizers first", file=sys.stderr)
        return 2
    print(
        f"{'base':9} {'method':17} {'entries':>8} {'new':>8} {'sym/tok':>7} {'paper':>7} "
        f"{'wall s':>7} {'training':>9} {'peak GiB':>9} {'dead':>8} "
        f"{'mismatches':>10} {'bytes':>6}  corpus"
    )
    with tempfile.TemporaryDirectory() as scratch:
        work = given or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        found = measure(work)
    for base, figures in found["decomposing"].items():
        slow, fast = figures["one_by_one_s"], figures["batched_s"]
        print(
            f"decomposing {figures['tokens']:,} tokens, {base}: {fast:.1f} s; one call per "
            f"token {slow:.1f} s, {slow / fast:.1f} times as long"
        )
    wrong = sum(
        row.get("byte_mismatches", 0) + row.get("wrong_byte_tokens", 0) for row in found["rows"]
    )
    print(
        f"{wrong} byte mismatches over {len(BASES)} bases x {len(METHODS)} methods and the unions"
    )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
