"""What every engine offers: scoring and generation on token ids, and the exchange of models."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lep_bench.errors import CheckpointError
from lep_bench.records.artifact import Artifact

MAX_OPTIONS = (
    128  # ids whose log-probabilities one request may ask vLLM for (MAX_LOGPROB_TOKEN_IDS)
)
Ids = Sequence[int]
Decode = Callable[[list[int]], str]


@dataclass(frozen=True)
class TokenScores:
    """Scores of one continuation: natural-log probability per token, and whether each token was the
    arg max.
    """

    logprobs: tuple[float, ...]
    greedy: bool

    @property
    def total(self) -> float:
        """Log-probability of the whole continuation."""
        return sum(self.logprobs)


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, in transformers' order: divide the logits by `temperature`, keep the
    `top_k` best (0: all), and of these the fewest that together reach probability `top_p`."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and self.top_k >= 0 and 0 < self.top_p <= 1):
            raise ValueError(f"{self}: temperature > 0, top_k >= 0 and 0 < top_p <= 1 are needed")


@dataclass(frozen=True)
class EngineInfo:
    """What is recorded about an engine: its name with version, device and number format."""

    name: str
    version: str
    device: str
    dtype: str


@dataclass
class WorkCounts:
    """Work since the engine started. `tokens_in` counts the ids really read: a shared context once,
    no padding. `from_store` counts the answers that a `StoredEngine` took from disk; they count
    nowhere else."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    from_store: int = 0


class Engine(Protocol):
    """A loaded body. Answers come in the order of the questions and depend on nothing but the list
    of questions.
    """

    @property
    def info(self) -> EngineInfo: ...

    @property
    def counts(self) -> WorkCounts: ...

    @property
    def max_length(self) -> int:
        """Positions the model was made for."""

    def exchange(self, artifact: Artifact) -> None:
        """Load the artifact's weights into the running engine. Raises CheckpointError when the
        artifact is not a patch of its body.
        """

    def remarks(self) -> tuple[str, ...]:
        """What readers of the current model's scores should know about how they came about, a line
        each.
        """

    def option_logprobs(
        self, contexts: Sequence[Ids], options: Sequence[Ids]
    ) -> list[list[tuple[float, bool]]]:
        """Per context, the next-token log-probability of each option and whether it is the arg max:
        one forward pass per distinct context."""

    def continuation_logprobs(self, pairs: Sequence[tuple[Ids, Ids]]) -> list[TokenScores]:
        """Per (context, continuation), both non-empty, the scores of the continuation's tokens."""

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
        """Ids per context, without the stop id. Generation also ends after the token that completes
        a stop string.

        Greedy without `sampling`; with it, context i draws from a generator of its own, seeded by
        seeds[i], so that its answer does not depend on what else is asked. `max_characters`: a row
        may end once its text is longer.
        """

    def close(self) -> None:
        """Free the memory."""


class StopStrings:
    """Tells whether the text of generated ids holds a stop string or is longer than
    `max_characters`. A whole row is decoded only when its last token could have completed a stop
    string, and every `LENGTH_INTERVAL` tokens for its length."""

    LENGTH_INTERVAL = 8

    def __init__(
        self, strings: Sequence[str], decode: Decode, max_characters: int | None = None
    ) -> None:
        self._max_characters = max_characters
        self._strings = [text for text in strings if text]
        self._decode = decode
        self._ends = {text[-1] for text in self._strings}
        self._suspect: dict[int, bool] = {}

    def hit(self, ids: list[int]) -> bool:
        """`ids`: everything generated for one row, the newest last."""
        # Half a letter at the end decodes to U+FFFD: only what stands before it is settled.
        if self._max_characters is not None and ids and len(ids) % self.LENGTH_INTERVAL == 0:
            if len(self._decode(ids).rstrip("�")) > self._max_characters:
                return True
        if not self._strings or not ids:
            return False
        last = ids[-1]
        if last not in self._suspect:
            piece = self._decode([last])
            # A lone byte decodes to U+FFFD, and sentencepiece strips a lone leading space: neither
            # shows what it ends.
            self._suspect[last] = (
                "�" in piece
                or not piece
                or " " in self._ends
                or any(end in piece for end in self._ends)
            )
        if not self._suspect[last]:
            return False
        text = self._decode(ids)
        return any(stop in text for stop in self._strings)


def read_stop_ids(folder: Path) -> tuple[int, ...]:
    """The EOS ids of a checkpoint folder, from generation_config.json or else config.json. Empty
    where neither names one.

    Raises CheckpointError for JSON that cannot be read.
    """
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        if not file.is_file():
            continue
        try:
            value = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
        except (OSError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{file}: cannot be read: {error}") from error
        if value is not None:
            return tuple(sorted(value)) if isinstance(value, list) else (int(value),)
    return ()


def check_ids(sequences: Iterable[Ids], rows: int, name: str) -> None:
    """Raises ValueError for an empty sequence, CheckpointError for an id outside the `rows` of the
    vocabulary of model `name`.
    """
    for ids in sequences:
        if not ids:
            raise ValueError("an empty token sequence cannot be scored")
        if max(ids) >= rows or min(ids) < 0:
            bad = next(i for i in ids if not 0 <= i < rows)
            raise CheckpointError(
                f"{name}: token id {bad} is outside the vocabulary of {rows}: tokenizer and "
                "model do not belong together"
            )


def make_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices in batches of similar length, longest first: rows x longest <= budget, with at least
    one row.

    Equal lengths keep their order, so a list of requests always makes the same batches.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    longest = 0
    for i in order:
        if not batches or (len(batches[-1]) + 1) * longest > budget:
            batches.append([])
            longest = lengths[i]
        batches[-1].append(i)
    return batches


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the machine or the GPU ran out of memory."""
    import torch

    return isinstance(
        error, (MemoryError, torch.OutOfMemoryError)
    ) or "can't allocate memory" in str(error)


RESET, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def _gpus(device: str) -> Any:
    """`torch.cuda` where `device` is a GPU that it sees, else None."""
    if not device.startswith("cuda"):
        return None
    import torch  # not above: the parent of a run checks rows, and need not wait for torch

    return torch.cuda if torch.cuda.is_available() else None


def name_device(device: str) -> str:
    """`cpu`, or the name of the GPU: two kinds of device give numbers that differ in their last
    digits, and other timings.
    """
    gpus = _gpus(device)
    return str(gpus.get_device_name(device)) if gpus else device


def reset_peak_memory(device: str) -> None:
    """Let `read_peak_memory` count from here on. Where the system cannot reset it (not Linux), it
    counts from the start of the process.
    """
    if gpus := _gpus(device):
        gpus.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        RESET.write_text("5", encoding="ascii")  # resets VmHWM, see proc(5)


def read_peak_memory(device: str) -> int:
    """The peak in bytes: on a GPU of what torch held there, else of this process's resident
    memory.
    """
    if gpus := _gpus(device):
        return int(gpus.max_memory_allocated(device))
    try:
        line = next(
            line
            for line in STATUS.read_text(encoding="ascii").splitlines()
            if line.startswith("VmHWM:")
        )
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
