"""LEP (arXiv 2412.21140): carry a donor's embedding and head into an instruct model.

`adapt` writes a complete checkpoint and `propagate` a patch. `initialise` writes the subtoken means
that training starts from. Then follow the rows of the new matrices, and the checks that base,
instruct and donor belong together.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from lep_bench import files
from lep_bench.errors import AdapterError, CheckpointError, LepBenchError, unknown_name
from lep_bench.plugin import Adapter, Params
from lep_bench.records.artifact import REVISIONS, Artifact, Lep, Parent
from lep_bench.surgery.decompose import HOLE, KEPT, NEW, Decomposition, Policy, decompose
from lep_bench.surgery.export import export_checkpoint
from lep_bench.surgery.leastsquares import BLOCK_ROWS, mixed_rows
from lep_bench.surgery.problem import Problem
from lep_bench.surgery.tokenizers import assemble, loading
from lep_bench.surgery.tokenizers.assemble import Assembled
from lep_bench.surgery.tokenizers.tokens import Tokens
from lep_bench.surgery.weights import lora, patch, shards
from lep_bench.surgery.weights.checkpoint import Checkpoint, digest_tensor, locate_checkpoint

Rows = Callable[[np.ndarray], torch.Tensor]  # new ids [n] -> float64 rows [n, d]


def adapt(
    base: str | Path,
    instruct: str | Path,
    donor: str | Path,
    out: Path,
    adapter: Adapter,
    params: Params | None = None,
    *,
    policy: Policy = "bytes-exact",
    revisions: Mapping[str, str] | None = None,
    discard_donor_body: bool = False,
    device: str = "cpu",
) -> Path:
    """Write the LEP model of three models as a COMPLETE checkpoint, and return `out`.

    base, instruct, donor: folders, Hub ids or ``builtin:FAMILY/base``. policy: how new tokens are
    decomposed (see `decompose`). revisions: a Hub revision per role (base, instruct, donor).
    ``lep.json`` beside the weights records what was done. Raises LepBenchError in one line if `out`
    exists, a model cannot be found, the three do not belong together, or the adapter returns
    unusable rows.
    """
    target = out.expanduser()
    if target.exists():
        raise LepBenchError(f"{target} exists already: choose another folder or remove it first")
    if policy not in get_args(Policy):
        raise unknown_name("row policy", policy, get_args(Policy))
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise LepBenchError(
            f"--device {device}: "
            + (
                "torch finds no GPU on this machine; use cpu"
                if device == "cuda"
                else "choose cpu or cuda"
            )
        )
    settings = params if params is not None else adapter.params()
    locations = {"base": str(base), "instruct": str(instruct), "donor": str(donor)}
    revision_of = dict(revisions or {})
    folders = {
        role: locate_checkpoint(location, revision_of.get(role))
        for role, location in locations.items()
    }
    parents = {
        role: _make_parent(role, location, folders[role], revision_of.get(role))
        for role, location in locations.items()
    }
    body = parents["instruct"].model_copy(update={"role": "body"})
    files.need_space(
        target, _count_bytes_to_write(Checkpoint.open(folders["instruct"]), folders["donor"])
    )
    parameters = settings.model_dump(mode="json")
    lep = Lep(
        model=target.name,
        fingerprint="",
        kind="patch",
        stage="propagation",
        parents=(body, *parents.values()),
        params=parameters,
    )
    with files.explain_disk_errors(target), _temporary_folder_beside(target) as work:
        patched = propagate(
            folders["base"],
            folders["instruct"],
            folders["donor"],
            Path(work) / "patch",
            adapter,
            settings,
            lep=lep,
            policy=policy,
            discard_donor_body=discard_donor_body,
            device=device,
        )
        resolved = {
            "parents": {parent.role: parent.digest for parent in patched.lep.parents},
            "tokenizer": files.file_digest(patched.folder / "tokenizer.json"),
            "adapter": {
                "name": adapter.name,
                "source": files.file_digest(adapter.source),
                "params": parameters,
            },
            "policy": policy,
            "revision": REVISIONS["propagation"],
        }
        lep = patched.lep.model_copy(
            update={"resolved": resolved, "fingerprint": files.digest(resolved)}
        )
        return export_checkpoint(Artifact(patched.folder, folders["instruct"], lep), target)


def propagate(
    base: Path,
    instruct: Path,
    donor: Artifact | Path,
    out: Path,
    adapter: Adapter,
    params: Params | None = None,
    *,
    lep: Lep,
    policy: Policy = "bytes-exact",
    discard_donor_body: bool = False,
    device: str = "cpu",
) -> Artifact:
    """Write a patch against the instruct model with the donor's embedding and head, carried over by
    `adapter`.

    The patch's tokenizer is the donor's plus the instruct model's added tokens. Chat template,
    post-processor and configs are the instruct model's, with ids patched by field. Special and
    added tokens that the instruct tokenizer knows keep its rows verbatim in both matrices. The mean
    row pads both to a multiple of 64 rows. A donor may be a peft folder (LoRA with trained
    embeddings); its LoRA is then merged into the instruct model's body.

    `lep` as in `initialise`. `device` computes the float64 products. Raises CheckpointError for
    parents that do not belong together, with counts, and AdapterError if the adapter raises or
    returns rows of a wrong shape or dtype, or NaN.
    """
    donor_folder = donor.folder if isinstance(donor, Artifact) else donor
    models = {"base": Checkpoint.open(base), "instruct": Checkpoint.open(instruct)}
    lora_donor = (
        lora.open_donor(donor_folder, models["base"]) if lora.is_lora(donor_folder) else None
    )
    models["donor"] = lora_donor.checkpoint if lora_donor else Checkpoint.open(donor)
    tokens = {role: Tokens.read(model.folder) for role, model in models.items()}
    check_together(models["base"], models["instruct"], models["donor"])
    for role, model in models.items():
        check_rows(role, model, tokens[role])
    check_tokenizers(tokens["base"], tokens["instruct"])
    discarded = check_bodies(models["base"], models["donor"], discard_donor_body)
    decomposition = decompose(tokens["base"], tokens["donor"], policy)
    assembled = assemble.assemble_tokenizer(tokens["donor"], tokens["instruct"])
    tensors, problems = {}, {}
    for matrix, name in models["instruct"].matrix_names().items():
        problem = Problem(
            matrix,
            decomposition,
            tokens["base"],
            models["base"],
            models["instruct"],
            models["donor"],
            torch.device(device),
        )
        rows = make_adapted_rows(
            problem, adapter, params if params is not None else adapter.params()
        )
        tensors[name] = propagate_matrix(
            rows,
            tokens["donor"].size,
            assembled,
            models["instruct"],
            name,
            f"propagation adapter {adapter.name!r} ({matrix})",
            AdapterError,
        )
        problems[matrix] = problem
    lep = _describe_rows(
        lep, decomposition, assembled, ("body", models["instruct"]), *models.items()
    )
    notes = [
        f"{role}: {note}"
        for role, model in models.items()
        for note in loading.load_tokenizer(model.folder)[1]
    ]
    notes += (
        [f"{discarded} changed tensors of the donor's body were discarded"] if discarded else []
    )
    if lora_donor:
        # What LoRA changed in the base's body changes in the instruct model's, one tensor at a
        # time.
        tensors |= lora.merge_deltas(models["instruct"], lora_donor.deltas)
        notes += [
            *lora_donor.notes,
            f"LoRA of the donor merged into {len(lora_donor.deltas)} tensors",
        ]
    notes += [warning for problem in problems.values() for warning in problem.warnings]
    lep = lep.model_copy(update={"adapter": adapter.name, "notes": (*lep.notes, *notes)})
    return patch.write_artifact(
        out,
        tensors,
        assembled.files,
        lep,
        lambda: {"fit": {matrix: p.report for matrix, p in problems.items()}},
    )


def initialise(
    body_folder: Path,
    old_tokens_folder: Path,
    new_tokenizer_folder: Path,
    out_folder: Path,
    *,
    lep: Lep,
    policy: Policy = "bytes-exact",
) -> Artifact:
    """Write the subtoken-mean patch against `body_folder`: E_new = T E_body for each matrix. The
    body is the base (stage init) or the instruct model (stage instruct-init).

    `old_tokens_folder` holds the tokenizer of the body's ordinary rows; the base's serves both. The
    body's special and added tokens keep their rows verbatim. `lep` gives name, fingerprint, stage
    and seed. This function fills in rows, sizes and hashes, and the body parent if `lep` names
    none. Raises LepBenchError if `out_folder` exists or the folders do not belong together.
    """
    body, old, new = (
        Checkpoint.open(body_folder),
        Tokens.read(old_tokens_folder),
        Tokens.read(new_tokenizer_folder),
    )
    body_tokens = Tokens.read(body.folder)
    check_rows("model", body, body_tokens)
    check_tokenizers(old, body_tokens)
    decomposition = decompose(old, new, policy)
    assembled = assemble.assemble_tokenizer(new, body_tokens)
    tensors = {}
    for name in body.matrix_names().values():
        rows = make_mean_rows(decomposition, body, name)
        tensors[name] = propagate_matrix(
            rows, new.size, assembled, body, name, f"{body.folder}: {name}"
        )
    lep = _describe_rows(lep, decomposition, assembled, ("body", body))
    return patch.write_artifact(out_folder, tensors, assembled.files, lep)


def make_mean_rows(decomposition: Decomposition, body: Checkpoint, name: str) -> Rows:
    """Rows of T E: every new row is the mean of its old subtokens' rows (paper, section 3.2)."""
    return lambda ids: mixed_rows(decomposition.T, lambda old: body.gather(name, old), ids)


