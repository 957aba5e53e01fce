"""What `check` looks at in the weights: shards and index, sizes, ties, number formats, and every
row of both matrices.
"""

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
from lep_bench.surgery.check.findings import Finding, InspectedModel, Level, list_some
from lep_bench.surgery.tokenizers.tokens import Tokens
from lep_bench.surgery.weights.checkpoint import HEADS, Checkpoint, digest_tensor
from lep_bench.surgery.weights.patch import MULTIPLE, dtype_name

BLOCK = 1 << 25  # bytes of rows in memory at a time
OUTLIER = 5.0  # a row's norm this far beyond the matrix's 1st and 99th percentile is one
CHANGE = 3.0  # and the median norm this far from the body's
PADDING = 0.05  # relative distance from the mean row: tuned models round after they take the mean
AGAIN = "build the model again"


def check_weights(model: InspectedModel) -> Iterator[Finding]:
    """Structure first; rows are read only where the structure tells which they are."""
    checkpoint = model.checkpoint
    assert checkpoint is not None
    yield from _shards(model, checkpoint)
    try:
        names = checkpoint.matrix_names()
    except CheckpointError as error:
        what = str(error).removeprefix(f"{checkpoint.folder}: ")
        yield Finding(
            "error",
            what,
            str(checkpoint.folder),
            "set tie_word_embeddings as the model was trained, or fetch all its shards",
        )
        return
    yield from _sizes(model, checkpoint)
    yield from _recorded(model, checkpoint)
    yield from _number_format(model, checkpoint)
    scans = {
        matrix: MatrixScan.of(checkpoint, name, model.tokens.size) for matrix, name in names.items()
    }
    yield from _ties(model, checkpoint, scans)
    # what tells most comes first: `refuse` shows one error
    yield from _against_body(model, checkpoint, scans)
    for matrix, scan in scans.items():
        yield from _rows(model, matrix, scan)
    yield from _digests(model, checkpoint)


