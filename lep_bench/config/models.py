"""The models that follow from families and baselines, and how `--models` selects them."""

from __future__ import annotations

import difflib
import fnmatch
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lep_bench import hub
from lep_bench.config.load import Configs
from lep_bench.config.schema import Family, Suite
from lep_bench.errors import LepBenchError, UnknownNameError, unknown_name
from lep_bench.plugin import Kind, Registry
from lep_bench.records.schema import Stage

ORIGINAL = "original"  # the control vocabulary: the old tokenizer kept


@dataclass(frozen=True)
class ModelSpec:
    """A model by its way through the pipeline. `location` only for baselines and local models."""

    name: str
    stage: Stage
    family: str | None = None
    vocabulary: str | None = None
    propagation: str | None = None
    tuning: str | None = None
    variant: str | None = None
    seed: int = 0
    location: str | None = None
    revision: str | None = None
    format: Literal["plain", "chat"] | None = None
    conversation: str | None = None
    parameters: int | None = None
    url: str | None = None  # of the server, for a model `api:NAME`
    key_variable: str | None = None

    @property
    def is_instruct(self) -> bool:
        """Whether the body is the instruct model's: decides how the suite asks it."""
        return self.stage in ("instruct", "instruct-init", "propagation") or (
            self.location is not None and self.format != "plain"
        )

    @property
    def key(self) -> str:
        """Name with the training seed: unique within a run. Seed 0 is not written."""
        return self.name if self.seed == 0 else f"{self.name}@seed{self.seed}"


@dataclass(frozen=True)
class NamedCheckpoint:
    """A checkpoint that a family or baseline names, with what the YAML says about it. `model` is
    its name in tables.
    """

    model: str
    location: str
    revision: str | None = None
    parameters: int | None = None
    gated: bool = False
    unverified: str = ""


def list_checkpoints(suite: Suite, configs: Configs) -> list[NamedCheckpoint]:
    """Every checkpoint that the suite's families and baselines name, in table order."""
    checkpoints = []
    for family in map(configs.family, suite.families):
        roles = (
            ("base", family.base, family.base_revision, family.unverified.get("base", "")),
            (
                "instruct",
                family.instruct,
                family.instruct_revision,
                family.unverified.get("instruct", ""),
            ),
        )
        for role, location, revision, doubt in roles:
            checkpoints.append(
                NamedCheckpoint(
                    f"{family.name}/{role}",
                    location,
                    revision,
                    family.parameters,
                    family.gated,
                    doubt,
                )
            )
        for name, vocabulary in family.vocabularies.items():
            if vocabulary.donor is not None:
                checkpoints.append(
                    NamedCheckpoint(
                        f"{family.name}/{name}/donor",
                        vocabulary.donor,
                        vocabulary.donor_revision,
                        family.parameters,
                        unverified=vocabulary.unverified,
                    )
                )
    for baseline in map(configs.baseline, suite.baselines):
        if not baseline.model.startswith(hub.API):  # nothing of a server's model is ever here
            checkpoints.append(
                NamedCheckpoint(
                    f"baselines/{baseline.name}",
                    baseline.model,
                    baseline.revision,
                    baseline.parameters,
                    baseline.gated,
                    baseline.unverified,
                )
            )
    return checkpoints


def derive_models(family: Family, registry: Registry) -> list[ModelSpec]:
    """Every model of a family, in table order: references, then per vocabulary init ... methods ...
    tunings.

    Methods not named in the family's `propagation` are derived too (with default parameters), for
    `--models` patterns.
    """
    name = family.name
    models = [
        ModelSpec(f"{name}/base", "base", name),
        ModelSpec(f"{name}/instruct", "instruct", name),
    ]
    models += [
        ModelSpec(f"{name}/instruct+{t}", "instruct", name, tuning=t)
        for t in list_tunings(family, registry)
    ]
    for vocabulary, settings in family.vocabularies.items():
        root = f"{name}/{vocabulary}"
        if vocabulary == ORIGINAL:
            models.append(ModelSpec(f"{root}/donor", "donor", name, vocabulary))
            continue
        if settings.donor is None:
            models.append(ModelSpec(f"{root}/init", "init", name, vocabulary))
        models.append(ModelSpec(f"{root}/instruct-init", "instruct-init", name, vocabulary))
        models.append(ModelSpec(f"{root}/donor", "donor", name, vocabulary))
        for method in list_methods(family, registry):
            models.append(ModelSpec(f"{root}/{method}", "propagation", name, vocabulary, method))
        for method in list_methods(family, registry):
            for tuning in list_tunings(family, registry):
                models.append(
                    ModelSpec(
                        f"{root}/{method}+{tuning}", "propagation", name, vocabulary, method, tuning
                    )
                )
    return models


