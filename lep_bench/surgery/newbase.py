"""Write a base with a new vocabulary: the tokenizer and, if the base has weights, the checkpoint
that continued pre-training starts from.
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
PROGRESS_STEP = 200_000  # characters between two reports of progress
# Called with (phase, details) whenever either changes.
Watch = Callable[[str, str], None]


@dataclass(frozen=True)
class VocabularyReport:
    """Content of the file `REPORT`.

    documents, characters: the text read. entries: all ids. kept: ordinary tokens that the base has
    too. new: ordinary tokens that it lacks. unreachable: new tokens that no text encodes to with
    `ignore_merges` off.
    """

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
    """Whether a folder holds weights, not only a tokenizer. Raises CheckpointError for weights that
    cannot be used.
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
    """Write `out`, whole or not at all: the new tokenizer and `REPORT`. With `model` also a
    complete checkpoint with E_new = T E_base, and its ``lep.json``.

    location: the base as the user named it. folder: its files on this machine. corpus: the digest
    of the texts, for the fingerprint. Raises LepBenchError if `out` exists or the base cannot be
    read, AdapterError if the method fails.
    """
    if out.exists():
        raise LepBenchError(f"{out} exists already: choose another folder or remove it first")
    parameters = params.model_dump(mode="json")
    reader = _TextReader(vocabulary.limited(texts, parameters.get("characters") or 10**15), watch)
    watch("reading", "")
    with files.explain_disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        # Beside `out`, because hard links to unchanged shards need the same file system.
        with tempfile.TemporaryDirectory(prefix=files.UNFINISHED, dir=out.parent) as work:
            tokenizer = vocabulary.build_tokenizer(
                folder, Path(work) / "tokenizer", adapter, params, iter(reader)
            )
            watch("checking", "")
            counts = _count_tokens(Tokens.read(folder), Tokens.read(tokenizer))
            report = VocabularyReport(
                adapter.name,
                parameters,
                location,
                corpus,
                reader.documents,
                reader.characters,
                **counts,
            )
            watch("checking", f"{report.entries:,} entries")
            result = tokenizer
            if model:
                watch("writing", "")
                result = _write_model(location, folder, tokenizer, Path(work), adapter, report)
                vocabulary.verify_tokenizer(result, loading.read_tokenizer(folder), str(out))
            files.write_json(result / REPORT, asdict(report))
            result.rename(out)
    return report


class _TextReader:
    """Passes texts on, counts them and reports progress."""

    def __init__(self, texts: Iterable[str], watch: Watch) -> None:
        self.texts, self.watch = texts, watch
        self.documents = self.characters = 0

    def __iter__(self) -> Iterator[str]:
        reported = 0
        for text in self.texts:
            self.documents += 1
            self.characters += len(text)
            if self.characters - reported >= PROGRESS_STEP:
                reported = self.characters
                self.watch("reading", f"{reported:,} characters")
            yield text
        self.watch("reading", f"{self.characters:,} characters in {self.documents:,} documents")
        self.watch("training", "")


def _count_tokens(old: Tokens, new: Tokens) -> dict[str, int]:
    ordinary = {
        number: value for number in range(new.size) if (value := new.bytes_of(number)) is not None
    }
    added = {
        n
        for n, value in ordinary.items()
        if old.find(value, as_byte_token=new.is_byte_token(n)) is None
    }
    return {
        "entries": new.size,
        "kept": len(ordinary) - len(added),
        "new": len(added),
        "unreachable": len(added & set(find_unreachable(new))),
    }


def _write_model(
    location: str,
    folder: Path,
    tokenizer: Path,
    work: Path,
    adapter: Adapter,
    report: VocabularyReport,
) -> Path:
    from lep_bench.surgery import propagate
    from lep_bench.surgery.export import export_checkpoint

    note = (
        f"vocabulary: no text encodes to {report.unreachable:,} of {report.new:,} new tokens with "
        "ignore_merges off"
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
        "parents": {parent.role: parent.digest for parent in patch.lep.parents},
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
