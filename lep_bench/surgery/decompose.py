"""Every new token as old tokens: the subtoken-mean matrix T of the paper (arXiv 2412.21140, section
3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import tokenizers
from scipy import sparse

from lep_bench.errors import CheckpointError
from lep_bench.surgery.tokenizers.tokens import CHARACTER_OF, SPACE, Tokens

Policy = Literal["bytes-exact", "paper"]
KEPT, NEW, SPECIAL, FOREIGN, HOLE = "kept", "new", "special", "foreign", "hole"


@dataclass(frozen=True)
class Decomposition:
    """T [V_new, V_old]: E_new = T E_old; every row sums to 1 (a hole's row is empty).

    kinds[V_new]: ``kept`` (its bytes are one old token), ``new``, ``special`` (opaque, the old
    tokenizer has it too), ``foreign`` (opaque, unknown to the old tokenizer: mean over the
    subtokens of its content) or ``hole``. overlap [n, 2]: (new id, old id) of the kept tokens,
    specials left out; exact by bytes under either policy. lengths[V_new]: how many old tokens a row
    averages, repeated ones counted each time (T holds only their shares). differing: rows of
    ordinary tokens in which the policies "paper" and "bytes-exact" average other subtokens.
    """

    T: sparse.csr_matrix
    kinds: np.ndarray
    overlap: np.ndarray
    lengths: np.ndarray
    policy: Policy
    differing: int


def decompose(old: Tokens, new: Tokens, policy: Policy = "bytes-exact") -> Decomposition:
    """Take every token of `new` apart into tokens of `old`.

    "bytes-exact": the old tokens' bytes joined are the new token's bytes (checked), without dummy
    prefix and normaliser. "paper": the stored spelling with "▁" read as a space is tokenised as
    text, as the authors' code does; for byte-level donors that averages wrong subtokens, which is
    why it is not the default. Raises CheckpointError when the old tokenizer cannot spell a token's
    bytes at all.
    """
    opaque = set(new.specials.values())
    kinds = np.full(new.size, NEW, dtype="<U8")
    kinds[new.holes] = HOLE
    rows: list[Sequence[int]] = [()] * new.size
    overlap: list[tuple[int, int]] = []
    loose: list[int] = []
    for number in range(new.size):
        value = new.bytes_of(number)
        if number in opaque or value is None:
            continue
        match = old.find(value, as_byte_token=new.is_byte_token(number))
        if match is None:
            loose.append(number)
        else:
            kinds[number] = KEPT
            rows[number] = (match,)
            overlap.append((number, match))
    foreign = []
    for content, number in new.specials.items():
        if content in old.specials:
            kinds[number], rows[number] = SPECIAL, (old.specials[content],)
        else:
            kinds[number] = FOREIGN
            foreign.append((number, content.encode("utf-8")))
    spelled = spell_bytes(
        old, [*(new.bytes_of(number) or b"" for number in loose), *(value for _, value in foreign)]
    )
    for number, subtokens in zip(
        [*loose, *(number for number, _ in foreign)], spelled, strict=True
    ):
        rows[number] = subtokens
    ordinary = np.flatnonzero(np.isin(kinds, (KEPT, NEW)))
    as_paper = _paper_rows(old, new, ordinary, rows)
    differing = sum(sorted(rows[number]) != sorted(other) for number, other in as_paper.items())
    if policy == "paper":
        for number, subtokens in as_paper.items():
            rows[number] = subtokens
    pairs = np.array(overlap, dtype=np.int64).reshape(-1, 2)
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    return Decomposition(_matrix(rows, old.size), kinds, pairs, lengths, policy, differing)


def spell_bytes(old: Tokens, values: Sequence[bytes]) -> list[list[int]]:
    """`values` as ids of `old`: the old tokenizer's own segmentation where it is exact, else one
    that is.

    Raises CheckpointError for bytes that `old` cannot spell (no byte tokens).
    """
    texts = [_text(value) for value in values]
    encoder = old.encoder()
    rows: list[list[int] | None] = [None] * len(values)
    valid = [i for i, text in enumerate(texts) if text is not None]
    for i, ids in zip(
        valid, _encode(encoder, [old.spell(texts[i] or "") for i in valid]), strict=True
    ):
        rows[i] = ids if _joined(old, ids) == values[i] else None
    # What is left: halves of characters (byte-level donors have them), and texts that a
    # pre-tokeniser does not preserve.
    left = [i for i, ids in enumerate(rows) if ids is None]
    if left and old.byte_level:
        # The model itself reads byte characters, so its merges apply to any bytes.
        spelled = ["".join(CHARACTER_OF[byte] for byte in values[i]) for i in left]
        for i, ids in zip(left, _encode(old.encoder(pieces=True), spelled), strict=True):
            rows[i] = ids if _joined(old, ids) == values[i] else None
    else:
        for i in left:
            rows[i] = _around_invalid(old, encoder, values[i])
    return [spell_greedily(old, values[i]) if ids is None else ids for i, ids in enumerate(rows)]


def spell_greedily(old: Tokens, value: bytes) -> list[int]:
    """Longest match from the left over the bytes of old tokens. Raises CheckpointError when there
    is none.
    """
    ids, start = [], 0
    while start < len(value):
        for end in range(min(len(value), start + old.longest), start, -1):
            number = old.find(value[start:end])
            if number is not None:
                ids.append(number)
                start = end
                break
        else:
            raise CheckpointError(
                f"{old.folder}: the old tokenizer ({old.kind}) cannot spell {value!r} of the "
                "new vocabulary: it has no token for "
                f"the byte 0x{value[start]:02X}; use a vocabulary of characters that it knows"
            )
    return ids


def _around_invalid(old: Tokens, encoder: tokenizers.Tokenizer, value: bytes) -> list[int] | None:
    """The old segmentation of the valid parts, byte tokens for what is no UTF-8; None when that is
    not exact.
    """
    ids: list[int] = []
    run = ""
    for character in value.decode("utf-8", errors="surrogateescape") + "\udc80":
        if not 0xDC80 <= ord(character) <= 0xDCFF:
            run += character
            continue
        ids += encoder.encode(old.spell(run), add_special_tokens=False).ids if run else []
        run = ""
        ids.append(old.byte_tokens.get(ord(character) - 0xDC00, -1))
    ids.pop()  # the sentinel's
    return ids if -1 not in ids and _joined(old, ids) == value else None


def _paper_rows(
    old: Tokens, new: Tokens, ordinary: np.ndarray, exact: list[Sequence[int]]
) -> dict[int, Sequence[int]]:
    as_is = tokenizers.Tokenizer.from_file(str(old.folder / "tokenizer.json"))
    as_is.no_truncation()
    as_is.no_padding()
    # In front of sentencepiece tokenizers the authors keep the dummy prefix off the token with a
    # digit that they cut off.
    lead = "" if old.byte_level else "1"
    cut = len(as_is.encode(lead, add_special_tokens=False).ids)
    texts = [lead + (new.pieces[number] or "").replace(SPACE, " ") for number in ordinary]
    # A text that tokenises to nothing has no mean: the exact row stands in.
    return {
        int(n): ids[cut:] or exact[n]
        for n, ids in zip(ordinary, _encode(as_is, texts), strict=True)
    }


def _matrix(rows: list[Sequence[int]], width: int) -> sparse.csr_matrix:
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    columns = np.fromiter(
        (number for row in rows for number in row), dtype=np.int64, count=int(lengths.sum())
    )
    weights = np.repeat(1.0 / np.maximum(lengths, 1), lengths)
    index = np.repeat(np.arange(len(rows)), lengths)
    return sparse.csr_matrix(
        (weights, (index, columns)), shape=(len(rows), width), dtype=np.float64
    )


def _encode(tokenizer: tokenizers.Tokenizer, texts: list[str]) -> list[list[int]]:
    # an encoding is ten times its text
    parts = (texts[start : start + 8192] for start in range(0, len(texts), 8192))
    return [
        encoding.ids
        for part in parts
        for encoding in tokenizer.encode_batch_fast(part, add_special_tokens=False)
    ]


def _joined(tokens: Tokens, ids: Sequence[int]) -> bytes | None:
    parts = [tokens.bytes_of(number) for number in ids]
    return (
        None
        if any(part is None for part in parts)
        else b"".join(part for part in parts if part is not None)
    )


def _text(value: bytes) -> str | None:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return None
