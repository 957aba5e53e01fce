"""Decompose every new token into old tokens: the subtoken-mean matrix T of the paper (arXiv
2412.21140, section 3.2).
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
    """Every new token as a mean of old tokens.

    T [V_new, V_old]: E_new = T E_old. Every row sums to 1; the row of a hole is empty.
    kinds [V_new]:
        ``kept``     its bytes are one old token
        ``new``      its bytes are several old tokens
        ``special``  opaque, and the old tokenizer has it too
        ``foreign``  opaque and unknown to the old tokenizer: mean of the subtokens of its content
        ``hole``     an id without a token
    overlap [n, 2]: (new id, old id) of the kept tokens without specials, compared by bytes under
    either policy.
    lengths [V_new]: old tokens in each mean, repeated ones counted each time.
    differing: ordinary tokens for which the policies "paper" and "bytes-exact" average different
    subtokens.
    """

    T: sparse.csr_matrix
    kinds: np.ndarray
    overlap: np.ndarray
    lengths: np.ndarray
    policy: Policy
    differing: int


def decompose(old: Tokens, new: Tokens, policy: Policy = "bytes-exact") -> Decomposition:
    """Decompose every token of `new` into tokens of `old`.

    "bytes-exact": the bytes of the old tokens, joined, are the bytes of the new token (checked).
    Dummy prefix and normaliser are off. "paper": the stored spelling, with "▁" read as a space, is
    tokenised as text, as in the authors' code. For byte-level donors this averages wrong
    subtokens, so it is not the default. Raises CheckpointError if the old tokenizer cannot spell a
    token's bytes.
    """
    opaque = set(new.specials.values())
    kinds = np.full(new.size, NEW, dtype="<U8")
    kinds[new.holes] = HOLE
    rows: list[Sequence[int]] = [()] * new.size
    overlap: list[tuple[int, int]] = []
    unmatched: list[int] = []
    for number in range(new.size):
        value = new.bytes_of(number)
        if number in opaque or value is None:
            continue
        match = old.find(value, as_byte_token=new.is_byte_token(number))
        if match is None:
            unmatched.append(number)
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
        old,
        [*(new.bytes_of(number) or b"" for number in unmatched), *(value for _, value in foreign)],
    )
    for number, ids in zip([*unmatched, *(number for number, _ in foreign)], spelled, strict=True):
        rows[number] = ids
    ordinary = np.flatnonzero(np.isin(kinds, (KEPT, NEW)))
    paper_rows = _decompose_as_paper(old, new, ordinary, rows)
    differing = sum(sorted(rows[number]) != sorted(row) for number, row in paper_rows.items())
    if policy == "paper":
        for number, row in paper_rows.items():
            rows[number] = row
    pairs = np.array(overlap, dtype=np.int64).reshape(-1, 2)
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    return Decomposition(_mean_matrix(rows, old.size), kinds, pairs, lengths, policy, differing)


def spell_bytes(old: Tokens, values: Sequence[bytes]) -> list[list[int]]:
    """`values` as ids of `old`: the old tokenizer's segmentation if its bytes are exact, else the
    longest match from the left.

    Raises CheckpointError for bytes that `old` cannot spell (it has no byte tokens).
    """
    texts = [_decode(value) for value in values]
    encoder = old.encoder()
    rows: list[list[int] | None] = [None] * len(values)
    valid = [i for i, text in enumerate(texts) if text is not None]
    for i, ids in zip(
        valid, _encode(encoder, [old.spell(texts[i] or "") for i in valid]), strict=True
    ):
        rows[i] = ids if _join_bytes(old, ids) == values[i] else None
    # Still without a row: parts of characters (byte-level donors have them), and texts that a
    # pre-tokeniser changes.
    unspelled = [i for i, row in enumerate(rows) if row is None]
    if unspelled and old.byte_level:
        # The model itself reads byte characters, so its merges apply to any bytes.
        spelled = ["".join(CHARACTER_OF[byte] for byte in values[i]) for i in unspelled]
        for i, ids in zip(unspelled, _encode(old.encoder(pieces=True), spelled), strict=True):
            rows[i] = ids if _join_bytes(old, ids) == values[i] else None
    else:
        for i in unspelled:
            rows[i] = _spell_invalid_text(old, encoder, values[i])
    return [spell_greedily(old, values[i]) if row is None else row for i, row in enumerate(rows)]


def spell_greedily(old: Tokens, value: bytes) -> list[int]:
    """Ids of `old` by the longest match from the left. Raises CheckpointError if a byte has no
    token.
    """
    ids: list[int] = []
    start = 0
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
                f"new vocabulary: it has no token for the byte 0x{value[start]:02X}; use a "
                "vocabulary of characters that it knows"
            )
    return ids


def _spell_invalid_text(
    old: Tokens, encoder: tokenizers.Tokenizer, value: bytes
) -> list[int] | None:
    """`value`, which is not valid UTF-8: valid parts as the old tokenizer cuts them, byte tokens
    for the rest. None if the result is not exact.
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
    ids.pop()  # the id of the sentinel
    return ids if -1 not in ids and _join_bytes(old, ids) == value else None


def _decompose_as_paper(
    old: Tokens, new: Tokens, ordinary: np.ndarray, exact: list[Sequence[int]]
) -> dict[int, Sequence[int]]:
    """New id -> old ids, for the new ids `ordinary`, as the authors' code cuts them."""
    tokenizer = tokenizers.Tokenizer.from_file(str(old.folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # For sentencepiece tokenizers the authors put a digit before the token, so that the dummy
    # prefix goes before the digit, and drop the digit's tokens.
    prefix = "" if old.byte_level else "1"
    prefix_length = len(tokenizer.encode(prefix, add_special_tokens=False).ids)
    texts = [prefix + (new.pieces[number] or "").replace(SPACE, " ") for number in ordinary]
    # A text without tokens has no mean: use the exact row.
    return {
        int(n): ids[prefix_length:] or exact[n]
        for n, ids in zip(ordinary, _encode(tokenizer, texts), strict=True)
    }


def _mean_matrix(rows: list[Sequence[int]], width: int) -> sparse.csr_matrix:
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
    # In parts, because an encoding takes ten times the memory of its text.
    parts = (texts[start : start + 8192] for start in range(0, len(texts), 8192))
    return [
        encoding.ids
        for part in parts
        for encoding in tokenizer.encode_batch_fast(part, add_special_tokens=False)
    ]


def _join_bytes(tokens: Tokens, ids: Sequence[int]) -> bytes | None:
    parts = [tokens.bytes_of(number) for number in ids]
    return (
        None
        if any(part is None for part in parts)
        else b"".join(part for part in parts if part is not None)
    )


def _decode(value: bytes) -> str | None:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return None
