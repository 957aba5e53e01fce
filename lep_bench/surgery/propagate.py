"""Do base, instruct and donor belong together? Every refusal is one line with counts."""

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
from lep_bench.surgery.leastsquares import SIZE, mixed_rows
from lep_bench.surgery.problem import Problem
from lep_bench.surgery.tokenizers import assemble, loading
from lep_bench.surgery.tokenizers.assemble import Assembled
from lep_bench.surgery.tokenizers.tokens import Tokens
from lep_bench.surgery.weights import lora, patch, shards
from lep_bench.surgery.weights.checkpoint import Checkpoint, digest_tensor, locate_checkpoint
from lep_bench.surgery.weights.lora import merge_deltas


def check_rows(role: str, model: Checkpoint, tokens: Tokens) -> None:
    """Every token needs a row in every matrix of the model."""
    for matrix, name in model.matrix_names().items():
        shape = model.shape(name)
        if len(shape) != 2 or shape[0] < tokens.size:
            raise CheckpointError(
                f"{role} {model.folder}: the {matrix} has {shape[0]} rows, but its tokenizer "
                f"has ids up to {tokens.size - 1}: "
                "they are not of one model"
            )


def check_together(base: Checkpoint, instruct: Checkpoint, donor: Checkpoint) -> None:
    """Hidden sizes, whether the head is tied, and names and shapes of the instruct model's and the
    base's body tensors must agree.
    """
    for role, model in (("instruct", instruct), ("donor", donor)):
        if model.width != base.width:
            raise CheckpointError(
                f"hidden sizes differ: base {base.folder} has {base.width}, {role} "
                f"{model.folder} has {model.width}: "
                "they do not descend from one model"
            )
        if model.tied != base.tied:
            raise CheckpointError(
                f"base {base.folder} has {'tied' if base.tied else 'untied'} embeddings, "
                f"{role} {model.folder} "
                f"{'tied' if model.tied else 'untied'} ones: they do not descend from one model"
            )
    ours, theirs = (
        {name: model.shape(name) for name in model.body_names() if not name.endswith("inv_freq")}
        for model in (base, instruct)
    )
    other = sorted(
        name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
    )
    if other:
        raise CheckpointError(
            f"instruct {instruct.folder} is not tuned from the base {base.folder}: "
            f"{len(other)} body tensors are in one of them only or of another "
            f"shape ({other[0]}, ...)"
        )


def check_tokenizers(base: Tokens, instruct: Tokens) -> None:
    """The instruct tokenizer is the base's plus added tokens: the same ordinary tokens at the same
    ids.
    """
    other = [
        number
        for number in range(base.size)
        if base.bytes_of(number) is not None
        and (number >= instruct.size or instruct.bytes_of(number) != base.bytes_of(number))
    ]
    more = sum(instruct.bytes_of(number) is not None for number in range(base.size, instruct.size))
    if other or more:
        first = f", the first at id {other[0]}" if other else ""
        raise CheckpointError(
            f"the instruct tokenizer {instruct.folder} is not the base's plus added tokens: "
            f"{len(other) + more:,} ordinary tokens differ from "
            f"{base.folder}{first}: is it fine-tuned from this base?"
        )


def check_bodies(base: Checkpoint, donor: Checkpoint, discard: bool) -> int:
    """How many tensors outside embedding and head differ between base and donor.

    Raises CheckpointError when there are any, unless `discard`: propagation would silently lose
    them.
    """
    # Rotary frequencies are computed, not trained; older transformers saved them, newer ones do
    # not.
    names = {
        name for name in (*base.body_names(), *donor.body_names()) if not name.endswith("inv_freq")
    }
    differing = sorted(
        name for name in names if not _same(base.places.get(name), donor.places.get(name))
    )
    if differing and not discard:
        raise CheckpointError(
            f"donor {donor.folder} is not the base {base.folder} with new embeddings: "
            f"{len(differing)} of {len(names)} body tensors differ "
            f"({differing[0]}, ...); merge its training into the result afterwards and say "
            "--discard-donor-body, or give the right base"
        )
    return len(differing)


def _same(one: shards.TensorPlace | None, other: shards.TensorPlace | None) -> bool:
    if one is None or other is None or one.shape != other.shape:
        return False
    if one == other:
        return True
    if one.code == other.code:  # the hashes go into lep.json anyway: every tensor is read once
        return digest_tensor(one) == digest_tensor(other)
    # The same numbers stored in another precision (a base in float32, its donor in bfloat16) are
    # the same body.
    a, b = one.read(), other.read()
    if not (a.dtype.is_floating_point and b.dtype.is_floating_point):
        return False
    coarse = max((a.dtype, b.dtype), key=lambda dtype: torch.finfo(dtype).eps)
    return bool(torch.equal(a.to(coarse), b.to(coarse)))