def list_methods(family: Family, registry: Registry) -> list[str]:
    """Propagation methods: the family's own order first, then every other one that was
    discovered.
    """
    for method in family.propagation:
        registry.get("propagation", method)
    return [
        *family.propagation,
        *(m for m in registry.names("propagation") if m not in family.propagation),
    ]


def list_tunings(family: Family, registry: Registry) -> list[str]:
    """Tuning methods: the family's own first, then, where it names a corpus to tune on, every other
    one that was discovered.
    """
    for tuning in family.tuning:
        registry.get("tuning", tuning)
    return [
        *family.tuning,
        *(t for t in registry.names("tuning") if t not in family.tuning and family.corpus),
    ]


def belongs_to_all(model: ModelSpec, family: Family, registry: Registry) -> bool:
    """Whether `all` means this model: it does for the methods and tunings that the family lists,
    and for every adapter that is not shipped.
    """
    if not (
        model.propagation is None
        or model.propagation in family.propagation
        or model.propagation in registry.own_names("propagation")
    ):
        return False
    if model.tuning is None:
        return True
    if model.tuning not in family.tuning:
        return model.tuning in registry.own_names("tuning") and model.propagation in (
            None,
            "conversion",
        )
    return model.propagation is None or model.propagation in family.tuning[model.tuning].after


def select_models(
    patterns: Sequence[str], suite: Suite, configs: Configs, registry: Registry, seeds: int = 1
) -> list[ModelSpec]:
    """The models that `--models` names: `all` (of the suite), exact names and patterns
    (`mini-llama/*/conversion`) of any family, which win over Hub ids of the same text, paths or Hub
    ids.

    Raises UnknownNameError (with near names) for a name or pattern that fits nothing, ConfigError
    for a broken family.
    """
    known = list_models(widen_suite(suite, patterns, configs), configs, registry)
    in_all = list_all_names(suite, configs, registry)
    chosen: dict[str, ModelSpec] = {}
    for pattern in patterns:
        for model in _match_pattern(pattern, known, in_all):
            first = chosen.setdefault(model.name, model)
            if first.location != model.location:
                raise LepBenchError(
                    f"{first.location} and {model.location} would both be called "
                    f"{model.name}: {suggest_other_name(model)}"
                )
    order = {m.name: i for i, m in enumerate(known)}
    return add_seeds(sorted(chosen.values(), key=lambda m: order.get(m.name, len(order))), seeds)


def widen_suite(suite: Suite, names: Iterable[str], configs: Configs) -> Suite:
    """The suite with the families and baselines beside its own that names of models begin with: any
    model can be asked what it asks.
    """
    names = set(names)
    heads = {name.split("/")[0] for name in names if "/" in name}
    families = [
        name for name in configs.names("families") if name in heads and name not in suite.families
    ]
    baselines = [
        name
        for name in configs.names("baselines")
        if f"baselines/{name}" in names and name not in suite.baselines
    ]
    return suite.model_copy(
        update={
            "families": (*suite.families, *families),
            "baselines": (*suite.baselines, *baselines),
        }
    )


def suggest_other_name(model: ModelSpec) -> str:
    """What to do about two checkpoints of one name."""
    link = (
        f"ln -s {model.location} OTHER-NAME, then --models ./OTHER-NAME"
        if Path(model.location or "").is_absolute()
        else "rename the folder"
    )
    return f"give one of them a name of its own ({link})"