def make_adapted_rows(problem: Problem, adapter: Adapter, params: Params) -> Rows:
    """The adapter's rows by new ids. The adapter fits here, once; every block of rows is checked.

    Mean row norms of donor and result, by kind of token, go into the problem's report. Raises
    AdapterError for everything that the adapter does wrong.
    """
    where = f"propagation adapter {adapter.name!r} ({problem.matrix})"
    function = _call_adapter(where, lambda: adapter(problem, params))
    if not callable(function):
        raise AdapterError(
            f"{where} returned {type(function).__name__}: it must return a function of (donor "
            "rows, ids)"
        )
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0])

    def rows(ids: np.ndarray) -> torch.Tensor:
        donor_rows = problem.donor_at(ids)
        adapted = _call_adapter(where, lambda: function(donor_rows, ids))
        if not isinstance(adapted, torch.Tensor) or adapted.dtype != torch.float64:
            is_tensor = isinstance(adapted, torch.Tensor)
            kind = str(adapted.dtype) if is_tensor else type(adapted).__name__
            raise AdapterError(f"{where} returned {kind}: a float64 tensor is expected")
        if adapted.shape != (len(ids), problem.width):
            expected = (len(ids), problem.width)
            raise AdapterError(
                f"{where} returned rows of shape {tuple(adapted.shape)} for {len(ids)} donor "
                f"rows: {expected} is expected"
            )
        before, after = donor_rows.norm(dim=1).cpu().numpy(), adapted.norm(dim=1).cpu().numpy()
        for kind in np.unique(problem.kinds[ids]).tolist():
            is_kind = problem.kinds[ids] == kind
            totals = sums[kind]
            totals[0] += float(before[is_kind].sum())
            totals[1] += float(after[is_kind].sum())
            totals[2] += int(is_kind.sum())
        problem.report["norms"] = {
            kind: {"donor": float(f"{b / n:.6g}"), "adapted": float(f"{a / n:.6g}")}
            for kind, (b, a, n) in sorted(sums.items())
            if np.isfinite(a)
        }
        return adapted

    return rows


