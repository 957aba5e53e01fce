"""Model configurations, and what is not random at initialisation: a copying circuit.

A model of two layers does not learn to copy within the budget from random weights alone. So two
heads of layer 0 start as "one token back" and "two tokens back" heads (every embedding carries one
constant component, from which query and key are made; the rotation of the query by the head's
offset does the rest), one head of layer 1 starts by comparing what they found with the tokens at
hand, and the output head starts as a copy of the input embedding. That copies about one token in
eight before any training; training does the rest.
"""

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from .families import Family
from .vocab import POSITIONS

_ROPE_THETA = 10_000.0
_EMBEDDING_STD = 0.15
_CONSTANT = 3.0  # the constant component, in standard deviations of the others
# of the positional score; 40 gives a head's own offset about 200 times its neighbours' weight
_SHARPNESS = 40.0
_FIRST_SLOW_PAIR = 14  # of 32
# scale of query and key of the comparing head; this and _COPY by trial on repeated random tokens
_MATCH = 2.5
_COPY = 1.5  # scale of what it writes


def config_of(
    family: Family, rows: int, bos: int, eos: int | list[int], pad: int
) -> LlamaConfig | MistralConfig:
    shared = {
        "vocab_size": rows,
        "hidden_size": family.hidden,
        "intermediate_size": family.intermediate,
        "num_hidden_layers": family.layers,
        "num_attention_heads": family.heads,
        "num_key_value_heads": family.kv_heads,
        "head_dim": family.head_dim,
        "max_position_embeddings": POSITIONS,
        "rope_parameters": {"rope_type": "default", "rope_theta": _ROPE_THETA},
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": pad,
    }
    if family.kind == "llama":
        return LlamaConfig(**shared)
    return MistralConfig(**shared, sliding_window=family.window)


def _positional_query(head_dim: int, offset: int) -> torch.Tensor:
    """The query whose score with an all-ones key is highest `offset` tokens back; shape
    (head_dim,).
    """
    half = head_dim // 2
    angles = offset * _ROPE_THETA ** (-torch.arange(half) / half)
    return torch.cat([angles.cos(), -angles.sin()])


@torch.no_grad()
def _set_copying_heads(model: PreTrainedModel, family: Family, generator: torch.Generator) -> None:
    """Heads 0 and 1 of layer 0 look one and two tokens back; head 0 of layer 1 looks for the same
    two tokens earlier.

    All share key/value head 0 of their layer. Layer 1 uses the slow rotations only: the fast ones
    hide a match that is far away.
    """
    size, hidden = family.head_dim, family.hidden
    first, second = (model.model.layers[number].self_attn for number in (0, 1))

    def random_matrix(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) / shape[1] ** 0.5

    model.model.embed_tokens.weight[:, 0] = _CONSTANT * _EMBEDDING_STD
    # After RMSNorm the constant component has this value.
    seen = _CONSTANT / (1 + (_CONSTANT**2 - 1) / hidden) ** 0.5
    gain = (_SHARPNESS**0.5) / seen
    first.k_proj.weight[:size] = 0
    first.k_proj.weight[:size, 0] = gain * torch.cat(
        [torch.ones(size // 2), torch.zeros(size // 2)]
    )
    value = random_matrix(size, hidden)
    value[:, 0] = 0
    first.v_proj.weight[:size] = value
    spreads = []
    for head, offset in enumerate((1, 2)):
        rows = slice(head * size, (head + 1) * size)
        first.q_proj.weight[rows] = 0
        first.q_proj.weight[rows, 0] = gain * _positional_query(size, offset)
        spread = random_matrix(hidden, size)
        spread[0] = 0
        first.o_proj.weight[:, rows] = _EMBEDDING_STD * spread
        spreads.append(spread)
    slow = torch.arange(size) % (size // 2) >= _FIRST_SLOW_PAIR * size // 64
    slots = slow.nonzero().flatten()
    near, far = slots[::2], slots[1::2]
    read_near, read_far = (random_matrix(len(part), size) for part in (near, far))
    second.k_proj.weight[:size] = 0
    second.q_proj.weight[:size] = 0
    second.k_proj.weight[near] = _MATCH * read_near @ spreads[0].T
    second.k_proj.weight[far] = _MATCH * read_far @ spreads[1].T
    second.q_proj.weight[near] = _MATCH * read_near @ value
    second.q_proj.weight[far] = _MATCH * read_far @ spreads[0].T
    value = random_matrix(size, hidden)
    value[:, 0] = 0
    second.v_proj.weight[:size] = value
    second.o_proj.weight[:, :size] = _COPY * value.T


def new_model(family: Family, config: LlamaConfig | MistralConfig, seed: int) -> PreTrainedModel:
    """A base model before training, float32."""
    torch.manual_seed(seed)
    model = (LlamaForCausalLM if family.kind == "llama" else MistralForCausalLM)(config)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                std = _EMBEDDING_STD if "embed" in name else parameter.shape[1] ** -0.5
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    std *= 0.1
                parameter.normal_(0, std, generator=generator)
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)
    _set_copying_heads(model, family, generator)
    return model


@torch.no_grad()
def widened(
    family: Family, base: PreTrainedModel, config: LlamaConfig | MistralConfig
) -> PreTrainedModel:
    """A copy of `base` with `config.vocab_size` rows; added rows start as the mean of the base's
    rows.
    """
    made = type(base)(config)
    state = base.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = state[name]
        added = config.vocab_size - rows.shape[0]
        state[name] = torch.cat([rows, rows.mean(0, keepdim=True).expand(added, -1)])
    made.load_state_dict(state)
    return made
