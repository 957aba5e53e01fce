"""The two built-in families: shapes, tokenizer sizes and training recipes."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Recipe:
    """Steps (each `batch` rows of `length` tokens) and peak learning rates of the three phases."""

    copying_steps: int = 300
    copying_lr: float = 3e-3
    base_steps: int = 4500
    base_lr: float = 5e-3
    instruct_steps: int = 700
    instruct_lr: float = 1.5e-3
    batch: int = 32
    length: int = 96
    # share of documents; more than in the tokenizer's text, or Russian is not learnt
    russian: float = 0.45
    whole: float = 0.25  # documents of which the random part, too, is learnt
    replay: float = 0.2  # rows of pre-training text in instruction tuning, against forgetting


@dataclass(frozen=True)
class Family:
    """A family's shape. `kind` is "llama" or "mistral"; sizes as in the Hugging Face config of that
    name.
    """

    name: str
    kind: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    seed: int
    window: int | None
    recipe: Recipe


FAMILIES = {
    family.name: family
    for family in (
        Family("mini-llama", "llama", 128, 384, 2, 2, 1, 64, 0, None, Recipe()),
        Family("mini-mistral", "mistral", 160, 320, 2, 3, 1, 64, 100, 64, Recipe()),
    )
}


def shortened(family: Family, factor: float) -> Family:
    """The same family with `factor` times the steps of every phase, for tests and trials."""
    recipe = family.recipe
    steps = {
        name: max(1, round(getattr(recipe, name) * factor))
        for name in ("copying_steps", "base_steps", "instruct_steps")
    }
    return replace(family, recipe=replace(recipe, **steps))