def list_models(suite: Suite, configs: Configs, registry: Registry) -> list[ModelSpec]:
    """Every model that the suite's families and baselines give, in table order."""
    models = []
    for name in suite.families:
        if name not in configs.names("families"):
            raise UnknownNameError(
                f"{configs.locate_field('suites', suite.name, 'families')}: "
                f"{unknown_name('family', name, configs.names('families'))}"
            )
        models += _derive_checked(name, configs, registry)
    for baseline in map(configs.baseline, suite.baselines):
        models.append(
            ModelSpec(
                f"baselines/{baseline.name}",
                "baseline",
                location=baseline.model,
                revision=baseline.revision,
                parameters=baseline.parameters,
                format=baseline.format,
                conversation=baseline.conversation,
                url=baseline.url,
                key_variable=baseline.key_variable,
            )
        )
    return models


def _derive_checked(name: str, configs: Configs, registry: Registry) -> list[ModelSpec]:
    """`derive`, with the place in the family's file for a method that does not exist."""
    family = configs.family(name)
    kinds: tuple[Kind, Kind] = ("propagation", "tuning")
    for kind in kinds:
        for method in getattr(family, kind):
            try:
                registry.get(kind, method)
            except UnknownNameError as error:
                raise UnknownNameError(
                    f"{configs.locate_field('families', name, kind, method)}: {error}"
                ) from error
    return derive_models(family, registry)


def list_all_names(suite: Suite, configs: Configs, registry: Registry) -> set[str]:
    """Names of the models that `all` stands for."""
    names = {f"baselines/{name}" for name in suite.baselines}
    for name in suite.families:
        family = configs.family(name)
        names |= {
            m.name
            for m in derive_models(family, registry)
            if belongs_to_all(m, family, registry)
            and any(fnmatch.fnmatchcase(m.name, p) for p in suite.models)
        }
    return names


def add_seeds(models: list[ModelSpec], seeds: int) -> list[ModelSpec]:
    """The models once per training seed; what no training of ours stands behind has one seed."""
    trained = [m for m in models if m.tuning or m.stage in ("donor", "propagation")]
    return models + [replace(m, seed=seed) for seed in range(1, seeds) for m in trained]


def _match_pattern(pattern: str, known: list[ModelSpec], in_all: set[str]) -> list[ModelSpec]:
    if pattern == "all":
        return [m for m in known if m.name in in_all]
    exact = [m for m in known if m.name == pattern]
    if exact:
        return exact
    names = [m.name for m in known]
    if any(mark in pattern for mark in "*?["):
        # A pattern names tunings only where it writes a plus: 'mini-llama/extended/*' means the
        # methods themselves, and the tuned models that `all` has.
        matches = [
            m
            for m in known
            if fnmatch.fnmatchcase(m.name, pattern)
            and (m.tuning is None or "+" in pattern or m.name in in_all)
        ]
        if not matches:
            raise unknown_name("model pattern", pattern, names, "(see lep-bench list models)")
        return matches
    if pattern.startswith("builtin:"):
        return [_make_local(pattern, pattern)]
    if pattern.startswith(hub.API) and pattern != hub.API:
        return [replace(_make_local(pattern, pattern), format="chat")]
    folder = Path(pattern).expanduser()
    if folder.exists() or pattern.startswith(("/", "./", "../", "~")):
        if not folder.is_dir():
            raise LepBenchError(
                f"{pattern}: no such folder; a model is a checkpoint folder, a Hub id or a "
                "name from lep-bench list models"
            )
        # A link keeps its own name: so one of two folders of the same name can get another one.
        return [_make_local(Path(os.path.abspath(folder)).name, str(folder.resolve()))]
    # ORGANISATION/NAME may be a Hub id, but not when it looks like one of our names with a typo.
    looks_known = pattern.split("/")[0] in {
        name.split("/")[0] for name in names
    } or difflib.get_close_matches(pattern, names, cutoff=0.8)
    if pattern.count("/") == 1 and not looks_known:
        return [_make_local(pattern, pattern)]
    raise unknown_name("model", pattern, names, "(see lep-bench list models)")


def _make_local(name: str, location: str) -> ModelSpec:
    """The user's own checkpoint, called local/NAME."""
    safe = "".join(
        c if c.isalnum() and c.isascii() or c in "._-" else "-" for c in name.replace("/", "--")
    )
    return ModelSpec(f"local/{safe.lstrip('._-') or 'model'}", "local", location=location)