Rows = Callable[[np.ndarray], torch.Tensor]  # new ids [n] -> float64 rows [n, d]


def make_mean_rows(taken: Decomposition, body: Checkpoint, name: str) -> Rows:
    """T E of one matrix: every new row the mean of its old subtokens' rows (paper, section 3.2)."""
    return lambda ids: mixed_rows(taken.T, lambda old: body.gather(name, old), ids)


def make_adapted_rows(problem: Problem, adapter: Adapter, params: Params) -> Rows:
    """The adapter's rows by new ids, every block of them checked. All an adapter may do wrong ends
    as AdapterError.

    What it fits, it fits here. Mean norms before and after, by kind of token, go into the problem's
    report.
    """
    where = f"propagation adapter {adapter.name!r} ({problem.matrix})"
    function = _guarded(where, lambda: adapter(problem, params))
    if not callable(function):
        raise AdapterError(
            f"{where} gave {type(function).__name__}: it must return a function of (donor "
            "rows, ids)"
        )
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0])

    def rows(ids: np.ndarray) -> torch.Tensor:
        given = problem.donor_at(ids)
        made = _guarded(where, lambda: function(given, ids))
        if not isinstance(made, torch.Tensor) or made.dtype != torch.float64:
            kind = str(made.dtype) if isinstance(made, torch.Tensor) else type(made).__name__
            raise AdapterError(f"{where} gave {kind}: a float64 tensor is expected")
        if made.shape != (len(ids), problem.width):
            expected = (len(ids), problem.width)
            raise AdapterError(
                f"{where} gave rows of shape {tuple(made.shape)} for {len(ids)} donor rows: "
                f"{expected} is expected"
            )
        before, after = given.norm(dim=1).cpu().numpy(), made.norm(dim=1).cpu().numpy()
        for kind in np.unique(problem.kinds[ids]).tolist():
            here = problem.kinds[ids] == kind
            so_far = sums[kind]
            so_far[:] = [
                so_far[0] + float(before[here].sum()),
                so_far[1] + float(after[here].sum()),
                so_far[2] + int(here.sum()),
            ]
        problem.report["norms"] = {
            kind: {"donor": float(f"{b / n:.6g}"), "adapted": float(f"{a / n:.6g}")}
            for kind, (b, a, n) in sorted(sums.items())
            if np.isfinite(a)
        }
        return made

    return rows


def propagate_matrix(
    rows: Rows,
    count: int,
    assembled: Assembled,
    body: Checkpoint,
    name: str,
    who: str,
    error: type[LepBenchError] = CheckpointError,
) -> patch.Stream:
    """[padded, d] in the body's dtype, made while it is written: `count` rows by ids, then the
    body's own rows of its special and added tokens in their places, then the mean row as padding. A
    row that is not finite in that dtype raises `error`, which names `who`."""
    dtype, size = body.dtype(name), assembled.size
    new, own = np.array(assembled.body_rows, dtype=np.int64).reshape(-1, 2).T

    def blocks() -> Iterator[torch.Tensor]:
        total = torch.zeros(body.width, dtype=torch.float64)
        for start in range(0, size, SIZE):
            stop = min(start + SIZE, size)
            block = torch.zeros(stop - start, body.width, dtype=dtype)
            ids = np.arange(start, min(stop, count))
            if len(ids):
                block[: len(ids)] = rows(ids).to("cpu", dtype)
            here = (new >= start) & (new < stop)
            if here.any():
                block[torch.from_numpy(new[here] - start)] = body.gather(name, own[here])
            # finite where every value is: no sum of such numbers leaves float64
            sums = block.sum(0, dtype=torch.float64)
            if not bool(torch.isfinite(sums).all()):
                bad = (~torch.isfinite(block).all(1)).nonzero().flatten().tolist()
                what = (
                    f"with NaN or values too large for {patch.dtype_name(dtype)}, the first at "
                    f"id {start + bad[0]}"
                )
                raise error(f"{who} gave {len(bad)} rows of {len(block)} {what}")
            total += sums
            yield block
        padding = patch.padded_size(size) - size
        if padding:
            yield (total / size).to(dtype).expand(padding, -1).contiguous()

    return patch.Stream(dtype, (patch.padded_size(size), body.width), blocks)


