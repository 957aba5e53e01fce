"""From base, instruct and donor to an LEP patch; and subtoken-mean patches, where every adaptation starts.

Nothing is ever whole in memory but d x d matrices: new rows are made block by block while they are written.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args

import torch

from lep_bench import atomic, fingerprint
from lep_bench.artifact import Artifact, Lep, Parent
from lep_bench.errors import AdapterError, LepBenchError, unknown
from lep_bench.plugin import Adapter, Params
from lep_bench.surgery import assembly, lora, parents, patch, reading, rows
from lep_bench.surgery.checkpoint import Checkpoint, locate
from lep_bench.surgery.decomposition import HOLE, KEPT, NEW, Decomposition, Policy, decompose
from lep_bench.surgery.deltas import merged_into
from lep_bench.surgery.export import export
from lep_bench.surgery.problem import Problem
from lep_bench.surgery.tokens import Tokens

REVISION = 3  # of this stage's code: goes into fingerprints; raise it when the numbers change


def initialise(
    body_folder: Path, old_tokens_folder: Path, new_tokenizer_folder: Path, out_folder: Path, *, lep: Lep, policy: Policy = "bytes-exact"
) -> Artifact:
    """Subtoken-mean patch against `body_folder` (base: init; instruct: instruct-init): E_new = T E_body per matrix.

    `old_tokens_folder` holds the tokenizer that the body's ordinary rows belong to (the base's serves both). Special
    and added tokens of the body take its own rows verbatim. `lep` gives name, fingerprint, stage and seed; rows,
    sizes, hashes and, where it names none, the body parent are filled in here. Raises LepBenchError when
    `out_folder` exists or the folders do not belong together.
    """
    body, old, new = Checkpoint.open(body_folder), Tokens.read(old_tokens_folder), Tokens.read(new_tokenizer_folder)
    body_tokens = Tokens.read(body.folder)
    parents.check_rows("model", body, body_tokens)
    parents.check_tokenizers(old, body_tokens)
    taken = decompose(old, new, policy)
    assembled = assembly.assemble(new, body_tokens)
    tensors = {}
    for name in body.matrix_names().values():
        made = rows.mean_rows(taken, body, name)
        tensors[name] = rows.matrix(made, new.size, assembled, body, name, f"{body.folder}: {name}")
    lep = _described(lep, taken, assembled, new, ("body", body))
    return patch.write_files(out_folder, tensors, assembled.files, lep)


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
    """LEP: the donor's embedding and head, carried over by `adapter`, as a patch against the instruct model.

    The patch's tokenizer is the donor's plus the instruct model's added tokens; chat template, post-processor and
    configs are the instruct model's with ids patched by field; special and added tokens that the instruct tokenizer
    knows take its own rows verbatim in both matrices; rows are padded last to a multiple of 64 with the mean row.
    A donor may be a peft folder (LoRA with trained embeddings): its LoRA is merged onto the instruct model's body.
    `lep` as in `initialise`; `device` does the float64 products. Raises CheckpointError for parents that do not belong
    together (with counts), AdapterError when the adapter raises or gives rows of a wrong shape or dtype, or NaN.
    """
    given = donor.folder if isinstance(donor, Artifact) else donor
    models = {"base": Checkpoint.open(base), "instruct": Checkpoint.open(instruct)}
    split = lora.open_donor(given, models["base"]) if lora.is_adapter(given) else None
    models["donor"] = split.checkpoint if split else Checkpoint.open(donor)
    tokens = {role: Tokens.read(model.folder) for role, model in models.items()}
    parents.check_together(models["base"], models["instruct"], models["donor"])
    for role, model in models.items():
        parents.check_rows(role, model, tokens[role])
    parents.check_tokenizers(tokens["base"], tokens["instruct"])
    discarded = parents.check_bodies(models["base"], models["donor"], discard_donor_body)
    taken = decompose(tokens["base"], tokens["donor"], policy)
    assembled = assembly.assemble(tokens["donor"], tokens["instruct"])
    tensors, problems = {}, {}
    for matrix, name in models["instruct"].matrix_names().items():
        problem = Problem(matrix, taken, tokens["base"], models["base"], models["instruct"], models["donor"], torch.device(device))
        made = rows.adapted_rows(problem, adapter, params if params is not None else adapter.params())
        who = f"propagation adapter {adapter.name!r} ({matrix})"
        tensors[name] = rows.matrix(made, tokens["donor"].size, assembled, models["instruct"], name, who, AdapterError)
        problems[matrix] = problem
    lep = _described(lep, taken, assembled, tokens["donor"], ("body", models["instruct"]), *models.items())
    notes = [f"{role}: {note}" for role, model in models.items() for note in reading.load(model.folder)[1]]
    notes += [f"{discarded} changed tensors of the donor's body were discarded"] if discarded else []
    if split:
        # What LoRA did to the base's body is done to the instruct model's, one tensor at a time.
        tensors |= merged_into(models["instruct"], split.deltas)
        notes += [*split.notes, f"LoRA of the donor merged into {len(split.deltas)} tensors"]
    notes += [warning for problem in problems.values() for warning in problem.warnings]
    lep = lep.model_copy(update={"adapter": adapter.name, "notes": (*lep.notes, *notes)})
    return patch.write_files(out, tensors, assembled.files, lep, lambda: {"fit": {matrix: p.report for matrix, p in problems.items()}})


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
    """Write the LEP model of three folders, Hub ids or ``builtin:FAMILY/base`` as a COMPLETE checkpoint; returns `out`.

    `policy`: how new tokens are taken apart; `revisions`: a Hub revision per role (base, instruct, donor). ``lep.json``
    beside the weights says what was done. Raises LepBenchError in one line when `out` exists, a model is not to be
    had, the three do not belong together, or the adapter gives unusable rows.
    """
    target = out.expanduser()
    if target.exists():
        raise LepBenchError(f"{target} exists already: choose another folder or remove it first")
    if policy not in get_args(Policy):
        raise unknown("row policy", policy, get_args(Policy))
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise LepBenchError(f"--device {device}: " + ("this machine's torch sees no GPU; use cpu" if device == "cuda" else "choose cpu or cuda"))
    settings = params if params is not None else adapter.params()
    given = {"base": str(base), "instruct": str(instruct), "donor": str(donor)}
    wanted = dict(revisions or {})
    folders = {role: locate(where, wanted.get(role)) for role, where in given.items()}
    found = [_parent(role, where, folders[role], wanted.get(role)) for role, where in given.items()]
    body = found[1].model_copy(update={"role": "body"})
    atomic.need_space(target, _room(Checkpoint.open(folders["instruct"]), folders["donor"]))
    parameters = settings.model_dump(mode="json")
    lep = Lep(model=target.name, fingerprint="", kind="patch", stage="propagation", parents=(body, *found), params=parameters)
    with atomic.clear_disk_errors(target), _beside(target) as work:
        made = propagate(
            folders["base"], folders["instruct"], folders["donor"], Path(work) / "patch", adapter, settings,
            lep=lep, policy=policy, discard_donor_body=discard_donor_body, device=device,
        )  # fmt: skip
        resolved = {
            "parents": {parent.role: parent.digest for parent in made.lep.parents},
            "tokenizer": fingerprint.file_digest(made.folder / "tokenizer.json"),
            "adapter": {"name": adapter.name, "source": fingerprint.file_digest(adapter.source), "params": parameters},
            "policy": policy,
            "revision": REVISION,
        }
        lep = made.lep.model_copy(update={"resolved": resolved, "fingerprint": fingerprint.digest(resolved)})
        return export(Artifact(made.folder, folders["instruct"], lep), target)


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[str]:
    """A temporary folder beside the target, so that shards of the same file system can be linked; swept if this is killed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=atomic.PREFIX, dir=target.parent) as work:
        yield work