@dataclass(frozen=True)
class MatrixScan:
    """What one pass over a matrix [V, d] found. norms [V] float64; `bad`: ids of rows that are not
    finite; `alike`: ids of one and the same row, two or more; `padding`: how far, relative, the
    rows behind the `real` ones are from these one's mean; `content`: a hash of all rows, for
    comparing two matrices within this process."""

    norms: np.ndarray
    bad: list[int]
    alike: list[list[int]]
    content: int
    real: int
    padding: float

    @classmethod
    def of(cls, checkpoint: Checkpoint, name: str, real: int) -> MatrixScan:
        """One pass in blocks: nothing of the matrix's size is ever in memory."""
        (rows, width), dtype = checkpoint.shape(name), checkpoint.dtype(name)
        real, step = min(real, rows), max(1, BLOCK // (width * 4))
        norms, bad, total = np.zeros(rows), [], torch.zeros(width, dtype=torch.float64)
        first: dict[int, int] = {}
        alike: dict[int, list[int]] = {}
        hashes: list[int] = []
        for start in range(0, rows, step):
            block = checkpoint.gather(name, np.arange(start, min(start + step, rows)))
            numbers = block.float()
            total += numbers[: max(0, real - start)].sum(0)
            found = numbers.norm(dim=1).double()
            # or finite and too long for float32
            wild = (~torch.isfinite(found)).nonzero().flatten()
            found[wild] = numbers[wild].double().norm(dim=1)
            bad += [start + i for i in wild.tolist() if not torch.isfinite(found[i])]
            norms[start : start + len(block)] = found
            hashes += [hash(row.tobytes()) for row in block.contiguous().view(torch.uint8).numpy()]
        for number in np.flatnonzero(norms[:real]).tolist():
            one = first.setdefault(hashes[number], number)
            if one != number:
                alike.setdefault(one, [one]).append(number)
        mean = total / max(1, real)
        behind = checkpoint.gather(name, np.arange(real, rows)).double()
        rounding = (
            2 * torch.finfo(dtype).eps * float(np.median(norms)) / max(1, real) ** 0.5
            if dtype.is_floating_point
            else 0.0
        )
        away = (
            float(((behind - mean).norm(dim=1) - rounding).max() / mean.norm())
            if len(behind) and mean.norm()
            else 0.0
        )
        return cls(norms, bad, list(alike.values()), hash(tuple(hashes)), real, away)

    @cached_property
    def quantiles(self) -> tuple[float, float, float]:
        """1st percentile, median and 99th percentile of the real rows' norms, zero ones left
        out.
        """
        norms = self.norms[: self.real]
        norms = norms[np.isfinite(norms) & (norms > 0)]
        return (
            tuple(np.quantile(norms, (0.01, 0.5, 0.99)).tolist()) if len(norms) else (0.0, 0.0, 0.0)
        )


def _shards(model: InspectedModel, checkpoint: Checkpoint) -> Iterator[Finding]:
    """Engines read whole files, so a tensor that lies about twice is loaded twice, and the last one
    wins.
    """
    folder = checkpoint.body
    index = folder / hub.INDEX
    if not index.is_file():
        return
    if (folder / "model.safetensors").is_file():
        what = (
            "there are both model.safetensors and shards: transformers reads the one, other "
            "programs the others"
        )
        yield Finding("error", what, str(folder), "remove what does not belong to this model")
    content = json.loads(index.read_text(encoding="utf-8"))
    named: dict[str, str] = content["weight_map"]
    held = {file: hub.read_header(folder / file)[1] for file in sorted(set(named.values()))}
    lacking = [name for name, file in named.items() if name not in held[file]]
    if lacking:
        what = (
            f"the index names {len(lacking)} tensors in shards that do not hold them: "
            f"{list_some(lacking)}"
        )
        yield Finding("error", what, str(index), "fetch index and shards again, from one revision")
    for file, entries in held.items():
        elsewhere = [name for name in entries if named.get(name, file) != file]
        if elsewhere:
            what = (
                f"{len(elsewhere)} stale tensors, which the index names in another shard: "
                f"{list_some(elsewhere)}"
            )
            yield Finding(
                "error",
                what,
                str(folder / file),
                "engines load both, the last one wins: write the shard again without them",
            )
        unnamed = [name for name in entries if name not in named]
        if unnamed:
            what = (
                f"{len(unnamed)} stale tensors, which the index does not name: {list_some(unnamed)}"
            )
            yield Finding(
                model.strict,
                what,
                str(folder / file),
                "engines may load them all the same: write the shard again without them",
            )
    more = [file.name for file in folder.glob("model-*.safetensors") if file.name not in held]
    if more:
        what = f"{len(more)} shards that the index does not name: {list_some(more)}"
        yield Finding("warning", what, str(folder), "left over from another version: remove them")
    said = (content.get("metadata") or {}).get("total_size")
    ends = [
        entry["data_offsets"]
        for file, entries in held.items()
        for name, entry in entries.items()
        if named.get(name) == file
    ]
    size = sum(stop - start for start, stop in ends)
    if said is not None and said != size:
        yield Finding(
            model.strict,
            f"total_size is {said:,}, the tensors have {size:,} bytes",
            str(index),
            f"set total_size to {size}",
        )


def _sizes(model: InspectedModel, checkpoint: Checkpoint) -> Iterator[Finding]:
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
            yield Finding("error", what, where, "give the tokenizer that belongs to these weights")
        if rows % MULTIPLE and matrix == "embedding":
            what = f"the {matrix} has {rows} rows, no multiple of {MULTIPLE}"
            yield Finding(
                model.strict, what, where, "pad the rows with the mean row, after special tokens"
            )


def _recorded(model: InspectedModel, checkpoint: Checkpoint) -> Iterator[Finding]:
    """lep.json says how many rows are real and of which kind each is."""
    lep, where = model.lep, str(checkpoint.folder)
    if lep is None:
        return
    if lep.vocabulary_size and lep.vocabulary_size != model.tokens.size:
        yield Finding(
            "error",
            f"lep.json says {lep.vocabulary_size} real rows, the tokenizer has {model.tokens.size}",
            where,
            AGAIN,
        )
    counted = sum(lep.rows.values())
    if model.made and not (lep.rows and lep.vocabulary_size):
        yield Finding(
            "error", "lep.json does not record the real and the padded size", where, AGAIN
        )
    elif model.made and counted != checkpoint.rows:
        yield Finding(
            "error",
            f"lep.json counts {counted} rows with padding, the embedding has {checkpoint.rows}",
            where,
            AGAIN,
        )
    lost = [name for name in lep.changed if name not in checkpoint.places]
    if lost:
        yield Finding(
            "error",
            f"{len(lost)} tensors that lep.json names as changed are missing: {list_some(lost)}",
            where,
            AGAIN,
        )
    if lep.kind == "patch":
        own, body = hub.read_header(checkpoint.folder / PATCH)[1], Checkpoint.open(checkpoint.body)
        unnamed = [name for name in own if name not in lep.changed]
        if unnamed:
            yield Finding(
                "error",
                f"{len(unnamed)} stale tensors, which lep.json does not name: {list_some(unnamed)}",
                f"{where}/{PATCH}",
                AGAIN,
            )
        unlike = [
            name
            for name in own
            if name not in body.places or tuple(own[name]["shape"])[1:] != body.shape(name)[1:]
        ]
        if unlike:
            what = (
                f"{len(unlike)} tensors that its body {body.folder} lacks or has in another "
                f"width: {list_some(unlike)}"
            )
            yield Finding("error", what, f"{where}/{PATCH}", "name the right body in lep.json")


def _number_format(model: InspectedModel, checkpoint: Checkpoint) -> Iterator[Finding]:
    pairs = _formats(model, checkpoint)
    given = (
        _formats(model.body, model.body.checkpoint) if model.body and model.body.checkpoint else []
    )
    for matrix, said, found in pairs:
        if said and said != found:
            level: Level = "warning" if (matrix, said, found) in given else model.strict
            how = (
                "loading converts the weights to what config.json says: set its dtype to the "
                "tensors' own"
            )
            yield Finding(
                level,
                f"config.json says dtype {said}, the {matrix} is stored in {found}",
                str(checkpoint.folder),
                how,
            )


def _formats(model: InspectedModel, checkpoint: Checkpoint) -> list[tuple[str, str | None, str]]:
    said = model.config.get("dtype") or model.config.get("torch_dtype")
    return [
        (matrix, said, dtype_name(checkpoint.dtype(name)))
        for matrix, name in checkpoint.matrix_names().items()
    ]


def _ties(
    model: InspectedModel, checkpoint: Checkpoint, scans: dict[str, MatrixScan]
) -> Iterator[Finding]:
    where = str(checkpoint.folder)
    stale = [name for name in HEADS if name in checkpoint.places]
    if "head" not in scans and stale:
        same = digest_tensor(checkpoint.places[stale[0]]) == digest_tensor(
            checkpoint.places[checkpoint.embedding_name]
        )
        what = f"config.json ties head and embedding, yet there is a {stale[0]}" + (
            ", a copy" if same else " of its own, which would be lost"
        )
        yield Finding(
            "warning" if same else "error",
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
            "set tie_word_embeddings to true, or one of the two was written over the other",
        )
    if (
        model.made
        and model.body
        and model.body.checkpoint
        and model.body.checkpoint.tied != checkpoint.tied
    ):
        kinds = [("tied" if c.tied else "untied") for c in (checkpoint, model.body.checkpoint)]
        yield Finding(
            "error",
            f"head and embedding are {kinds[0]}, in the body {model.body.folder} {kinds[1]}",
            where,
            AGAIN,
        )


def _rows(model: InspectedModel, matrix: str, scan: MatrixScan) -> Iterator[Finding]:
    where = f"{model.folder} ({matrix})"
    special = set(model.tokens.specials.values())
    low, middle, high = scan.quantiles
    real, norms = scan.real, scan.norms
    if scan.bad:
        yield Finding(
            "error",
            f"{len(scan.bad)} rows with NaN or infinity, the first at id {scan.bad[0]}",
            where,
            AGAIN,
        )
    named = [n for n in range(real) if model.tokens.pieces[n] is not None and np.isfinite(norms[n])]
    empty = [n for n in named if norms[n] == 0]
    ordinary, reserved = [n for n in empty if n not in special], [n for n in empty if n in special]
    if ordinary:
        how = "such a token carries no meaning: check how its row came about"
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
            "reserved tokens that were never trained: they stay out of means and fits",
        )
    odd = [
        n
        for n in named
        if n not in special and 0 < norms[n] and not low / OUTLIER <= norms[n] <= high * OUTLIER
    ]
    if odd:
        what = (
            f"{len(odd)} rows are much longer or shorter than the others (norm "
            f"{norms[odd[0]]:.3g} at id {odd[0]}, median {middle:.3g})"
        )
        yield Finding(
            "warning",
            what,
            where,
            "tokens that were hardly trained, or rows of another matrix: look at them",
        )
    alike = [group for group in scan.alike if not special.issuperset(group)]
    # The mean of subtokens does not know their order: at the start of training "ab|c" and "c|ab"
    # share a row rightly.
    if alike and not (model.lep and model.lep.stage in ("init", "instruct-init")):
        what = (
            f"{sum(map(len, alike))} rows are the same as another token's, such as ids "
            f"{list_some(alike[0])}"
        )
        yield Finding(
            "warning",
            what,
            where,
            "these tokens mean the same to the model: check how their rows came about",
        )
    untrained = (
        {n for group in scan.alike for n in group}
        | set(reserved)
        | {n for n in special if n < real and norms[n] < low / OUTLIER}
    )
    markers = set(model.chat.ids) & untrained & special if hasattr(model.chat, "ids") else set()
    if markers:
        what = (
            f"the chat template uses {list_some(model.specials_in(sorted(markers)))}, whose rows "
            "are zero, tiny, or those of other tokens"
        )
        # In ours too: where they are not the instruct model's own, that is an error by itself
        # (_against_body).
        yield Finding(
            "warning", what, where, "markers must have trained rows: take the instruct model's own"
        )
    if model.made and scan.padding > PADDING:
        yield Finding(
            "error",
            f"rows from {scan.real} on are not the mean row",
            where,
            "pad with the mean of the real rows",
        )