def _guarded(where: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except CheckpointError:  # a parent is damaged: no adapter's fault
        raise
    except LepBenchError as error:
        raise AdapterError(f"{where}: {error}") from error
    except Exception as error:  # running an adapter: whatever it raises is its failure, not ours
        raise AdapterError(f"{where} raised {type(error).__name__}: {error}") from error


def initialise(
    body_folder: Path,
    old_tokens_folder: Path,
    new_tokenizer_folder: Path,
    out_folder: Path,
    *,
    lep: Lep,
    policy: Policy = "bytes-exact",
) -> Artifact:
    """Subtoken-mean patch against `body_folder` (base: init; instruct: instruct-init): E_new = T
    E_body per matrix.

    `old_tokens_folder` holds the tokenizer that the body's ordinary rows belong to (the base's
    serves both). Special and added tokens of the body take its own rows verbatim. `lep` gives name,
    fingerprint, stage and seed; rows, sizes, hashes and, where it names none, the body parent are
    filled in here. Raises LepBenchError when `out_folder` exists or the folders do not belong
    together.
    """
    body, old, new = (
        Checkpoint.open(body_folder),
        Tokens.read(old_tokens_folder),
        Tokens.read(new_tokenizer_folder),
    )
    body_tokens = Tokens.read(body.folder)
    check_rows("model", body, body_tokens)
    check_tokenizers(old, body_tokens)
    taken = decompose(old, new, policy)
    assembled = assemble.assemble_tokenizer(new, body_tokens)
    tensors = {}
    for name in body.matrix_names().values():
        made = make_mean_rows(taken, body, name)
        tensors[name] = propagate_matrix(
            made, new.size, assembled, body, name, f"{body.folder}: {name}"
        )
    lep = _described(lep, taken, assembled, new, ("body", body))
    return patch.write_artifact(out_folder, tensors, assembled.files, lep)


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
    """LEP: the donor's embedding and head, carried over by `adapter`, as a patch against the
    instruct model.

    The patch's tokenizer is the donor's plus the instruct model's added tokens; chat template,
    post-processor and configs are the instruct model's with ids patched by field; special and added
    tokens that the instruct tokenizer knows take its own rows verbatim in both matrices; rows are
    padded last to a multiple of 64 with the mean row. A donor may be a peft folder (LoRA with
    trained embeddings): its LoRA is merged onto the instruct model's body. `lep` as in
    `initialise`; `device` does the float64 products. Raises CheckpointError for parents that do not
    belong together (with counts), AdapterError when the adapter raises or gives rows of a wrong
    shape or dtype, or NaN.
    """
    given = donor.folder if isinstance(donor, Artifact) else donor
    models = {"base": Checkpoint.open(base), "instruct": Checkpoint.open(instruct)}
    split = lora.open_donor(given, models["base"]) if lora.is_lora(given) else None
    models["donor"] = split.checkpoint if split else Checkpoint.open(donor)
    tokens = {role: Tokens.read(model.folder) for role, model in models.items()}
    check_together(models["base"], models["instruct"], models["donor"])
    for role, model in models.items():
        check_rows(role, model, tokens[role])
    check_tokenizers(tokens["base"], tokens["instruct"])
    discarded = check_bodies(models["base"], models["donor"], discard_donor_body)
    taken = decompose(tokens["base"], tokens["donor"], policy)
    assembled = assemble.assemble_tokenizer(tokens["donor"], tokens["instruct"])
    tensors, problems = {}, {}
    for matrix, name in models["instruct"].matrix_names().items():
        problem = Problem(
            matrix,
            taken,
            tokens["base"],
            models["base"],
            models["instruct"],
            models["donor"],
            torch.device(device),
        )
        made = make_adapted_rows(
            problem, adapter, params if params is not None else adapter.params()
        )
        who = f"propagation adapter {adapter.name!r} ({matrix})"
        tensors[name] = propagate_matrix(
            made, tokens["donor"].size, assembled, models["instruct"], name, who, AdapterError
        )
        problems[matrix] = problem
    lep = _described(
        lep, taken, assembled, tokens["donor"], ("body", models["instruct"]), *models.items()
    )
    notes = [
        f"{role}: {note}"
        for role, model in models.items()
        for note in loading.load_tokenizer(model.folder)[1]
    ]
    notes += (
        [f"{discarded} changed tensors of the donor's body were discarded"] if discarded else []
    )
    if split:
        # What LoRA did to the base's body is done to the instruct model's, one tensor at a time.
        tensors |= merge_deltas(models["instruct"], split.deltas)
        notes += [*split.notes, f"LoRA of the donor merged into {len(split.deltas)} tensors"]
    notes += [warning for problem in problems.values() for warning in problem.warnings]
    lep = lep.model_copy(update={"adapter": adapter.name, "notes": (*lep.notes, *notes)})
    return patch.write_artifact(
        out,
        tensors,
        assembled.files,
        lep,
        lambda: {"fit": {matrix: p.report for matrix, p in problems.items()}},
    )


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
    """Write the LEP model of three folders, Hub ids or ``builtin:FAMILY/base`` as a COMPLETE
    checkpoint; returns `out`.

    `policy`: how new tokens are taken apart; `revisions`: a Hub revision per role (base, instruct,
    donor). ``lep.json`` beside the weights says what was done. Raises LepBenchError in one line
    when `out` exists, a model is not to be had, the three do not belong together, or the adapter
    gives unusable rows.
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
                "this machine's torch sees no GPU; use cpu"
                if device == "cuda"
                else "choose cpu or cuda"
            )
        )
    settings = params if params is not None else adapter.params()
    given = {"base": str(base), "instruct": str(instruct), "donor": str(donor)}
    wanted = dict(revisions or {})
    folders = {role: locate_checkpoint(where, wanted.get(role)) for role, where in given.items()}
    found = [_parent(role, where, folders[role], wanted.get(role)) for role, where in given.items()]
    body = found[1].model_copy(update={"role": "body"})
    files.need_space(target, _room(Checkpoint.open(folders["instruct"]), folders["donor"]))
    parameters = settings.model_dump(mode="json")
    lep = Lep(
        model=target.name,
        fingerprint="",
        kind="patch",
        stage="propagation",
        parents=(body, *found),
        params=parameters,
    )
    with files.explain_disk_errors(target), _beside(target) as work:
        made = propagate(
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
            "parents": {parent.role: parent.digest for parent in made.lep.parents},
            "tokenizer": files.file_digest(made.folder / "tokenizer.json"),
            "adapter": {
                "name": adapter.name,
                "source": files.file_digest(adapter.source),
                "params": parameters,
            },
            "policy": policy,
            "revision": REVISIONS["propagation"],
        }
        lep = made.lep.model_copy(
            update={"resolved": resolved, "fingerprint": files.digest(resolved)}
        )
        return export_checkpoint(Artifact(made.folder, folders["instruct"], lep), target)


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[str]:
    """A temporary folder beside the target, so that shards of the same file system can be linked;
    swept if this is killed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=files.UNFINISHED, dir=target.parent) as work:
        yield work


