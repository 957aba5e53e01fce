"""The engine on transformers: it loads a body once and exchanges patches in place. Padding rows
never enter a softmax.
"""

from __future__ import annotations

import gc
import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, DynamicCache

from lep_bench.engines.base import (
    Decode,
    EngineInfo,
    Ids,
    Sampling,
    StopStrings,
    TokenScores,
    WorkCounts,
    check_ids,
    is_out_of_memory,
    make_batches,
)
from lep_bench.errors import CheckpointError, LepBenchError
from lep_bench.records.artifact import Artifact
from lep_bench.surgery.weights.patch import dtype_name, load_tensors, raw_bytes

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Tokens in one batch. Small on a CPU: a batch whose activations stay in the processor's cache is
# faster than a larger one.
BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
# Prompt and new tokens in one generation batch: a step reads one token per row, so many rows pay.
GENERATION_TOKENS = {"cpu": 16384, "cuda": 65536}
# Logits held at once, whatever the vocabulary: small on a CPU, where they should stay in its cache.
HEAD_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 26}
# At least so many positions at once: with fewer, most time goes into reading the head's matrix.
HEAD_ROWS = 32
# The batch is made smaller when at most this share of its rows is unfinished: copying costs too.
SHRINK = 0.8

Pair = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass
class Budget:
    """Tokens in one batch. Once a batch did not fit, the budget stays small for the engine's
    life.
    """

    tokens: int

    def each(self, lengths: Sequence[int], do: Callable[[list[int]], None]) -> None:
        """Call `do(indices)` for batches of `lengths` within the budget. When memory runs out,
        halve the budget and go on with the rest.

        `do` may be called again for indices that it failed on. Raises LepBenchError when one
        sequence alone is too much.
        """
        waiting = make_batches(lengths, self.tokens)
        while waiting:
            try:
                do(waiting[0])
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(waiting[0]) == 1:
                    size = lengths[waiting[0][0]]
                    raise LepBenchError(
                        f"engine hf: out of memory for one sequence of {size} tokens: free "
                        "some, use --dtype bfloat16 or a machine with more"
                    ) from error
            else:
                waiting.pop(0)
                continue
            # Only here: while an error is handled, its traceback keeps the tensors of the failed
            # batch.
            self.tokens = max(1, lengths[waiting[0][0]] * len(waiting[0]) // 2)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            left = [i for batch in waiting for i in batch]
            waiting = [
                [left[k] for k in batch]
                for batch in make_batches([lengths[i] for i in left], self.tokens)
            ]


class HfEngine:
    """A transformers model as an `Engine`. `body` is a local checkpoint folder. Nothing is fetched
    and no code of the checkpoint is run.
    """

    def __init__(
        self,
        body: Path,
        dtype: str = "float32",
        device: str = "cpu",
        batch_tokens: int | None = None,
    ) -> None:
        """Load `body`. Raises CheckpointError for a folder that is no checkpoint, is damaged or
        lacks tensors.
        """
        if dtype not in DTYPES:
            raise CheckpointError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
        self.body = Path(body).resolve()
        self.device = torch.device(device)
        self._model: Any = _load(self.body, DTYPES[dtype]).to(self.device)
        self._embedding: nn.Embedding = self._model.get_input_embeddings()
        self._output: nn.Linear = self._model.get_output_embeddings()
        # only training needs it, and a smaller vocabulary may not have that id
        self._embedding.padding_idx = None
        self._tied = self._output.weight is self._embedding.weight
        # what the patch in place has changed, as it was
        self._originals: dict[str, nn.Parameter] = {}
        self._config = (self._model.config.vocab_size, self._model.config.eos_token_id)
        self.real_rows = self._output.weight.shape[0]
        self.max_length = int(getattr(self._model.config, "max_position_embeddings", None) or 2048)
        self.batch = Budget(batch_tokens or BATCH_TOKENS.get(self.device.type, 16384))
        self.generation_batch = Budget(
            4 * batch_tokens if batch_tokens else GENERATION_TOKENS.get(self.device.type, 65536)
        )
        self.info = EngineInfo("hf", transformers.__version__, str(self.device), dtype)
        self.counts = WorkCounts()
        self.model: Artifact | None = None
        self._prove_head()

    # ---- exchange

    def exchange(self, artifact: Artifact) -> None:
        """Load the artifact's weights into the running engine: restore the body's own tensors, then
        put the patch's in their place.

        Raises CheckpointError, and leaves the body as it was, when the patch belongs to another
        body or does not fit it.
        """
        if Path(artifact.body).resolve() != self.body:
            raise CheckpointError(
                f"{artifact.name} belongs to the body {artifact.body}, but {self.body} is "
                "loaded: it needs an engine of its own"
            )
        self.restore()
        try:
            self._apply(load_tensors(artifact), artifact)
            rows = self._output.weight.shape[0]
            real = artifact.lep.vocabulary_size or rows
            if real > rows:
                raise CheckpointError(
                    f"{artifact.folder}: lep.json counts {real} vocabulary entries, the head "
                    f"has {rows} rows"
                )
        except BaseException:
            self.restore()
            raise
        self.real_rows = real
        self.model = artifact

    def remarks(self) -> tuple[str, ...]:
        """See `Engine`."""
        return ()

    def restore(self) -> None:
        """Take the patch out: every parameter is again the object that was loaded."""
        for name, parameter in self._originals.items():
            self._set(name, parameter)
        self._originals.clear()
        self._follow(*self._config)
        self.real_rows = self._output.weight.shape[0]
        self.model = None

    def body_digest(self) -> str:
        """SHA-256 over name, shape and bytes of every tensor in place (64 hexadecimal digits)."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(f"{name}{dtype_name(tensor.dtype)}{list(tensor.shape)}".encode())
            digest.update(raw_bytes(tensor.detach().cpu().contiguous()))
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
                raise CheckpointError(
                    f"{where} has shape {list(tensor.shape)}, the body's has {list(wanted)}"
                )
            if not torch.isfinite(tensor).all():
                raise CheckpointError(f"{where} holds values that are not finite")
        parts = [
            t
            for n, t in tensors.items()
            if known[n] is self._embedding.weight or known[n] is self._output.weight
        ]
        if self._tied and len(parts) == 2 and not torch.equal(*parts):
            raise CheckpointError(
                f"{artifact.folder} changes embedding and head apart, but the body "
                f"{self.body} ties them"
            )
        for name, tensor in tensors.items():
            value = tensor.to(self.device, known[name].dtype)
            self._originals.setdefault(name, known[name])
            self._set(name, nn.Parameter(value, requires_grad=False))
        if self._embedding.weight.shape[0] != self._output.weight.shape[0]:
            sizes = (
                f"{self._embedding.weight.shape[0]} rows, the head {self._output.weight.shape[0]}"
            )
            raise CheckpointError(
                f"{artifact.folder}: the embedding has {sizes}: the patch must hold both"
            )
        self._follow(self._embedding.weight.shape[0], self._config[1])

    def _set(self, name: str, parameter: nn.Parameter) -> None:
        module_name, _, leaf = name.rpartition(".")
        module = self._model.get_submodule(module_name)
        setattr(module, leaf, parameter)
        if self._tied and module in (self._embedding, self._output):
            self._embedding.weight = self._output.weight = parameter

    def _follow(self, rows: int, eos: int | list[int] | None) -> None:
        """Update the sizes that transformers keeps beside the tensors."""
        self._model.config.vocab_size = rows
        self._model.config.eos_token_id = eos
        self._embedding.num_embeddings = self._output.out_features = rows

    def _prove_head(self) -> None:
        """Refuse architectures whose logits are not hidden states x head (they cap or scale them):
        their scores would be wrong.
        """
        ids = torch.arange(min(4, self.real_rows), device=self.device)[None]
        with torch.inference_mode():
            hidden = self._model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            ours, theirs = (
                self.logits(hidden[0]),
                self._model(input_ids=ids, use_cache=False).logits[0].float(),
            )
        if not torch.allclose(ours, theirs, atol=1e-3, rtol=1e-3, equal_nan=True):
            raise CheckpointError(
                f"{self.body}: the architecture {self._model.config.model_type} changes its "
                "logits after the head; the hf engine cannot score it"
            )

    def hidden(self, **inputs: object) -> torch.Tensor:
        """Hidden states [B, T, d] after the last norm."""
        states: torch.Tensor = self._model.base_model(**inputs).last_hidden_state
        return states

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[n, d] -> float32 [n, real rows]: padding rows are cut off before any softmax."""
        bias = self._output.bias
        return nn.functional.linear(
            hidden,
            self._output.weight[: self.real_rows],
            None if bias is None else bias[: self.real_rows],
        ).float()

    # ---- answers

    @torch.inference_mode()
    def option_logprobs(
        self, contexts: Sequence[Ids], options: Sequence[Ids]
    ) -> list[list[tuple[float, bool]]]:
        """See `Engine`. One forward pass per distinct context, the head only at its last
        position.
        """
        self._check(contexts)
        self._check(options)
        self.counts.requests += sum(map(len, options))
        distinct: dict[tuple[int, ...], list[int]] = {}
        for i, context in enumerate(contexts):
            distinct.setdefault(tuple(context), []).append(i)
        keys = list(distinct)
        answers: list[list[tuple[float, bool]]] = [[] for _ in contexts]

        def score(batch: list[int]) -> None:
            last = self._compute_last_hidden([keys[k] for k in batch])
            questions = [
                (row, i, option)
                for row, k in enumerate(batch)
                for i in distinct[keys[k]]
                for option in options[i]
            ]
            scores = self._look_up_logprobs(
                last, [row for row, _, _ in questions], [option for _, _, option in questions]
            )
            for (_, i, _), answer in zip(questions, scores, strict=True):
                answers[i].append(answer)

        self.batch.each([len(key) for key in keys], score)
        return answers

    @torch.inference_mode()
    def continuation_logprobs(self, pairs: Sequence[tuple[Ids, Ids]]) -> list[TokenScores]:
        """See `Engine`. A context with several continuations is read once, its keys and values
        serve them all.
        """
        self._check(part for pair in pairs for part in pair)
        self.counts.requests += len(pairs)
        keys = [(tuple(context), tuple(continuation)) for context, continuation in pairs]
        groups: dict[tuple[int, ...], dict[tuple[int, ...], None]] = {}
        for context, continuation in keys:
            groups.setdefault(context, {})[continuation] = None
        alone = [
            (context, next(iter(group))) for context, group in groups.items() if len(group) == 1
        ]
        shared = [(context, list(group)) for context, group in groups.items() if len(group) > 1]
        scores: dict[Pair, TokenScores] = {}

        def score_alone(batch: list[int]) -> None:
            pairs_of_batch = [alone[i] for i in batch]
            scores.update(zip(pairs_of_batch, self._score_whole(pairs_of_batch), strict=True))

        self.batch.each([len(c) + len(a) - 1 for c, a in alone], score_alone)
        self.batch.each(
            [len(c) for c, _ in shared],
            lambda batch: scores.update(self._score_shared([shared[i] for i in batch])),
        )
        return [scores[key] for key in keys]

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
        questions = list(
            zip(
                map(tuple, contexts),
                [0] * len(contexts) if sampling is None else seeds,
                strict=True,
            )
        )
        by_context: dict[tuple[int, ...], dict[tuple[tuple[int, ...], int], None]] = {}
        for context, seed in questions:
            by_context.setdefault(context, {})[context, seed] = None
        # all seeds of a context in one batch: it is read once
        groups = [list(group) for group in by_context.values()]
        stops = StopStrings(stop_strings, decode, max_characters)
        outputs: dict[tuple[tuple[int, ...], int], list[int]] = {}

        def answer(batch: list[int]) -> None:
            batch_questions = [key for i in batch for key in groups[i]]
            outputs.update(
                zip(
                    batch_questions,
                    self._generate_batch(
                        batch_questions, max_new, frozenset(stop_ids), stops, sampling
                    ),
                    strict=True,
                )
            )

        self.generation_batch.each(
            [len(group) * (len(group[0][0]) + max_new) for group in groups], answer
        )
        return [list(outputs[key]) for key in questions]

    # ---- forward passes

    def _compute_last_hidden(self, contexts: Sequence[Ids]) -> torch.Tensor:
        """[B, d]: hidden state at the last position of each context. Padded on the right: causal
        attention needs no mask.
        """
        ids, lengths = pad_right(contexts, self.device)
        self.counts.tokens_in += int(lengths.sum())
        hidden = self.hidden(input_ids=ids, use_cache=False)
        return hidden[torch.arange(len(contexts), device=self.device), lengths.to(self.device) - 1]

    def _look_up_logprobs(
        self, hidden: torch.Tensor, rows: Sequence[int], targets: Sequence[int]
    ) -> list[tuple[float, bool]]:
        """For each (row of `hidden` [B, d], target id): log-probability of the target there, and
        whether it is the arg max.
        """
        row = torch.tensor(rows, device=self.device)
        target = torch.tensor(targets, device=self.device)
        logprobs = torch.empty(len(rows), device=self.device)
        greedy = torch.empty(len(rows), dtype=torch.bool, device=self.device)
        # Rows come in order, so a slice of `hidden` and the questions about it are done together.
        for start, logits in self._head_blocks(hidden):
            inside = (row >= start) & (row < start + len(logits))
            local, local_target = row[inside] - start, target[inside]
            value = logits[local, local_target]
            logprobs[inside] = value - torch.logsumexp(logits, -1)[local]
            # The maximum is much cheaper than its place; the place matters only where the target
            # reaches the maximum.
            best = value == logits.amax(-1)[local]
            best[best.clone()] = logits[local[best]].argmax(-1) == local_target[best]
            greedy[inside] = best
        return list(zip(logprobs.tolist(), greedy.tolist(), strict=True))

    def _score_whole(self, pairs: Sequence[tuple[Ids, Ids]]) -> list[TokenScores]:
        """Each (context, continuation) as one sequence. The head runs only on the continuation's
        positions.
        """
        ids, lengths = pad_right(
            [[*context, *continuation[:-1]] for context, continuation in pairs], self.device
        )
        self.counts.tokens_in += int(lengths.sum())
        hidden = self.hidden(input_ids=ids, use_cache=False)
        rows = [r for r, (_, continuation) in enumerate(pairs) for _ in continuation]
        columns = [
            len(context) - 1 + j
            for context, continuation in pairs
            for j in range(len(continuation))
        ]
        scored = hidden[
            torch.tensor(rows, device=self.device), torch.tensor(columns, device=self.device)
        ]
        scores = iter(
            self._look_up_logprobs(
                scored, range(len(rows)), [t for _, continuation in pairs for t in continuation]
            )
        )
        return [_token_scores([next(scores) for _ in continuation]) for _, continuation in pairs]

    def _score_shared(
        self, groups: Sequence[tuple[tuple[int, ...], list[tuple[int, ...]]]]
    ) -> dict[Pair, TokenScores]:
        """Contexts with several continuations each. A context is read once: its keys and values
        serve every continuation.
        """
        cache, mask, lengths = (
            DynamicCache(),
            *make_left_mask([len(context) for context, _ in groups], self.device),
        )
        hidden = self._prefill([context for context, _ in groups], mask, cache)
        questions = [
            (g, continuation)
            for g, (_, continuations) in enumerate(groups)
            for continuation in continuations
        ]
        first = self._look_up_logprobs(
            hidden, [g for g, _ in questions], [continuation[0] for _, continuation in questions]
        )
        scores = {question: [answer] for question, answer in zip(questions, first, strict=True)}
        longer = [question for question in questions if len(question[1]) > 1]
        width = mask.shape[1]
        for batch in make_batches(
            [width + len(continuation) - 1 for _, continuation in longer], 4 * self.batch.tokens
        ):
            batch_questions = [longer[i] for i in batch]
            answers = iter(self._continue_shared(batch_questions, cache, mask, lengths))
            for question in batch_questions:
                scores[question] += [next(answers) for _ in question[1][1:]]
        return {
            (groups[g][0], continuation): _token_scores(answers)
            for (g, continuation), answers in scores.items()
        }

    def _continue_shared(
        self,
        questions: Sequence[tuple[int, tuple[int, ...]]],
        cache: DynamicCache,
        mask: torch.Tensor,
        lengths: torch.Tensor,
    ) -> list[tuple[float, bool]]:
        """Scores of every continuation's second to last token, one after the other."""
        row = torch.tensor([g for g, _ in questions], device=self.device)
        ids, sizes = pad_right([continuation[:-1] for _, continuation in questions], self.device)
        self.counts.tokens_in += int(sizes.sum())
        copied = DynamicCache([(layer.keys[row], layer.values[row]) for layer in cache.layers])
        # What is padded on the right comes last and is seen by nobody who counts: ones do.
        whole = torch.cat([mask[row], mask.new_ones(ids.shape)], 1)
        positions = lengths[row][:, None] + torch.arange(ids.shape[1], device=self.device)
        hidden = self.hidden(
            input_ids=ids,
            attention_mask=whole,
            position_ids=positions,
            past_key_values=copied,
            use_cache=True,
        )
        real = torch.arange(ids.shape[1]) < sizes[:, None]
        scored = hidden[real.to(self.device)]
        return self._look_up_logprobs(
            scored,
            range(len(scored)),
            [t for _, continuation in questions for t in continuation[1:]],
        )

    def _generate_batch(
        self,
        questions: Sequence[tuple[tuple[int, ...], int]],
        max_new: int,
        stop_ids: frozenset[int],
        stops: StopStrings,
        sampling: Sampling | None,
    ) -> list[list[int]]:
        """At most `max_new` generated ids per (context, seed), without the stop id but with the
        token that completed a stop string. A context with several seeds is read once.
        """
        outputs: list[list[int]] = [[] for _ in questions]
        if max_new < 1:
            return outputs
        contexts = list(dict.fromkeys(context for context, _ in questions))
        cache = DynamicCache()
        mask, positions = make_left_mask([len(context) for context in contexts], self.device)
        hidden = self._prefill(contexts, mask, cache)
        if len(contexts) < len(questions):
            number = {context: n for n, context in enumerate(contexts)}
            place = torch.tensor([number[context] for context, _ in questions], device=self.device)
            cache.batch_select_indices(place)
            hidden, mask, positions = hidden[place], mask[place], positions[place]
        generators = [random.Random(seed) for _, seed in questions]
        rows = list(range(len(questions)))  # which question each row of the batch belongs to
        active = [True] * len(rows)
        for step in range(max_new):
            uniform = None if sampling is None else [generators[row].random() for row in rows]
            tokens = torch.cat(
                [
                    logits.argmax(-1)
                    if sampling is None or uniform is None
                    else draw_ids(logits, sampling, uniform[start : start + len(logits)])
                    for start, logits in self._head_blocks(hidden)
                ]
            )
            for r, token in enumerate(tokens.tolist()):
                if not active[r]:
                    continue
                self.counts.tokens_out += 1
                if token in stop_ids:
                    active[r] = False
                    continue
                output = outputs[rows[r]]
                output.append(token)
                active[r] = not stops.hit(output)
            left = sum(active)
            if not left or step == max_new - 1:
                break
            if left <= SHRINK * len(rows):
                keep = torch.tensor([r for r, on in enumerate(active) if on], device=self.device)
                cache.batch_select_indices(keep)
                tokens, mask, positions = tokens[keep], mask[keep], positions[keep]
                rows = [row for row, on in zip(rows, active, strict=True) if on]
                active = [True] * len(rows)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
            hidden = self.hidden(
                input_ids=tokens[:, None],
                attention_mask=mask,
                position_ids=positions[:, None],
                past_key_values=cache,
                use_cache=True,
            )[:, -1]
            positions = positions + 1
        return outputs

    def _prefill(
        self, contexts: Sequence[Ids], mask: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """[B, d]: hidden state at the end of each context (padded on the LEFT by `mask`), keys and
        values kept in `cache`.

        Left, because what follows must be at its true distance: transformers measures a sliding
        window in columns. `cache` is a DynamicCache made without a config, so that windowed layers
        keep every column too.
        """
        ids = mask.new_zeros(mask.shape)
        ids[mask.bool()] = torch.tensor(
            [i for context in contexts for i in context], device=mask.device
        )
        self.counts.tokens_in += sum(map(len, contexts))
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        return self.hidden(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )[:, -1]

    def _head_blocks(self, hidden: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """(first row, logits [n, V]) over `hidden` [B, d], with so few rows at once that memory
        does not grow with the vocabulary.
        """
        size = max(HEAD_ROWS, HEAD_ELEMENTS.get(self.device.type, 1 << 26) // self.real_rows)
        for start in range(0, len(hidden), size):
            yield start, self.logits(hidden[start : start + size])

    def close(self) -> None:
        """See `Engine`."""
        self._originals.clear()
        del self._model, self._embedding, self._output
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _check(self, sequences: Iterable[Ids]) -> None:
        check_ids(sequences, self.real_rows, self.model.name if self.model else str(self.body))


def _load(body: Path, dtype: torch.dtype) -> Any:
    if not (body / "config.json").is_file():
        raise CheckpointError(f"{body} is no checkpoint folder: it has no config.json")
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()  # a bar per body would tear ours apart
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            body,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{body} cannot be loaded: {str(error).strip().splitlines()[0]}"
        ) from error
    finally:
        if bars:
            transformers.utils.logging.enable_progress_bar()
    # transformers fills what is missing with random numbers and goes on; a benchmark must not.
    for kind in ("missing_keys", "mismatched_keys"):
        names = sorted(map(str, report.get(kind) or ()))
        if names:
            raise CheckpointError(
                f"{body} is incomplete: {len(names)} tensors are {kind.split('_')[0]}, the "
                f"first is {names[0]}"
            )
    return model.eval().requires_grad_(False)


def make_left_mask(
    lengths: Sequence[int], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """(mask [B, T] of 0 and 1 with each row's ones at the right, lengths [B])."""
    size = torch.tensor(lengths, device=device)
    width = int(max(lengths))
    return (torch.arange(width, device=device) >= width - size[:, None]).long(), size


def pad_right(sequences: Sequence[Ids], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids [B, T] on the device, lengths [B] on the CPU), filled up with id 0."""
    width = max(map(len, sequences))
    ids = torch.tensor([[*sequence, *[0] * (width - len(sequence))] for sequence in sequences])
    return ids.to(device), torch.tensor([len(sequence) for sequence in sequences])


def _token_scores(answers: Sequence[tuple[float, bool]]) -> TokenScores:
    return TokenScores(tuple(value for value, _ in answers), all(best for _, best in answers))


def filter_candidates(
    logits: torch.Tensor, sampling: Sampling
) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids [B, k], probabilities [B, k] in float64, 0 for what `sampling` leaves out), likeliest
    first, equal ones by id.

    What transformers' warpers leave for temperature, top_k and top_p in that order: scores equal to
    the k-th are kept too.
    """
    scores = logits / sampling.temperature
    count = min(sampling.top_k or scores.shape[-1], scores.shape[-1])
    worst = scores.topk(count).values[:, -1:]
    tied = int((scores >= worst).sum(-1).max())
    values, ids = scores.topk(tied)
    values = values.masked_fill(values < worst, -torch.inf)
    # topk orders equal scores as it likes: by id, so that a row's candidates stand in one order in
    # every batch.
    ids, order = ids.sort(-1)
    values, order = values.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    ids = ids.gather(-1, order)
    probabilities = values.double().softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    kept = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    return ids, kept / kept.sum(-1, keepdim=True)


def draw_ids(logits: torch.Tensor, sampling: Sampling, uniform: Sequence[float]) -> torch.Tensor:
    """[B, V] and one number in [0, 1) per row -> [B] ids: where the candidates' running sum of
    probabilities passes it.
    """
    ids, probabilities = filter_candidates(logits, sampling)
    wanted = torch.tensor(uniform, dtype=torch.float64, device=logits.device)[:, None]
    # Rounding may leave the whole sum below 1: never beyond the last candidate.
    index = torch.minimum(
        (probabilities.cumsum(-1) <= wanted).sum(-1), (probabilities > 0).sum(-1) - 1
    )
    return ids.gather(-1, index[:, None])[:, 0]
