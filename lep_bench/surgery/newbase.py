"""A base with a new vocabulary: its tokenizer and, where the base has weights, the model that
continued pre-training starts from.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lep_bench import files, hub
from lep_bench.errors import LepBenchError
from lep_bench.plugin import Adapter, Params
from lep_bench.records.artifact import REVISIONS, Artifact, Lep, Parent
from lep_bench.surgery import vocabulary
from lep_bench.surgery.check.tokenizer import find_unreachable
from lep_bench.surgery.tokenizers import loading
from lep_bench.surgery.tokenizers.tokens import Tokens

REPORT = "vocabulary.json"
STEP = 200_000  # characters between two reports of progress
# (phase, what is known about it): called again and again, in order
Watch = Callable[[str, str], None]


@dataclass(frozen=True)
class VocabularyReport:
    """What `REPORT` says. entries: all ids. kept: old ordinary tokens. new: ordinary tokens that
    the base does not have. unreachable: new tokens that occur in no text's encoding with
    `ignore_merges` off."""

    method: str
    params: dict[str, Any]
    base: str
    corpus: str
    documents: int
    characters: int
    entries: int
    kept: int
    new: int
    unreachable: int


def has_weights(folder: Path) -> bool:
    """Whether a folder is a checkpoint, not a tokenizer alone. Raises CheckpointError for weights
    that cannot be used.
    """
    if not any(any(folder.glob(pattern)) for pattern in ("*.safetensors", hub.INDEX, *hub.PICKLED)):
        return False
    hub.check_complete(folder)
    return True


def make_new_base(
    location: str,
    folder: Path,
    out: Path,
    adapter: Adapter,
    params: Params,
    texts: Iterable[str],
    corpus: str,
    *,
    model: bool,
    watch: Watch,
) -> VocabularyReport:
    """Write `out`, whole or not at all: the new tokenizer and `REPORT`, and with `model` a complete
    checkpoint whose rows are E_new = T E_base, ``lep.json`` beside it.

    location: what the user called the base; folder: where it lies. corpus: what stands for the
    texts in the fingerprint. Raises LepBenchError when `out` exists or the base cannot be read,
    AdapterError when the method fails.
    """
    if out.exists():
        raise LepBenchError(f"{out} exists already: choose another folder or remove it first")
    given = params.model_dump(mode="json")
    reading = _Reading(vocabulary.limited(texts, given.get("characters") or 10**15), watch)
    watch("reading", "")
    with files.explain_disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        # Beside `out`: shards that do not change are hard links, which stay on one file system.
        with tempfile.TemporaryDirectory(prefix=files.UNFINISHED, dir=out.parent) as work:
            new = vocabulary.build_tokenizer(
                folder, Path(work) / "tokenizer", adapter, params, iter(reading)
            )
            watch("checking", "")
            counts = _counts(Tokens.read(folder), Tokens.read(new))
            report = VocabularyReport(
                adapter.name,
                given,
                location,
                corpus,
                reading.documents,
                reading.characters,
                **counts,
            )
            watch("checking", f"{report.entries:,} entries")
            made = new
            if model:
                watch("writing", "")
                made = _model(location, folder, new, Path(work), adapter, report)
                vocabulary.verify_tokenizer(made, loading.read_tokenizer(folder), str(out))
            files.write_json(made / REPORT, asdict(report))
            made.rename(out)
    return report


class _Reading:
    """Texts on their way through: counted, and watched."""

    def __init__(self, texts: Iterable[str], watch: Watch) -> None:
        self.texts, self.watch = texts, watch
        self.documents = self.characters = 0

    def __iter__(self) -> Iterator[str]:
        told = 0
        for text in self.texts:
            self.documents += 1
            self.characters += len(text)
            if self.characters - told >= STEP:
                told = self.characters
                self.watch("reading", f"{told:,} characters")
            yield text
        self.watch("reading", f"{self.characters:,} characters in {self.documents:,} documents")
        self.watch("training", "")


def _counts(old: Tokens, new: Tokens) -> dict[str, int]:
    ordinary = {
        number: value for number in range(new.size) if (value := new.bytes_of(number)) is not None
    }
    fresh = {
        n
        for n, value in ordinary.items()
        if old.find(value, as_byte_token=new.is_byte_token(n)) is None
    }
    reached = fresh - set(find_unreachable(new))
    return {
        "entries": new.size,
        "kept": len(ordinary) - len(fresh),
        "new": len(fresh),
        "unreachable": len(fresh) - len(reached),
    }


def _model(
    location: str,
    folder: Path,
    tokenizer: Path,
    work: Path,
    adapter: Adapter,
    report: VocabularyReport,
) -> Path:
    from lep_bench.surgery import propagate  # torch: not needed for a tokenizer
    from lep_bench.surgery.export import export_checkpoint

    note = (
        f"vocabulary: {report.unreachable:,} of {report.new:,} new tokens come out of no text "
        "with ignore_merges off"
    )
    parent = Parent(
        role="body",
        name=location,
        location=str(folder.resolve()) if hub.find_local(location) else location,
    )
    lep = Lep(
        model=f"{location}/{adapter.name}/init",
        fingerprint="",
        kind="patch",
        stage="init",
        parents=(parent,),
        adapter=adapter.name,
        params=report.params,
        notes=(note,),
    )
    patch = propagate.initialise(folder, folder, tokenizer, work / "patch", lep=lep)
    resolved = {
        "parents": {one.role: one.digest for one in patch.lep.parents},
        "corpus": report.corpus,
        "tokenizer": files.file_digest(patch.folder / "tokenizer.json"),
        "adapter": {
            "name": adapter.name,
            "source": files.file_digest(adapter.source),
            "params": report.params,
        },
        "policy": patch.lep.row_policy,
        "revision": REVISIONS["propagation"],
    }
    lep = patch.lep.model_copy(update={"resolved": resolved, "fingerprint": files.digest(resolved)})
    return export_checkpoint(Artifact(patch.folder, folder, lep), work / "model")
