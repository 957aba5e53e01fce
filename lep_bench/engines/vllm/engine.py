"""The engine on vLLM 0.26 to 0.32, inside this process: one request per distinct context, shared
prefixes read once.

Log-probabilities and greedy ids are hf's (float32: to 1e-4). Sampled answers have the same
distribution but are other answers: vLLM draws in its own way.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lep_bench.engines.base import (
    MAX_OPTIONS,
    Decode,
    EngineInfo,
    Ids,
    Sampling,
    StopStrings,
    TokenScores,
    WorkCounts,
    check_ids,
    is_out_of_memory,
)
from lep_bench.engines.vllm import start
from lep_bench.engines.vllm.host import Host, NotInPlaceError, read_last
from lep_bench.errors import CheckpointError, LepBenchError
from lep_bench.records.artifact import Artifact
from lep_bench.surgery.export import export_checkpoint
from lep_bench.surgery.weights.checkpoint import Checkpoint

DTYPES = ("float32", "bfloat16", "float16")
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 2  # vLLM raises lower ones with only a warning
# vLLM keeps room for one sequence of full length: of a model for 131,072 tokens that is 16 GiB and
# more
POSITIONS = 8192
Key = tuple[int, ...]
Pair = tuple[Key, Key]


class VllmEngine:
    """A vLLM model as an `Engine`. `body` is a local checkpoint folder; nothing is fetched, no code
    is trusted, nothing listens.

    vLLM starts with the first `exchange` or question. One runs per process: another that starts
    ends it, and it starts again when it is next asked. `memory`: on a CPU GiB for keys and values
    (1), on a GPU the share of its memory to use (0.85). `positions`: the longest sequence to make
    room for. `rows`: the largest vocabulary to make room for; a larger one that comes later costs a
    new start. `gpus`: how many share the model (tensor parallel).
    """

    _running: weakref.ref[VllmEngine] | None = None

    def __init__(
        self,
        body: Path,
        dtype: str = "float32",
        device: str = "cpu",
        memory: float | None = None,
        positions: int | None = None,
        rows: int = 0,
        gpus: int = 1,
    ) -> None:
        """Raises LepBenchError without a fitting vLLM (what to install), CheckpointError for a
        folder that is no checkpoint.
        """
        if dtype not in DTYPES:
            raise CheckpointError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
        self.info = EngineInfo("vllm", start.find_installed(), device, dtype)
        self.body = Path(body).resolve()
        config = _read_config(self.body)
        self.max_length = int(getattr(config, "max_position_embeddings", None) or 2048)
        self.positions = min(self.max_length, positions or POSITIONS)
        self.real_rows = int(config.vocab_size)
        self.counts = WorkCounts()
        self.model: Artifact | None = None
        self._remarks: tuple[str, ...] = ()
        self._memory, self._room, self._gpus = memory, rows, gpus
        self._host: Host | None = None
        self._fixed = False  # the running vLLM is one model's own and cannot become another

    # ---- exchange

    def exchange(self, artifact: Artifact) -> None:
        """See `Engine`. In place where the model differs from its body in vocabulary matrices and
        vectors (norms), and proven; else, or when the proof fails, the model is composed as a whole
        checkpoint and vLLM starts anew on it.

        Raises CheckpointError when the patch belongs to another body, does not fit it, or fails the
        proof even so.
        """
        if Path(artifact.body).resolve() != self.body:
            raise CheckpointError(
                f"{artifact.name} belongs to the body {artifact.body}, but {self.body} is "
                "loaded: it needs an engine of its own"
            )
        if (
            self._host is not None
            and self.model is not None
            and _identify(artifact) == _identify(self.model)
        ):
            self.model = artifact
            return
        model = Checkpoint.open(artifact)
        real = artifact.lep.vocabulary_size or model.rows
        if real > model.rows:
            raise CheckpointError(
                f"{artifact.folder}: lep.json counts {real} vocabulary entries, the head has "
                f"{model.rows} rows"
            )
        self._remarks = ()
        try:
            if self._host is None or self._fixed or model.rows > self._host.rows:
                self._room = max(self._room, model.rows)
                self._start(self.body)
            assert self._host is not None
            self._host.put(model, real)
        except NotInPlaceError as why:
            self._remarks = (f"vLLM was started anew for it: {why}",)
            # first: should the new start fail, half a model must not answer for the old one
            self._stop()
            self._start_anew(artifact, real)
        except BaseException:
            self._stop()  # half a model is none
            raise
        self.real_rows, self.model = real, artifact

    def remarks(self) -> tuple[str, ...]:
        """See `Engine`."""
        return self._remarks

    def _start_anew(self, artifact: Artifact, real: int) -> None:
        # vLLM copies the weights, so the folder is needed for the start and the proof only.
        with tempfile.TemporaryDirectory(
            prefix="lep-bench-vllm-", ignore_cleanup_errors=True
        ) as scratch:
            folder = (
                self.body
                if artifact.patch is None
                else export_checkpoint(artifact, Path(scratch) / "model")
            )
            self._start(folder, own=True)
            assert self._host is not None
            try:
                self._host.put(Checkpoint.open(folder), real)
            except NotInPlaceError as why:
                self._stop()
                raise CheckpointError(
                    f"{artifact.name}: a fresh vLLM fails the proof, so none of its answers "
                    f"can be used: {why}"
                ) from why

    def _start(self, folder: Path, own: bool = False) -> None:
        other = VllmEngine._running() if VllmEngine._running else None
        for engine in {self, *([other] if other else [])}:
            engine._stop()
        rows = 0 if own else self._room
        self._host = Host(
            folder,
            self.info.dtype,
            self.info.device,
            self.positions,
            self._memory,
            rows,
            self._gpus,
        )
        self._fixed = own
        VllmEngine._running = weakref.ref(self)

    def _stop(self) -> None:
        host, self._host = self._host, None
        if host is not None:
            VllmEngine._running = None
            host.close()

    def close(self) -> None:
        """See `Engine`."""
        self._stop()

    # ---- answers

    def option_logprobs(
        self, contexts: Sequence[Ids], options: Sequence[Ids]
    ) -> list[list[tuple[float, bool]]]:
        """See `Engine`. One request per distinct context (and `MAX_OPTIONS` options)."""
        self._begin([*contexts, *options], max(map(len, contexts), default=0))
        self.counts.requests += sum(map(len, options))
        distinct: dict[Key, dict[int, None]] = {}
        for context, choices in zip(contexts, options, strict=True):
            distinct.setdefault(tuple(context), {}).update(dict.fromkeys(choices))
        scores = self._options({context: list(choices) for context, choices in distinct.items()})
        return [
            [scores[tuple(context)][option] for option in choices]
            for context, choices in zip(contexts, options, strict=True)
        ]

    def continuation_logprobs(self, pairs: Sequence[tuple[Ids, Ids]]) -> list[TokenScores]:
        """See `Engine`. One request per distinct pair; what contexts share is read from vLLM's
        prefix cache.
        """
        self._begin(
            [part for pair in pairs for part in pair],
            max((len(c) + len(a) - 1 for c, a in pairs), default=0),
        )
        self.counts.requests += len(pairs)
        keys = [(tuple(context), tuple(continuation)) for context, continuation in pairs]
        groups: dict[Key, dict[Pair, None]] = {}
        for key in keys:
            groups.setdefault(key[0], {})[key] = None
        # one context's stand together: its blocks are still there
        questions = [key for group in groups.values() for key in group]
        scores = self._score(questions, cached=True)
        scores |= self._score([key for key in questions if key not in scores], cached=False)
        return [scores[key] for key in keys]

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
        """See `Engine`. Equal questions are answered once. Stop strings are looked for here, with
        `decode`: vLLM sees ids only.
        """
        self._begin(contexts, max(map(len, contexts), default=0) + max(max_new - 1, 0))
        self.counts.requests += len(contexts)
        keys = list(
            zip(
                map(tuple, contexts),
                [0] * len(contexts) if sampling is None else seeds,
                strict=True,
            )
        )
        if max_new < 1:
            return [[] for _ in keys]
        if sampling is not None and not MIN_TEMPERATURE <= sampling.temperature <= MAX_TEMPERATURE:
            raise LepBenchError(
                f"engine vllm takes temperatures from {MIN_TEMPERATURE} to {MAX_TEMPERATURE}, not "
                f"{sampling.temperature}: use engine hf"
            )
        questions = list(dict.fromkeys(keys))
        stops = StopStrings(stop_strings, decode, max_characters)
        looking = any(stop_strings) or max_characters is not None
        ends, outputs = frozenset(stop_ids), {key: list[int]() for key in questions}

        def take(n: int, output: Any) -> bool:
            for token in output.outputs[0].token_ids:
                self.counts.tokens_out += 1
                if token in ends:
                    return True
                outputs[questions[n]].append(token)
                if looking and stops.hit(outputs[questions[n]]):
                    return True
            return False

        settings: dict[str, Any] = {"stop_token_ids": sorted(ends)}
        if sampling is not None:
            settings |= {
                "temperature": sampling.temperature,
                "top_k": sampling.top_k,
                "top_p": sampling.top_p,
            }

        def make_requests() -> Iterator[tuple[Key, Any]]:
            for context, seed in questions:
                # torch takes no larger one
                seeding = {} if sampling is None else {"seed": seed % (1 << 63)}
                yield context, self._parameters(max_new, pieces=looking, **settings, **seeding)

        self._ask(make_requests(), take)
        return [list(outputs[key]) for key in keys]

    def _options(self, distinct: dict[Key, list[int]]) -> dict[Key, dict[int, tuple[float, bool]]]:
        """Per context and option, its log-probability next and whether it is the arg max."""
        questions = [
            (context, choices[i : i + MAX_OPTIONS])
            for context, choices in distinct.items()
            for i in range(0, len(choices), MAX_OPTIONS)
        ]
        scores: dict[Key, dict[int, tuple[float, bool]]] = {context: {} for context in distinct}

        def take(n: int, output: Any) -> bool:
            context, choices = questions[n]
            best, logprobs = read_last(output)
            scores[context].update(
                {option: (logprobs[option], option == best) for option in choices}
            )
            return True

        self._ask(
            (
                (context, self._parameters(1, logprob_token_ids=choices))
                for context, choices in questions
            ),
            take,
        )
        return scores

    def _score(self, questions: Sequence[Pair], cached: bool) -> dict[Pair, TokenScores]:
        """Scores of (context, continuation) pairs, without those whose first row vLLM took from its
        cache (`cached`).

        The last token is not read but asked for as an option, the others are log-probabilities of
        the prompt. A prefix that is cached is not computed: its rows are uninitialised memory in
        one of vLLM's runners and absent in the other, so rows are counted from the end and only
        believed when they were computed.
        """
        scores: dict[Pair, tuple[list[float], list[bool | None]]] = {}

        def take(n: int, output: Any) -> bool:
            context, continuation = questions[n]
            if cached and (output.num_cached_tokens or 0) > len(context) - 1:
                return True
            best, logprobs = read_last(output)
            values, greedy = [], list[bool | None]()
            for place, token in enumerate(continuation[:-1]):
                row = output.prompt_logprobs[place - len(continuation) + 1]
                values.append(row[token].logprob)
                # Equal maxima: the first id counts, as in torch's argmax, and a rank does not tell
                # which that is.
                tied = row[token].rank != 1 and row[token].logprob == max(
                    other.logprob for other in row.values()
                )
                greedy.append(None if tied else row[token].rank == 1)
            scores[questions[n]] = (
                [*values, logprobs[continuation[-1]]],
                [*greedy, best == continuation[-1]],
            )
            return True

        def make_requests() -> Iterator[tuple[Key, Any]]:
            for context, continuation in questions:
                several: dict[str, Any] = (
                    {"prompt_logprobs": 1, "skip_reading_prefix_cache": not cached}
                    if len(continuation) > 1
                    else {}
                )
                yield (
                    context + continuation[:-1],
                    self._parameters(1, logprob_token_ids=[continuation[-1]], **several),
                )

        self._ask(make_requests(), take)
        tied = {
            (c + a[:n], a[n])
            for (c, a), (_, greedy) in scores.items()
            for n, best in enumerate(greedy)
            if best is None
        }
        best = self._options(
            {
                context: [token for other, token in sorted(tied) if other == context]
                for context, _ in sorted(tied)
            }
        )
        return {
            (c, a): TokenScores(
                tuple(values),
                all(
                    best[c + a[:n]][a[n]][1] if one is None else one for n, one in enumerate(greedy)
                ),
            )
            for (c, a), (values, greedy) in scores.items()
        }

    # ---- vLLM

    def _begin(self, sequences: Iterable[Ids], longest: int) -> None:
        """Checks of a list of questions; starts vLLM where it does not run."""
        check_ids(sequences, self.real_rows, self.model.name if self.model else str(self.body))
        if longest > self.positions:
            raise LepBenchError(
                f"engine vllm: {longest} tokens in one sequence, room was made for "
                f"{self.positions} (the model has {self.max_length} positions)"
            )
        if self._host is None:
            self._restart()
        # What other questions left in the cache would change the last digits: answers depend on the
        # list of questions only.
        assert self._host is not None
        self._host.forget()

    def _restart(self) -> None:
        """Start vLLM again after another engine of this process, or an error, has ended it."""
        model, self.model = self.model, None
        if model is None:
            self._start(self.body)
            assert self._host is not None
            # room for larger vocabularies is padding
            self._host.put(Checkpoint.open(self.body), self.real_rows)
        else:
            self.exchange(model)

    def _parameters(self, new: int, pieces: bool = False, **settings: Any) -> Any:
        assert self._host is not None
        return self._host.parameters(new, pieces, **settings)

    def _ask(self, questions: Iterable[tuple[Key, Any]], take: Callable[[int, Any], bool]) -> None:
        assert self._host is not None
        try:
            self.counts.tokens_in += self._host.ask(questions, take)
        except BaseException as error:
            # what it still holds, and whether it is sound, is not known: the next question starts
            # it anew
            self._stop()
            if is_out_of_memory(error):
                raise LepBenchError(
                    f"engine vllm: out of memory ({start.first_line(error)}): give vLLM a "
                    "smaller share of it "
                    "(`memory` in configs/hardware), or use --engine hf"
                ) from error
            raise


def _identify(artifact: Artifact | None) -> tuple[Path, str] | None:
    """What distinguishes the models of one body; None for the body itself."""
    return (
        None
        if artifact is None or artifact.patch is None
        else (Path(artifact.folder).resolve(), artifact.lep.fingerprint)
    )


def _read_config(folder: Path) -> Any:
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} is no checkpoint folder: it has no config.json")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder} cannot be loaded: {str(error).strip().splitlines()[0]}"
        ) from error