def _room(instruct: Checkpoint, donor: Path) -> int:
    """Bytes that `adapt` writes: the new matrices twice (patch, then shards) and what shares their
    shards; of LoRA, all shards.
    """
    if lora.is_lora(donor):
        return 2 * sum(place.nbytes for place in instruct.places.values())
    new = sum(
        Checkpoint.open(donor).rows * instruct.width * instruct.dtype(name).itemsize
        for name in instruct.matrix_names().values()
    )
    touched = {instruct.place(name).file for name in instruct.matrix_names().values()}
    return 2 * new + sum(
        place.nbytes
        for name, place in instruct.places.items()
        if place.file in touched and name in instruct.body_names()
    )


def _parent(role: str, given: str, folder: Path, revision: str | None) -> Parent:
    # A Hub id or built-in name says more than the place of its files on this machine.
    local = Path(given).expanduser().is_dir()
    return Parent(
        role=role,
        name=folder.name if local else given,
        location=str(folder) if local else given,
        revision=revision,
    )


def _described(
    lep: Lep,
    taken: Decomposition,
    assembled: assemble.Assembled,
    new: Tokens,
    *models: tuple[str, Checkpoint],
) -> Lep:
    """`lep` with parents' tensor hashes, rows by kind and sizes."""
    known = {parent.role: parent for parent in lep.parents}
    for role, model in models:
        parent = known.get(role) or Parent(
            role=role, name=model.name, location=str(model.folder.resolve())
        )
        known[role] = (
            parent if parent.digest else parent.model_copy(update={"digest": model.digest})
        )
    kinds = Counter(taken.kinds.tolist())
    # Opaque tokens of the new tokenizer are one kind here: "special"; what had to be appended to it
    # is "added".
    opaque = len(taken.kinds) - kinds[KEPT] - kinds[NEW] - kinds[HOLE]
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
    policies = (
        f"row policy {taken.policy}: the other policy averages other subtokens in "
        f"{taken.differing} of {ordinary} ordinary rows"
    )
    notes = (*lep.notes, *assembled.notes, policies)
    return lep.model_copy(
        update={
            "parents": tuple(known.values()),
            "rows": counts,
            "vocabulary_size": assembled.size,
            "row_policy": taken.policy,
            "notes": notes,
        }
    )