def _against_body(
    model: InspectedModel, checkpoint: Checkpoint, scans: dict[str, MatrixScan]
) -> Iterator[Finding]:
    """Special and added tokens of the body keep its own rows (until a tuning trains them); so do
    kept tokens before training.
    """
    lep, where = model.lep, str(checkpoint.folder)
    if lep is None or not model.made or lep.training:
        return
    if model.body is None or model.body.checkpoint is None:
        yield Finding(
            "note",
            "the instruct model is not at hand: its special rows could not be compared",
            where,
            "nothing to do",
        )
        return
    theirs, tokens, who = (
        model.body.checkpoint,
        model.body.tokens,
        "base" if lep.stage == "init" else "instruct model",
    )
    lost = [content for content in tokens.specials if content not in model.known]
    if lost:
        yield Finding(
            "error",
            f"{len(lost)} special tokens of the {who} are missing, the first is {lost[0]!r}",
            where,
            AGAIN,
        )
    kinds = {
        "special": [
            (number, model.known[content])
            for content, number in tokens.specials.items()
            if content in model.known
        ]
    }
    if lep.stage in ("init", "instruct-init") and lep.row_policy == "bytes-exact":
        kinds["kept"] = _kept(tokens, model.tokens)
    for matrix, name in checkpoint.matrix_names().items():
        other = theirs.matrix_names().get(matrix)
        if other is None:
            continue
        for kind, pairs in kinds.items():
            own, new = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
            if (
                not len(new)
                or max(new) >= checkpoint.shape(name)[0]
                or max(own) >= theirs.shape(other)[0]
            ):
                continue  # too few rows: an error of its own
            rows: list[int] = []
            for start in range(0, len(new), 4096):  # of kept tokens there may be a whole vocabulary
                part = slice(start, start + 4096)
                unlike = theirs.gather(other, own[part]) != checkpoint.gather(name, new[part])
                rows += (start + unlike.any(1).nonzero().flatten()).tolist()
            if rows:
                what = (
                    f"{len(rows)} {kind} rows of the {matrix} are not the {who}'s own, the first "
                    f"is {model.tokens.pieces[new[rows[0]]]!r}"
                )
                yield Finding(
                    "error",
                    what,
                    where,
                    "chat markers are untrained elsewhere: copy the instruct model's rows",
                )
        sample = np.unique(
            np.linspace(0, min(tokens.size, theirs.shape(other)[0]) - 1, 4096).astype(np.int64)
        )
        before, after = (
            float(theirs.gather(other, sample).float().norm(dim=1).median()),
            scans[matrix].quantiles[1],
        )
        if before and not 1 / CHANGE <= after / before <= CHANGE:
            what = (
                f"the median norm of the {matrix}'s rows is {after:.3g}, the {who}'s {before:.3g}"
            )
            yield Finding(
                "warning",
                what,
                where,
                "compare the fit report in lep.json; another propagation method may suit this "
                "donor",
            )