def _room(instruct: Checkpoint, donor: Path) -> int:
    """Bytes that `adapt` writes: the new matrices twice (patch, then shards) and what shares their shards; of LoRA, all shards."""
    if lora.is_adapter(donor):
        return 2 * sum(place.nbytes for place in instruct.places.values())
    new = sum(Checkpoint.open(donor).rows * instruct.width * instruct.dtype(name).itemsize for name in instruct.matrix_names().values())
    touched = {instruct.place(name).file for name in instruct.matrix_names().values()}
    return 2 * new + sum(place.nbytes for name, place in instruct.places.items() if place.file in touched and name in instruct.body_names())


def _parent(role: str, given: str, folder: Path, revision: str | None) -> Parent:
    # A Hub id or built-in name says more than the place of its files on this machine.
    local = Path(given).expanduser().is_dir()
    return Parent(role=role, name=folder.name if local else given, location=str(folder) if local else given, revision=revision)


def _described(lep: Lep, taken: Decomposition, assembled: assembly.Assembled, new: Tokens, *models: tuple[str, Checkpoint]) -> Lep:
    """`lep` with parents' tensor hashes, rows by kind and sizes."""
    known = {parent.role: parent for parent in lep.parents}
    for role, model in models:
        parent = known.get(role) or Parent(role=role, name=model.name, location=str(model.folder.resolve()))
        known[role] = parent if parent.digest else parent.model_copy(update={"digest": model.digest})
    kinds = Counter(taken.kinds.tolist())
    # Opaque tokens of the new tokenizer are one kind here: "special"; what had to be appended to it is "added".
    opaque = len(taken.kinds) - kinds[KEPT] - kinds[NEW] - kinds[HOLE]
    padding = patch.padded_size(assembled.size) - assembled.size
    counts = {"kept": kinds[KEPT], "new": kinds[NEW], "special": opaque, "added": assembled.appended, "padding": padding}
    if kinds[HOLE]:
        counts["hole"] = kinds[HOLE]
    ordinary = kinds[KEPT] + kinds[NEW]
    policies = f"row policy {taken.policy}: the other policy averages other subtokens in {taken.differing} of {ordinary} ordinary rows"
    notes = (*lep.notes, *assembled.notes, policies)
    return lep.model_copy(
        update={"parents": tuple(known.values()), "rows": counts, "vocabulary_size": assembled.size, "row_policy": taken.policy, "notes": notes}
    )
