"""Checks of the weights: shards and index, sizes, ties, dtypes, and every row of both matrices."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from lep_bench import hub
from lep_bench.errors import CheckpointError
from lep_bench.records.artifact import PATCH
from lep_bench.surgery.check.findings import Chat, Finding, InspectedModel, Level, list_some
from lep_bench.surgery.tokenizers.tokens import Tokens
from lep_bench.surgery.weights.checkpoint import HEADS, Checkpoint, digest_tensor
from lep_bench.surgery.weights.patch import MULTIPLE, dtype_name

BLOCK = 1 << 25  # bytes of rows in memory at a time
# A row is an outlier if its norm is this many times below the 1st or above the 99th percentile.
OUTLIER = 5.0
CHANGE = 3.0  # largest allowed ratio between the median norms of a matrix and the body's
# Largest allowed distance of padding from the mean row, relative to its norm. Tuned models round
# after taking the mean.
PADDING = 0.05
REBUILD = "build the model again"


def check_weights(model: InspectedModel) -> Iterator[Finding]:
    """Yield the findings about the weights. Rows are read only if the structure is clear."""
    checkpoint = model.checkpoint
    assert checkpoint is not None
    yield from _check_shards(model, checkpoint)
    try:
        names = checkpoint.matrix_names()
    except CheckpointError as error:
        what = str(error).removeprefix(f"{checkpoint.folder}: ")
        yield Finding(
            "error",
            what,
            str(checkpoint.folder),
            "set tie_word_embeddings as in training, or download all shards",
        )
        return
    yield from _check_sizes(model, checkpoint)
    yield from _check_record(model, checkpoint)
    yield from _check_dtype(model, checkpoint)
    scans = {
        matrix: MatrixScan.scan(checkpoint, name, model.tokens.size)
        for matrix, name in names.items()
    }
    yield from _check_ties(model, checkpoint, scans)
    # The most telling check comes first, because `refuse_errors` shows only one error.
    yield from _compare_with_body(model, checkpoint, scans)
    for matrix, scan in scans.items():
        yield from _check_rows(model, matrix, scan)
    yield from _check_digests(model, checkpoint)


@dataclass(frozen=True)
class MatrixScan:
    """Results of one pass over a matrix [V, d].

    norms [V]: float64. bad: ids of rows that are not finite. duplicates: groups of ids with the
    same row. content: hash of all rows, to compare two matrices within this process. real: rows
    before the padding. padding: largest distance of a padding row from the mean of the real rows,
    relative to the mean's norm.
    """

    norms: np.ndarray
    bad: list[int]
    duplicates: list[list[int]]
    content: int
    real: int
    padding: float

    @classmethod
    def scan(cls, checkpoint: Checkpoint, name: str, real: int) -> MatrixScan:
        """Scan the matrix in blocks. Memory stays far below the size of the matrix."""
        (rows, width), dtype = checkpoint.shape(name), checkpoint.dtype(name)
        real, step = min(real, rows), max(1, BLOCK // (width * 4))
        norms, bad, total = np.zeros(rows), [], torch.zeros(width, dtype=torch.float64)
        first: dict[int, int] = {}
        duplicates: dict[int, list[int]] = {}
        hashes: list[int] = []
        for start in range(0, rows, step):
            block = checkpoint.gather(name, np.arange(start, min(start + step, rows)))
            numbers = block.float()
            total += numbers[: max(0, real - start)].sum(0)
            block_norms = numbers.norm(dim=1).double()
            # A finite row's norm may overflow float32. Compute it again in float64.
            infinite = (~torch.isfinite(block_norms)).nonzero().flatten()
            block_norms[infinite] = numbers[infinite].double().norm(dim=1)
            bad += [start + i for i in infinite.tolist() if not torch.isfinite(block_norms[i])]
            norms[start : start + len(block)] = block_norms
            hashes += [hash(row.tobytes()) for row in block.contiguous().view(torch.uint8).numpy()]
        for number in np.flatnonzero(norms[:real]).tolist():
            original = first.setdefault(hashes[number], number)
            if original != number:
                duplicates.setdefault(original, [original]).append(number)
        mean = total / max(1, real)
        padding = checkpoint.gather(name, np.arange(real, rows)).double()
        rounding = (
            2 * torch.finfo(dtype).eps * float(np.median(norms)) / max(1, real) ** 0.5
            if dtype.is_floating_point
            else 0.0
        )
        distance = (
            float(((padding - mean).norm(dim=1) - rounding).max() / mean.norm())
            if len(padding) and mean.norm()
            else 0.0
        )
        return cls(norms, bad, list(duplicates.values()), hash(tuple(hashes)), real, distance)

    @cached_property
    def quantiles(self) -> tuple[float, float, float]:
        """1st percentile, median and 99th percentile of the norms of real, non-zero rows."""
        norms = self.norms[: self.real]
        norms = norms[np.isfinite(norms) & (norms > 0)]
        if not len(norms):
            return 0.0, 0.0, 0.0
        low, median, high = np.quantile(norms, (0.01, 0.5, 0.99)).tolist()
        return low, median, high


def _check_shards(model: InspectedModel, checkpoint: Checkpoint) -> Iterator[Finding]:
    """Compare shards and index. Engines read whole files, so a tensor that two shards hold is
    loaded twice, and the last one wins.
    """
    folder = checkpoint.body
    index = folder / hub.INDEX
    if not index.is_file():
        return
    if (folder / "model.safetensors").is_file():
        what = (
            "there are both model.safetensors and shards: transformers reads the single file, "
            "other programs read the shards"
        )
        yield Finding(
            "error", what, str(folder), "remove the files that do not belong to this model"
        )
    content = json.loads(index.read_text(encoding="utf-8"))
    file_of: dict[str, str] = content["weight_map"]
    entries_of = {file: hub.read_header(folder / file)[1] for file in sorted(set(file_of.values()))}
    missing = [name for name, file in file_of.items() if name not in entries_of[file]]
    if missing:
        what = (
            f"the index names {len(missing)} tensors in shards that do not hold them: "
            f"{list_some(missing)}"
        )
        yield Finding(
            "error", what, str(index), "download index and shards again, from one revision"
        )
    for file, entries in entries_of.items():
        elsewhere = [name for name in entries if file_of.get(name, file) != file]
        if elsewhere:
            what = (
                f"{len(elsewhere)} stale tensors, which the index names in another shard: "
                f"{list_some(elsewhere)}"
            )
            yield Finding(
                "error",
                what,
                str(folder / file),
                "engines load both and keep the last one: write the shard again without them",
            )
        unnamed = [name for name in entries if name not in file_of]
        if unnamed:
            what = (
                f"{len(unnamed)} stale tensors, which the index does not name: {list_some(unnamed)}"
            )
            yield Finding(
                model.strict,
                what,
                str(folder / file),
                "engines may load them anyway: write the shard again without them",
            )
    extra = [
        file.name for file in folder.glob("model-*.safetensors") if file.name not in entries_of
    ]
    if extra:
        what = f"{len(extra)} shards that the index does not name: {list_some(extra)}"
        yield Finding("warning", what, str(folder), "left over from another version: remove them")
    total_size = (content.get("metadata") or {}).get("total_size")
    offsets = [
        entry["data_offsets"]
        for file, entries in entries_of.items()
        for name, entry in entries.items()
        if file_of.get(name) == file
    ]
    size = sum(stop - start for start, stop in offsets)
    if total_size is not None and total_size != size:
        yield Finding(
            model.strict,
            f"total_size is {total_size:,}, the tensors have {size:,} bytes",
            str(index),
            f"set total_size to {size}",
        )


def _check_sizes(model: InspectedModel, checkpoint: Checkpoint) -> Iterator[Finding]:
    tokens, where = model.tokens, str(checkpoint.folder)
    config = model.config.get(
        "vocab_size", (model.config.get("text_config") or {}).get("vocab_size")
    )
    for matrix, name in checkpoint.matrix_names().items():
        rows = checkpoint.shape(name)[0]
        if config != rows:
            yield Finding(
                "error",
                f"config.json says vocab_size {config}, the {matrix} has {rows} rows",
                where,
                "set vocab_size to the rows",
            )
        if tokens.size > rows:
            what = f"the tokenizer's highest id is {tokens.size - 1}, the {matrix} has {rows} rows"
            yield Finding("error", what, where, "use the tokenizer that belongs to these weights")
        if rows % MULTIPLE and matrix == "embedding":
            what = f"the {matrix} has {rows} rows, no multiple of {MULTIPLE}"
            yield Finding(
                model.strict, what, where, "pad the rows with the mean row, after special tokens"
            )


def _check_record(model: InspectedModel, checkpoint: Checkpoint) -> Iterator[Finding]:
    """lep.json must record the right number of real rows, of rows by kind, and of tensors."""
    lep, where = model.lep, str(checkpoint.folder)
    if lep is None:
        return
    if lep.vocabulary_size and lep.vocabulary_size != model.tokens.size:
        yield Finding(
            "error",
            f"lep.json says {lep.vocabulary_size} real rows, the tokenizer has {model.tokens.size}",
            where,
            REBUILD,
        )
    counted = sum(lep.rows.values())
    if model.is_ours and not (lep.rows and lep.vocabulary_size):
        yield Finding(
            "error", "lep.json does not record the real and the padded size", where, REBUILD
        )
    elif model.is_ours and counted != checkpoint.rows:
        yield Finding(
            "error",
            f"lep.json counts {counted} rows with padding, the embedding has {checkpoint.rows}",
            where,
            REBUILD,
        )
    missing = [name for name in lep.changed if name not in checkpoint.places]
    if missing:
        yield Finding(
            "error",
            f"{len(missing)} tensors that lep.json names as changed are missing: "
            f"{list_some(missing)}",
            where,
            REBUILD,
        )
    if lep.kind == "patch":
        stored = hub.read_header(checkpoint.folder / PATCH)[1]
        body = Checkpoint.open(checkpoint.body)
        unnamed = [name for name in stored if name not in lep.changed]
        if unnamed:
            yield Finding(
                "error",
                f"{len(unnamed)} stale tensors, which lep.json does not name: {list_some(unnamed)}",
                f"{where}/{PATCH}",
                REBUILD,
            )
        foreign = [
            name
            for name in stored
            if name not in body.places or tuple(stored[name]["shape"])[1:] != body.shape(name)[1:]
        ]
        if foreign:
            what = (
                f"{len(foreign)} tensors that its body {body.folder} lacks or has in another "
                f"width: {list_some(foreign)}"
            )
            yield Finding("error", what, f"{where}/{PATCH}", "name the right body in lep.json")


def _check_dtype(model: InspectedModel, checkpoint: Checkpoint) -> Iterator[Finding]:
    body_dtypes = (
        _list_dtypes(model.body, model.body.checkpoint)
        if model.body and model.body.checkpoint
        else []
    )
    for matrix, configured, stored in _list_dtypes(model, checkpoint):
        if configured and configured != stored:
            is_inherited = (matrix, configured, stored) in body_dtypes
            level: Level = "warning" if is_inherited else model.strict
            how = (
                "loading converts the weights to the dtype in config.json: set it to the dtype of "
                "the tensors"
            )
            yield Finding(
                level,
                f"config.json says dtype {configured}, the {matrix} is stored in {stored}",
                str(checkpoint.folder),
                how,
            )


def _list_dtypes(
    model: InspectedModel, checkpoint: Checkpoint
) -> list[tuple[str, str | None, str]]:
    """(matrix, dtype in config.json, stored dtype)."""
    configured = model.config.get("dtype") or model.config.get("torch_dtype")
    return [
        (matrix, configured, dtype_name(checkpoint.dtype(name)))
        for matrix, name in checkpoint.matrix_names().items()
    ]


def _check_ties(
    model: InspectedModel, checkpoint: Checkpoint, scans: dict[str, MatrixScan]
) -> Iterator[Finding]:
    where = str(checkpoint.folder)
    stale = [name for name in HEADS if name in checkpoint.places]
    if "head" not in scans and stale:
        is_copy = digest_tensor(checkpoint.places[stale[0]]) == digest_tensor(
            checkpoint.places[checkpoint.embedding_name]
        )
        what = f"config.json ties head and embedding, yet there is a {stale[0]}" + (
            ", a copy" if is_copy else " of its own, which would be lost"
        )
        yield Finding(
            "warning" if is_copy else "error",
            what,
            where,
            "remove the tensor, or set tie_word_embeddings to false",
        )
    if "head" in scans and scans["head"].content == scans["embedding"].content:
        what = "head and embedding hold the same numbers, but config.json does not tie them"
        yield Finding(
            model.strict,
            what,
            where,
            "set tie_word_embeddings to true, unless one of the two was overwritten with the other",
        )
    if (
        model.is_ours
        and model.body
        and model.body.checkpoint
        and model.body.checkpoint.tied != checkpoint.tied
    ):
        kinds = [("tied" if c.tied else "untied") for c in (checkpoint, model.body.checkpoint)]
        yield Finding(
            "error",
            f"head and embedding are {kinds[0]}, in the body {model.body.folder} {kinds[1]}",
            where,
            REBUILD,
        )


def _check_rows(model: InspectedModel, matrix: str, scan: MatrixScan) -> Iterator[Finding]:
    where = f"{model.folder} ({matrix})"
    special = set(model.tokens.specials.values())
    low, median, high = scan.quantiles
    real, norms = scan.real, scan.norms
    if scan.bad:
        yield Finding(
            "error",
            f"{len(scan.bad)} rows with NaN or infinity, the first at id {scan.bad[0]}",
            where,
            REBUILD,
        )
    with_token = [
        n for n in range(real) if model.tokens.pieces[n] is not None and np.isfinite(norms[n])
    ]
    empty = [n for n in with_token if norms[n] == 0]
    ordinary, reserved = [n for n in empty if n not in special], [n for n in empty if n in special]
    if ordinary:
        how = "such a token has no meaning: check where its row comes from"
        yield Finding(
            "warning",
            f"{len(ordinary)} rows are all zero, the first at id {ordinary[0]}",
            where,
            how,
        )
    if reserved:
        what = f"{len(reserved)} rows of special tokens are all zero, the first at id {reserved[0]}"
        yield Finding(
            "note",
            what,
            where,
            "these tokens were never trained: means and fits leave them out",
        )
    outliers = [
        n
        for n in with_token
        if n not in special and 0 < norms[n] and not low / OUTLIER <= norms[n] <= high * OUTLIER
    ]
    if outliers:
        what = (
            f"{len(outliers)} rows are much longer or shorter than the others (norm "
            f"{norms[outliers[0]]:.3g} at id {outliers[0]}, median {median:.3g})"
        )
        yield Finding(
            "warning",
            what,
            where,
            "these tokens were hardly trained, or their rows belong to another matrix: check them",
        )
    duplicates = [group for group in scan.duplicates if not special.issuperset(group)]
    # A mean does not depend on the order of its subtokens, so before training "ab|c" and "c|ab"
    # correctly share a row.
    if duplicates and not (model.lep and model.lep.stage in ("init", "instruct-init")):
        what = (
            f"{sum(map(len, duplicates))} rows are the same as another token's, such as ids "
            f"{list_some(duplicates[0])}"
        )
        yield Finding(
            "warning",
            what,
            where,
            "the model cannot distinguish these tokens: check where their rows come from",
        )
    untrained = (
        {n for group in scan.duplicates for n in group}
        | set(reserved)
        | {n for n in special if n < real and norms[n] < low / OUTLIER}
    )
    chat_ids = set(model.chat.ids) if isinstance(model.chat, Chat) else set()
    markers = chat_ids & untrained & special
    if markers:
        what = (
            f"the chat template uses {list_some(model.specials_in(sorted(markers)))}, whose rows "
            "are zero, tiny, or those of other tokens"
        )
        # A warning for our models too: `_compare_with_body` reports rows that are not the instruct
        # model's as an error.
        yield Finding(
            "warning", what, where, "markers need trained rows: copy the instruct model's rows"
        )
    if model.is_ours and scan.padding > PADDING:
        yield Finding(
            "error",
            f"rows from {scan.real} on are not the mean row",
            where,
            "pad with the mean of the real rows",
        )


def _compare_with_body(
    model: InspectedModel, checkpoint: Checkpoint, scans: dict[str, MatrixScan]
) -> Iterator[Finding]:
    """Special and added tokens must keep the body's rows until tuning trains them. Before training,
    kept tokens must too.
    """
    lep, where = model.lep, str(checkpoint.folder)
    if lep is None or not model.is_ours or lep.training:
        return
    if model.body is None or model.body.checkpoint is None:
        yield Finding(
            "note",
            "the instruct model is not at hand: its special rows could not be compared",
            where,
            "nothing to do",
        )
        return
    body, tokens = model.body.checkpoint, model.body.tokens
    role = "base" if lep.stage == "init" else "instruct model"
    missing = [content for content in tokens.specials if content not in model.id_of]
    if missing:
        yield Finding(
            "error",
            f"{len(missing)} special tokens of the {role} are missing, the first is {missing[0]!r}",
            where,
            REBUILD,
        )
    kinds = {
        "special": [
            (number, model.id_of[content])
            for content, number in tokens.specials.items()
            if content in model.id_of
        ]
    }
    if lep.stage in ("init", "instruct-init") and lep.row_policy == "bytes-exact":
        kinds["kept"] = _pair_kept(tokens, model.tokens)
    for matrix, name in checkpoint.matrix_names().items():
        body_name = body.matrix_names().get(matrix)
        if body_name is None:
            continue
        for kind, pairs in kinds.items():
            old, new = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
            if (
                not len(new)
                or max(new) >= checkpoint.shape(name)[0]
                or max(old) >= body.shape(body_name)[0]
            ):
                continue  # too few rows, which `_check_sizes` reports
            rows: list[int] = []
            for start in range(0, len(new), 4096):  # a whole vocabulary may be kept
                part = slice(start, start + 4096)
                differs = body.gather(body_name, old[part]) != checkpoint.gather(name, new[part])
                rows += (start + differs.any(1).nonzero().flatten()).tolist()
            if rows:
                what = (
                    f"{len(rows)} {kind} rows of the {matrix} are not the {role}'s own, the first "
                    f"is {model.tokens.pieces[new[rows[0]]]!r}"
                )
                yield Finding(
                    "error",
                    what,
                    where,
                    "only the instruct model has trained chat markers: copy its rows",
                )
        sample = np.unique(
            np.linspace(0, min(tokens.size, body.shape(body_name)[0]) - 1, 4096).astype(np.int64)
        )
        before, after = (
            float(body.gather(body_name, sample).float().norm(dim=1).median()),
            scans[matrix].quantiles[1],
        )
        if before and not 1 / CHANGE <= after / before <= CHANGE:
            what = (
                f"the median norm of the {matrix}'s rows is {after:.3g}, the {role}'s {before:.3g}"
            )
            yield Finding(
                "warning",
                what,
                where,
                "compare the fit report in lep.json; another propagation method may suit this "
                "donor",
            )


def _pair_kept(old: Tokens, new: Tokens) -> list[tuple[int, int]]:
    """(old id, new id) of ordinary tokens that stand for the same bytes."""
    pairs = []
    for number in range(new.size):
        value = new.bytes_of(number)
        match = (
            old.find(value, as_byte_token=new.is_byte_token(number)) if value is not None else None
        )
        if match is not None:
            pairs.append((match, number))
    return pairs


def _check_digests(model: InspectedModel, checkpoint: Checkpoint) -> Iterator[Finding]:
    """Tensors must have the hashes that lep.json records."""
    if model.lep is None:
        return
    recorded = model.lep.tensors
    current = {
        name: digest_tensor(checkpoint.places[name])
        for name in recorded
        if name in checkpoint.places
    }
    changed = sorted(name for name, value in current.items() if value != recorded[name])
    if len(changed) > 1 and Counter(current[name] for name in changed) == Counter(
        recorded[name] for name in changed
    ):
        what = f"{list_some(changed)} are swapped: each holds another's numbers"
        yield Finding("error", what, str(checkpoint.folder), "write each matrix under its own name")
    elif changed:
        what = (
            f"{len(changed)} tensors are not those that were written (other hashes than in "
            f"lep.json): {list_some(changed)}"
        )
        how = (
            "they were damaged, shuffled or edited: build the model again, or remove lep.json if "
            "the change is intended"
        )
        yield Finding("error", what, str(checkpoint.folder), how)