def _kept(old: Tokens, new: Tokens) -> list[tuple[int, int]]:
    """(old id, new id) of ordinary tokens that stand for the same bytes."""
    found = []
    for number in range(new.size):
        value = new.bytes_of(number)
        match = (
            old.find(value, as_byte_token=new.is_byte_token(number)) if value is not None else None
        )
        if match is not None:
            found.append((match, number))
    return found


def _digests(model: InspectedModel, checkpoint: Checkpoint) -> Iterator[Finding]:
    """lep.json knows the hash of every tensor that we wrote."""
    if model.lep is None:
        return
    recorded = model.lep.tensors
    now = {
        name: digest_tensor(checkpoint.places[name])
        for name in recorded
        if name in checkpoint.places
    }
    other = sorted(name for name, value in now.items() if value != recorded[name])
    if len(other) > 1 and Counter(now[name] for name in other) == Counter(
        recorded[name] for name in other
    ):
        what = f"{list_some(other)} are swapped: each holds another's numbers"
        yield Finding("error", what, str(checkpoint.folder), "write each matrix under its own name")
    elif other:
        what = (
            f"{len(other)} tensors are not those that were written (other hashes than in "
            f"lep.json): {list_some(other)}"
        )
        how = (
            "damaged, shuffled or edited since: build the model again, or remove lep.json if it "
            "was meant"
        )
        yield Finding("error", what, str(checkpoint.folder), how)
