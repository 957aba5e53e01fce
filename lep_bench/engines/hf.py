"""The engine on transformers: the body is loaded once, patches are exchanged, padding rows never enter a softmax."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM

from lep_bench.artifact import Artifact
from lep_bench.engines import forward
from lep_bench.engines.base import Counts, Decode, EngineInfo, Ids, Sampling, StopStrings, TokenScores, check_ids
from lep_bench.engines.generation import generate
from lep_bench.engines.memory import Budget
from lep_bench.errors import CheckpointError
from lep_bench.surgery.patch import dtype_name, load_tensors, raw

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Tokens in one batch. Small on a CPU: a batch whose activations stay in the processor's cache is faster than a larger one.
BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
# Prompt and new tokens in one generation batch: a step reads one token per row, so many rows pay.
GENERATION_TOKENS = {"cpu": 16384, "cuda": 65536}


class HfEngine:
    """A transformers model as an `Engine`. `body` is a local checkpoint folder; nothing is fetched, no code is trusted."""

    def __init__(self, body: Path, dtype: str = "float32", device: str = "cpu", batch_tokens: int | None = None) -> None:
        """Load `body`. Raises CheckpointError for a folder that is no checkpoint, is damaged, or lacks tensors."""
        if dtype not in DTYPES:
            raise CheckpointError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
        self.body = Path(body).resolve()
        self.device = torch.device(device)
        self._model = _load(self.body, DTYPES[dtype]).to(self.device)
        self._embedding: nn.Embedding = self._model.get_input_embeddings()
        self._output: nn.Linear = self._model.get_output_embeddings()
        self._embedding.padding_idx = None  # only training needs it, and a smaller vocabulary may not have that id
        self._tied = self._output.weight is self._embedding.weight
        self._originals: dict[str, nn.Parameter] = {}  # what the patch in place has changed, as it was
        self._config = (self._model.config.vocab_size, self._model.config.eos_token_id)
        self.real_rows = self._output.weight.shape[0]
        self.max_length = int(getattr(self._model.config, "max_position_embeddings", None) or 2048)
        self.batch = Budget(batch_tokens or BATCH_TOKENS.get(self.device.type, 16384))
        self.generation_batch = Budget(4 * batch_tokens if batch_tokens else GENERATION_TOKENS.get(self.device.type, 65536))
        self.info = EngineInfo("hf", transformers.__version__, str(self.device), dtype)
        self.counts = Counts()
        self.model: Artifact | None = None
        self._prove_head()

    # ---- exchange -------------------------------------------------------------------------------------------------

    def exchange(self, artifact: Artifact) -> None:
        """Put `artifact` in place: first the body's own tensors come back, then the patch's take their place.

        Raises CheckpointError (leaving the body as it was) when the patch belongs to another body or does not fit it.
        """
        if Path(artifact.body).resolve() != self.body:
            raise CheckpointError(f"{artifact.name} belongs to the body {artifact.body}, but {self.body} is loaded: it needs an engine of its own")
        self.restore()
        try:
            self._apply(load_tensors(artifact), artifact)
            rows = self._output.weight.shape[0]
            real = artifact.lep.vocabulary_size or rows
            if real > rows:
                raise CheckpointError(f"{artifact.folder}: lep.json counts {real} vocabulary entries, the head has {rows} rows")
        except BaseException:
            self.restore()
            raise
        self.real_rows = real
        self.model = artifact

    def remarks(self) -> tuple[str, ...]:
        """See `Engine`."""
        return ()

    def restore(self) -> None:
        """Take the patch out: every parameter is again the very object that was loaded."""
        for name, parameter in self._originals.items():
            self._set(name, parameter)
        self._originals.clear()
        self._follow(*self._config)
        self.real_rows = self._output.weight.shape[0]
        self.model = None

    def body_digest(self) -> str:
        """SHA-256 over name, shape and bytes of every tensor now in place (hexadecimal, 64 digits)."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(f"{name}{dtype_name(tensor.dtype)}{list(tensor.shape)}".encode())
            digest.update(raw(tensor.detach().cpu().contiguous()))
        return digest.hexdigest()

    def _apply(self, tensors: dict[str, torch.Tensor], artifact: Artifact) -> None:
        known = dict(self._model.named_parameters(remove_duplicate=False))
        for name, tensor in tensors.items():
            where = f"{artifact.folder}: tensor {name}"
            if name not in known:
                raise CheckpointError(f"{where} is not in the body {self.body}")
            vocabulary = known[name] is self._embedding.weight or known[name] is self._output.weight
            wanted = known[name].shape
            if tensor.shape[1:] != wanted[1:] or (tensor.shape != wanted and not vocabulary):
                raise CheckpointError(f"{where} has shape {list(tensor.shape)}, the body's has {list(wanted)}")
            if not torch.isfinite(tensor).all():
                raise CheckpointError(f"{where} holds values that are not finite")
        parts = [t for n, t in tensors.items() if known[n] is self._embedding.weight or known[n] is self._output.weight]
        if self._tied and len(parts) == 2 and not torch.equal(*parts):
            raise CheckpointError(f"{artifact.folder} changes embedding and head apart, but the body {self.body} ties them")
        for name, tensor in tensors.items():
            value = tensor.to(self.device, known[name].dtype)
            self._originals.setdefault(name, known[name])
            self._set(name, nn.Parameter(value, requires_grad=False))
        if self._embedding.weight.shape[0] != self._output.weight.shape[0]:
            sizes = f"{self._embedding.weight.shape[0]} rows, the head {self._output.weight.shape[0]}"
            raise CheckpointError(f"{artifact.folder}: the embedding has {sizes}: the patch must hold both")
        self._follow(self._embedding.weight.shape[0], self._config[1])

    def _set(self, name: str, parameter: nn.Parameter) -> None:
        module_name, _, leaf = name.rpartition(".")
        module = self._model.get_submodule(module_name)
        setattr(module, leaf, parameter)
        if self._tied and module in (self._embedding, self._output):
            self._embedding.weight = self._output.weight = parameter

    def _follow(self, rows: int, eos: int | list[int] | None) -> None:
        """Sizes that transformers keeps beside the tensors."""
        self._model.config.vocab_size = rows
        self._model.config.eos_token_id = eos
        self._embedding.num_embeddings = self._output.out_features = rows

    def _prove_head(self) -> None:
        """Hidden states x head must be the model's logits: architectures that cap or scale them are refused, not misread."""
        ids = torch.arange(min(4, self.real_rows), device=self.device)[None]
        with torch.inference_mode():
            hidden = self._model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            ours, theirs = self.logits(hidden[0]), self._model(input_ids=ids, use_cache=False).logits[0].float()
        if not torch.allclose(ours, theirs, atol=1e-3, rtol=1e-3, equal_nan=True):
            raise CheckpointError(
                f"{self.body}: the architecture {self._model.config.model_type} changes its logits after the head; the hf engine cannot score it"
            )

    # ---- what `forward` and `generation` use ----------------------------------------------------------------------

    def hidden(self, **inputs: object) -> torch.Tensor:
        """Hidden states [B, T, d] after the last norm."""
        return self._model.base_model(**inputs).last_hidden_state

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[n, d] -> float32 [n, real rows]: padding rows are cut off before any softmax."""
        bias = self._output.bias
        return nn.functional.linear(hidden, self._output.weight[: self.real_rows], None if bias is None else bias[: self.real_rows]).float()

    # ---- answers --------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def option_logprobs(self, contexts: Sequence[Ids], options: Sequence[Ids]) -> list[list[tuple[float, bool]]]:
        """See `Engine`. One forward pass per distinct context, the head only at its last position."""
        self._check(contexts)
        self._check(options)
        self.counts.requests += sum(map(len, options))
        distinct: dict[tuple[int, ...], list[int]] = {}
        for i, context in enumerate(contexts):
            distinct.setdefault(tuple(context), []).append(i)
        keys = list(distinct)
        answers: list[list[tuple[float, bool]]] = [[] for _ in contexts]

        def score(batch: list[int]) -> None:
            last = forward.last_hidden(self, [keys[k] for k in batch])
            wanted = [(row, i, option) for row, k in enumerate(batch) for i in distinct[keys[k]] for option in options[i]]
            scores = forward.look_up(self, last, [row for row, _, _ in wanted], [option for _, _, option in wanted])
            for (_, i, _), answer in zip(wanted, scores, strict=True):
                answers[i].append(answer)

        self.batch.each([len(key) for key in keys], score)
        return answers

    @torch.inference_mode()
    def continuation_logprobs(self, pairs: Sequence[tuple[Ids, Ids]]) -> list[TokenScores]:
        """See `Engine`. A context with several continuations is read once, its keys and values serve them all."""
        self._check(part for pair in pairs for part in pair)
        self.counts.requests += len(pairs)
        keys = [(tuple(context), tuple(continuation)) for context, continuation in pairs]
        groups: dict[tuple[int, ...], dict[tuple[int, ...], None]] = {}
        for context, continuation in keys:
            groups.setdefault(context, {})[continuation] = None
        alone = [(context, next(iter(group))) for context, group in groups.items() if len(group) == 1]
        shared = [(context, list(group)) for context, group in groups.items() if len(group) > 1]
        found: dict[tuple[tuple[int, ...], tuple[int, ...]], TokenScores] = {}

        def score_alone(batch: list[int]) -> None:
            chosen = [alone[i] for i in batch]
            found.update(zip(chosen, forward.score_whole(self, chosen), strict=True))

        self.batch.each([len(c) + len(a) - 1 for c, a in alone], score_alone)
        self.batch.each([len(c) for c, _ in shared], lambda batch: found.update(forward.score_shared(self, [shared[i] for i in batch])))
        return [found[key] for key in keys]

    @torch.inference_mode()
    def generate(
        self,
        contexts: Sequence[Ids],
        max_new: int,
        stop_ids: Ids,
        stop_strings: Sequence[str],
        decode: Decode,
        sampling: Sampling | None = None,
        seeds: Sequence[int] = (),
        max_characters: int | None = None,
    ) -> list[list[int]]:
        """See `Engine`. Equal questions are answered once."""
        self._check(contexts)
        self.counts.requests += len(contexts)
        asked = list(zip(map(tuple, contexts), [0] * len(contexts) if sampling is None else seeds, strict=True))
        places: dict[tuple[int, ...], dict[tuple[tuple[int, ...], int], None]] = {}
        for context, seed in asked:
            places.setdefault(context, {})[context, seed] = None
        groups = [list(group) for group in places.values()]  # all seeds of a context in one batch: it is read once
        stops = StopStrings(stop_strings, decode, max_characters)
        found: dict[tuple[tuple[int, ...], int], list[int]] = {}

        def answer(batch: list[int]) -> None:
            chosen = [key for i in batch for key in groups[i]]
            found.update(zip(chosen, generate(self, chosen, max_new, frozenset(stop_ids), stops, sampling), strict=True))

        self.generation_batch.each([len(group) * (len(group[0][0]) + max_new) for group in groups], answer)
        return [list(found[key]) for key in asked]

    def close(self) -> None:
        """See `Engine`."""
        self._originals.clear()
        del self._model, self._embedding, self._output
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _check(self, sequences: Iterable[Ids]) -> None:
        check_ids(sequences, self.real_rows, self.model.name if self.model else str(self.body))


def _load(body: Path, dtype: torch.dtype) -> nn.Module:
    if not (body / "config.json").is_file():
        raise CheckpointError(f"{body} is no checkpoint folder: it has no config.json")
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()  # a bar per body would tear ours apart
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            body, dtype=dtype, local_files_only=True, trust_remote_code=False, attn_implementation="sdpa", output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{body} cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    finally:
        if bars:
            transformers.utils.logging.enable_progress_bar()
    # transformers fills what is missing with random numbers and goes on; a benchmark must not.
    for kind in ("missing_keys", "mismatched_keys"):
        names = sorted(map(str, report.get(kind) or ()))
        if names:
            raise CheckpointError(f"{body} is incomplete: {len(names)} tensors are {kind.split('_')[0]}, the first is {names[0]}")
    return model.eval().requires_grad_(False)
