"""A running vLLM on one body: models of that body are exchanged in place, and every exchange is
proven before it is believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lep_bench.engines.base import Ids
from lep_bench.engines.vllm import start
from lep_bench.errors import CheckpointError, LepBenchError
from lep_bench.surgery.weights.checkpoint import Checkpoint

IN_FLIGHT = 256  # requests that vLLM holds at once
PROBE = 40  # tokens of a probe: more than a block, so that a part of it comes from the prefix cache
PROBED = 8  # log-probabilities that a probe looks at
# |log-probability - reference| that is still rounding. The head's product is made twice with the
# same numbers, by other kernels: in a short format a logit may be off by its last bit.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.26, "float16": 0.04}


class NotInPlaceError(LepBenchError):
    """The running vLLM cannot load a model in place, or did not load it correctly; the text says
    why.
    """


class Host:
    """vLLM on the checkpoint folder `body`, its vocabulary matrices padded to `rows` rows (0: as
    many as they have).
    """

    def __init__(
        self,
        body: Path,
        dtype: str,
        device: str,
        positions: int,
        memory: float | None,
        rows: int = 0,
        gpus: int = 1,
    ) -> None:
        """Raises what `start_vllm` raises."""
        self.body = Checkpoint.open(body)
        self.rows = max(rows, self.body.rows)
        self.positions = positions
        self._dtype = dtype
        self._changed: set[str] = set()  # tensors that are not the body's now
        self._number = 0
        self._real = self.body.rows
        self.llm = start.start_vllm(
            body, dtype, device, positions, memory, rows=self.rows, gpus=gpus
        )

    # ---- exchange

    def put(self, model: Checkpoint, real: int) -> None:
        """Load the model's weights into the running vLLM: its tensors where they differ from the
        body's, and the body's own where the last model's were.

        `real`: its vocabulary entries; rows behind them are padding. Raises NotInPlaceError when a
        tensor cannot be exchanged here or the proof fails: do not use what runs then.
        """
        differ = {
            name for name, place in model.places.items() if place != self.body.places.get(name)
        }
        if unknown := sorted(differ - self.body.places.keys()):
            raise CheckpointError(
                f"{model.folder}: tensor {unknown[0]} is not in the body {self.body.folder}"
            )
        if model.rows > self.rows:
            raise NotInPlaceError(f"{model.rows} vocabulary rows, room was made for {self.rows}")
        if model.tied != self.body.tied:
            raise NotInPlaceError(
                "its head is tied to its embedding and the body's is not, or the other way round"
            )
        names = sorted((differ | self._changed) - ({"lm_head.weight"} if model.tied else set()))
        shared = min(self._real, real)
        # what the old model left in the prefix cache must not answer for the new one
        if self._changed or differ:
            self._probe(shared)
        self._changed |= differ  # first: a copy that fails half-way leaves them changed
        self._call("lep_exchange", str(model.folder), names, real)
        self.forget()
        self._prove(model, names, real, shared)
        self._changed, self._real = differ, real

    def forget(self) -> None:
        """Empty the prefix cache: its keys are token ids, which mean something else to every
        model.
        """
        self.llm.reset_prefix_cache()

    def digest(self) -> str:
        """SHA-256 over the body's tensors as vLLM holds them (hexadecimal; padding rows left
        out).
        """
        return str(self._call("lep_digest", self._real)[0])

    def _prove(self, model: Checkpoint, names: list[str], real: int, shared: int) -> None:
        """Compare vLLM with a reference: the tensors with the files, logits with hidden state x the
        file's head, prefixes read from the cache with prefixes computed anew. Raises
        NotInPlaceError."""
        for wrong in self._call("lep_differences", str(model.folder), names):
            if wrong:
                raise NotInPlaceError(f"{wrong} is not what the files hold")
        limit = TOLERANCE[self._dtype]
        # Ids that both models have: what the old one left in the cache is found there. Ids to the
        # very end: new rows.
        for size in {shared: None, real: None}:
            cached = self._probe(size)
            reference = self._probe(size, cached=False, watched=True)
            columns, expected = self._call("lep_expected", str(model.folder), _list_probed(size))[0]
            if columns != real:
                raise NotInPlaceError(f"{columns} ids can be chosen, the vocabulary has {real}")
            for what, values in (
                ("its log-probabilities", expected),
                ("an answer out of the prefix cache", cached),
            ):
                off = max(abs(a - b) for a, b in zip(values, reference, strict=True))
                if not off <= limit:
                    raise NotInPlaceError(f"{what} differ from the reference by {off:.2g}")

    def _probe(self, size: int, cached: bool = True, watched: bool = False) -> list[float]:
        """Log-probabilities of `_list_probed(size)` behind ids spread over a vocabulary of that
        size.
        """
        length = max(1, min(PROBE, self.positions))
        ids = [(size - 1 - n * (size // length or 1)) % size for n in range(length)]
        options, values = _list_probed(size), list[float]()

        def take(_: int, output: Any) -> bool:
            values.extend(read_last(output)[1][option] for option in options)
            return True

        if watched:
            self._call("lep_watch", True)
        try:
            self.ask(
                [
                    (
                        ids,
                        self.parameters(
                            1, logprob_token_ids=options, skip_reading_prefix_cache=not cached
                        ),
                    )
                ],
                take,
            )
        finally:
            if watched:
                self._call("lep_watch", False)
        return values

    def _call(self, method: str, *arguments: Any) -> list[Any]:
        try:
            return list(self.llm.collective_rpc(method, args=arguments))
        except LepBenchError:
            raise
        except Exception as error:  # of vLLM's own modules, in this process or another
            raise NotInPlaceError(f"{method}: {start.first_line(error)}") from error

    # ---- questions

    def parameters(self, new: int, pieces: bool = False, **rest: Any) -> Any:
        """vLLM's SamplingParams for `new` tokens, greedy unless `rest` says otherwise. `pieces`:
        return tokens as they come.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        kind = RequestOutputKind.DELTA if pieces else RequestOutputKind.FINAL_ONLY
        parameters = SamplingParams(
            **{"temperature": 0.0, **rest},
            max_tokens=new,
            ignore_eos=True,
            detokenize=False,
            flat_logprobs=True,
            output_kind=kind,
        )
        # each belongs to one request; vLLM's deep copy takes a fifth of a short request
        parameters.skip_clone = True
        return parameters

    def ask(self, questions: Iterable[tuple[Ids, Any]], take: Callable[[int, Any], bool]) -> int:
        """Send (ids, parameters) to vLLM, at most `IN_FLIGHT` at once. `take(number, output)`
        returns whether it has enough.

        Returns the number of tokens that were read, without those from the prefix cache.
        """
        from vllm.inputs import TokensPrompt

        waiting, going, read = enumerate(questions), dict[str, tuple[int, int]](), 0
        while True:
            while len(going) < IN_FLIGHT and (question := next(waiting, None)):
                n, (ids, parameters) = question
                self._number += 1
                name = str(self._number)
                self.llm.add_request(name, TokensPrompt(prompt_token_ids=list(ids)), parameters)
                going[name] = (n, len(ids))
            if not going:
                return read
            enough = []
            for output in self.llm.step():
                if output.request_id not in going:
                    continue
                n, size = going[output.request_id]
                if take(n, output) or output.finished:
                    read += size - (output.num_cached_tokens or 0)
                    del going[output.request_id]
                    enough += [] if output.finished else [output.request_id]
            if enough:
                self.llm.abort_request(enough)

    def close(self) -> None:
        """End vLLM and free its memory."""
        llm, self.llm = self.llm, None
        if llm is not None:
            start.end_vllm(llm)


def read_last(output: Any) -> tuple[int, dict[int, float]]:
    """(arg max, log-probability per id asked for) after the end of a prompt."""
    completion = output.outputs[0]
    return completion.token_ids[0], {
        token: value.logprob for token, value in completion.logprobs[0].items()
    }


def _list_probed(size: int) -> list[int]:
    """Ids from the first to the last of a vocabulary."""
    return sorted({round(n * (size - 1) / (PROBED - 1)) for n in range(PROBED)})