def _call_adapter(where: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except CheckpointError:  # a parent is damaged, which is not the adapter's fault
        raise
    except LepBenchError as error:
        raise AdapterError(f"{where}: {error}") from error
    except Exception as error:  # somebody else's code: it may raise anything
        raise AdapterError(f"{where} raised {type(error).__name__}: {error}") from error


def propagate_matrix(
    rows: Rows,
    count: int,
    assembled: Assembled,
    body: Checkpoint,
    name: str,
    producer: str,
    error: type[LepBenchError] = CheckpointError,
) -> patch.Stream:
    """The new matrix [padded size, d] in the body's dtype, computed while it is written.

    rows: gives the first `count` rows. The body's special and added tokens then take their rows
    from its matrix `name`, unchanged. The padding is the mean row. A row that is not finite in that
    dtype raises `error`, which names `producer`.
    """
    dtype, size = body.dtype(name), assembled.size
    new_ids, body_ids = np.array(assembled.body_rows, dtype=np.int64).reshape(-1, 2).T

    def blocks() -> Iterator[torch.Tensor]:
        total = torch.zeros(body.width, dtype=torch.float64)
        for start in range(0, size, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, size)
            block = torch.zeros(stop - start, body.width, dtype=dtype)
            ids = np.arange(start, min(stop, count))
            if len(ids):
                block[: len(ids)] = rows(ids).to("cpu", dtype)
            in_block = (new_ids >= start) & (new_ids < stop)
            if in_block.any():
                block[torch.from_numpy(new_ids[in_block] - start)] = body.gather(
                    name, body_ids[in_block]
                )
            # Finite if every value is: a sum of finite values cannot overflow float64.
            sums = block.sum(0, dtype=torch.float64)
            if not bool(torch.isfinite(sums).all()):
                bad = (~torch.isfinite(block).all(1)).nonzero().flatten().tolist()
                raise error(
                    f"{producer} gave {len(bad)} rows of {len(block)} with NaN or values too large "
                    f"for {patch.dtype_name(dtype)}, the first at id {start + bad[0]}"
                )
            total += sums
            yield block
        padding = patch.padded_size(size) - size
        if padding:
            yield (total / size).to(dtype).expand(padding, -1).contiguous()

    return patch.Stream(dtype, (patch.padded_size(size), body.width), blocks)


def check_rows(role: str, model: Checkpoint, tokens: Tokens) -> None:
    """Raise CheckpointError unless every matrix of the model has a row for every token."""
    for matrix, name in model.matrix_names().items():
        shape = model.shape(name)
        if len(shape) != 2 or shape[0] < tokens.size:
            raise CheckpointError(
                f"{role} {model.folder}: the {matrix} has {shape[0]} rows, but the tokenizer has "
                f"ids up to {tokens.size - 1}: they do not belong to one model"
            )


def check_together(base: Checkpoint, instruct: Checkpoint, donor: Checkpoint) -> None:
    """Raise CheckpointError unless all three models agree in hidden size and in tying of the head,
    and base and instruct also in names and shapes of their body tensors.
    """
    for role, model in (("instruct", instruct), ("donor", donor)):
        if model.width != base.width:
            raise CheckpointError(
                f"hidden sizes differ: base {base.folder} has {base.width}, {role} "
                f"{model.folder} has {model.width}: they do not descend from one model"
            )
        if model.tied != base.tied:
            raise CheckpointError(
                f"base {base.folder} has {'tied' if base.tied else 'untied'} embeddings, {role} "
                f"{model.folder} has {'tied' if model.tied else 'untied'} ones: they do not "
                "descend from one model"
            )
    base_shapes, instruct_shapes = (
        {name: model.shape(name) for name in _trained_body_names(model)}
        for model in (base, instruct)
    )
    differing = sorted(
        name
        for name in base_shapes.keys() | instruct_shapes.keys()
        if base_shapes.get(name) != instruct_shapes.get(name)
    )
    if differing:
        raise CheckpointError(
            f"instruct {instruct.folder} is not tuned from the base {base.folder}: "
            f"{len(differing)} body tensors are missing in one of them or differ in shape "
            f"({differing[0]}, ...)"
        )


def check_tokenizers(base: Tokens, instruct: Tokens) -> None:
    """Raise CheckpointError unless the instruct tokenizer is the base's plus added tokens: it must
    have the same ordinary tokens at the same ids.
    """
    differing = [
        number
        for number in range(base.size)
        if base.bytes_of(number) is not None
        and (number >= instruct.size or instruct.bytes_of(number) != base.bytes_of(number))
    ]
    extra = sum(instruct.bytes_of(number) is not None for number in range(base.size, instruct.size))
    if differing or extra:
        first = f", the first at id {differing[0]}" if differing else ""
        raise CheckpointError(
            f"the instruct tokenizer {instruct.folder} is not the base's plus added tokens: "
            f"{len(differing) + extra:,} ordinary tokens differ from "
            f"{base.folder}{first}: is it fine-tuned from this base?"
        )


def check_bodies(base: Checkpoint, donor: Checkpoint, discard: bool) -> int:
    """Count the body tensors that differ between base and donor.

    Raises CheckpointError if there are any and `discard` is false: propagation would silently lose
    them.
    """
    names = {*_trained_body_names(base), *_trained_body_names(donor)}
    differing = sorted(
        name for name in names if not _are_equal(base.places.get(name), donor.places.get(name))
    )
    if differing and not discard:
        raise CheckpointError(
            f"donor {donor.folder} is not the base {base.folder} with new embeddings: "
            f"{len(differing)} of {len(names)} body tensors differ "
            f"({differing[0]}, ...); give the right base, or pass --discard-donor-body and merge "
            "the donor's training into the result afterwards"
        )
    return len(differing)


def _trained_body_names(model: Checkpoint) -> list[str]:
    # Rotary frequencies are computed, not trained. Older transformers saved them, newer ones do
    # not.
    return [name for name in model.body_names() if not name.endswith("inv_freq")]


def _are_equal(a: shards.TensorPlace | None, b: shards.TensorPlace | None) -> bool:
    """Whether two tensors hold the same numbers, compared in the coarser of their dtypes: a base in
    float32 and its donor in bfloat16 have the same body.
    """
    if a is None or b is None or a.shape != b.shape:
        return False
    if a == b:
        return True
    if a.code == b.code:  # the hashes go into lep.json anyway, so every tensor is read once
        return digest_tensor(a) == digest_tensor(b)
    if not (a.dtype.is_floating_point and b.dtype.is_floating_point):
        return False
    coarse = max((a.dtype, b.dtype), key=lambda dtype: torch.finfo(dtype).eps)
    return bool(torch.equal(a.read().to(coarse), b.read().to(coarse)))


def _describe_rows(
    lep: Lep,
    decomposition: Decomposition,
    assembled: Assembled,
    *models: tuple[str, Checkpoint],
) -> Lep:
    """`lep` with the parents' tensor hashes, the count of rows by kind, and the sizes."""
    parents = {parent.role: parent for parent in lep.parents}
    for role, model in models:
        parent = parents.get(role) or Parent(
            role=role, name=model.name, location=str(model.folder.resolve())
        )
        parents[role] = (
            parent if parent.digest else parent.model_copy(update={"digest": model.digest})
        )
    kinds = Counter(decomposition.kinds.tolist())
    # Here all opaque tokens of the new tokenizer count as "special", and the tokens appended to it
    # as "added".
    opaque = len(decomposition.kinds) - kinds[KEPT] - kinds[NEW] - kinds[HOLE]
    padding = patch.padded_size(assembled.size) - assembled.size
    counts = {
        "kept": kinds[KEPT],
        "new": kinds[NEW],
        "special": opaque,
        "added": assembled.appended,
        "padding": padding,
    }
    if kinds[HOLE]:
        counts["hole"] = kinds[HOLE]
    ordinary = kinds[KEPT] + kinds[NEW]
    policy_note = (
        f"row policy {decomposition.policy}: the other policy averages different subtokens in "
        f"{decomposition.differing} of {ordinary} ordinary rows"
    )
    notes = (*lep.notes, *assembled.notes, policy_note)
    return lep.model_copy(
        update={
            "parents": tuple(parents.values()),
            "rows": counts,
            "vocabulary_size": assembled.size,
            "row_policy": decomposition.policy,
            "notes": notes,
        }
    )


def _make_parent(role: str, location: str, folder: Path, revision: str | None) -> Parent:
    # A Hub id or built-in name tells more than the path of its files on this machine.
    is_local = Path(location).expanduser().is_dir()
    return Parent(
        role=role,
        name=folder.name if is_local else location,
        location=str(folder) if is_local else location,
        revision=revision,
    )


@contextlib.contextmanager
def _temporary_folder_beside(target: Path) -> Iterator[str]:
    """A temporary folder on the target's file system, so that shards can be hard-linked. The name
    lets `files.remove_unfinished` remove it after a kill.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=files.UNFINISHED, dir=target.parent) as work:
        yield work


def _count_bytes_to_write(instruct: Checkpoint, donor: Path) -> int:
    """Bytes that `adapt` writes: the new matrices twice (patch, then shards), and the tensors that
    share a shard with them. With a LoRA donor, every tensor twice.
    """
    if lora.is_lora(donor):
        return 2 * sum(place.nbytes for place in instruct.places.values())
    matrices = sum(
        Checkpoint.open(donor).rows * instruct.width * instruct.dtype(name).itemsize
        for name in instruct.matrix_names().values()
    )
    changed_files = {instruct.place(name).file for name in instruct.matrix_names().values()}
    return 2 * matrices + sum(
        place.nbytes
        for name, place in instruct.places.items()
        if place.file in changed_files and name in instruct.body_names()
    )
