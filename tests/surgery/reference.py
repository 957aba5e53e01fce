"""LEP once more, dense and token by token: written from the paper, sharing nothing with
lep_bench.surgery.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's table, built the way its authors describe it: printable bytes stay, the others move
    up from 256.
    """
    table, above = {}, 256
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or 174 <= byte <= 255:
            table[chr(byte)] = byte
        else:
            table[chr(above)] = byte
            above += 1
    return table


BYTES = _byte_alphabet()


class Vocabulary:
    """tokenizer.json read naively: `spelled[id]` are a token's bytes, `special[content]` its id."""

    def __init__(self, folder: Path) -> None:
        data = json.loads((folder / "tokenizer.json").read_text())
        vocab = data["model"]["vocab"]
        self.ids = (
            dict(vocab)
            if isinstance(vocab, dict)
            else {piece: i for i, (piece, _) in enumerate(vocab)}
        )
        self.special = {t["content"]: t["id"] for t in data["added_tokens"]}
        self.byte_level = "ByteLevel" in json.dumps([data["pre_tokenizer"], data["decoder"]])
        merges = data["model"].get("merges", [])
        self.rank = {
            tuple(m) if isinstance(m, list) else tuple(m.split(" ")): i
            for i, m in enumerate(merges)
        }
        self.size = max([*self.ids.values(), *self.special.values()]) + 1
        self.spelled = {i: self.to_bytes(p) for p, i in self.ids.items() if p not in self.special}

    def to_bytes(self, piece: str) -> bytes:
        if self.byte_level:
            return bytes(BYTES[c] for c in piece)
        if piece.startswith("<0x") and piece.endswith(">") and len(piece) == 6:
            return bytes([int(piece[3:5], 16)])
        return piece.replace("▁", " ").encode()

    def bpe(self, value: bytes) -> list[int]:
        """Merge by rank, the leftmost of the best pair first; what is in no piece goes to bytes."""
        if self.byte_level:
            back = {b: c for c, b in BYTES.items()}
            parts = [back[b] for b in value]
        else:
            parts = list(value.decode("utf-8", "surrogateescape").replace(" ", "▁"))
        while True:
            pairs = [
                (self.rank[pair], i)
                for i, pair in enumerate(itertools.pairwise(parts))
                if pair in self.rank
            ]
            if not pairs:
                break
            _, i = min(pairs)
            parts[i : i + 2] = ["".join(parts[i : i + 2])]
        ids = []
        for part in parts:
            known = (
                [part]
                if part in self.ids
                else [f"<0x{b:02X}>" for b in part.encode("utf-8", "surrogateescape")]
            )
            ids += [self.ids[p] for p in known]
        return ids


def matrices(folder: Path) -> dict[str, np.ndarray]:
    tensors = load_file(folder / "model.safetensors")
    names = {"model.embed_tokens.weight", "lm_head.weight"} & set(tensors)
    return {name: tensors[name].astype(np.float64) for name in names}


def subtokens(old: Vocabulary, new: Vocabulary) -> dict[int, list[int]]:
    """new id -> old ids, ordinary tokens only."""
    rows = {}
    for piece, number in new.ids.items():
        if piece in new.special:
            continue
        value = new.to_bytes(piece)
        byte_piece = piece.startswith("<0x") and not new.byte_level
        same = [i for i, spelled in old.spelled.items() if spelled == value]
        if byte_piece and piece in old.ids:
            same = [old.ids[piece]]
        elif len(same) > 1:  # a piece and its byte token: the piece
            same = [
                i
                for i in same
                if not any(p.startswith("<0x") for p, j in old.ids.items() if j == i)
            ]
        rows[number] = same or old.bpe(value)
    return rows


def lep(
    base: Path, instruct: Path, donor: Path, method: str
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """The expected matrices, with padding, and the expected ids of the instruct model's special
    tokens.
    """
    old, tuned, new = Vocabulary(base), Vocabulary(instruct), Vocabulary(donor)
    rows = subtokens(old, new)
    e_base, e_instruct, e_donor = matrices(base), matrices(instruct), matrices(donor)
    special = dict(new.special)
    for content in sorted(tuned.special, key=tuned.special.__getitem__):
        special.setdefault(content, max([new.size - 1, *special.values()]) + 1)
    size = max([new.size - 1, *special.values()]) + 1
    expected = {}
    for name in e_base:
        if method == "conversion":
            x = np.array([e_base[name][rows[i]].mean(0) for i in sorted(rows)])
            y = np.array([e_instruct[name][rows[i]].mean(0) for i in sorted(rows)])
        else:
            shared = [
                ids[0]
                for i, ids in sorted(rows.items())
                if old.spelled.get(ids[0]) == new.spelled[i]
            ]
            x, y = e_base[name][shared], e_instruct[name][shared]
        d = (
            np.eye(e_base[name].shape[1])
            if method == "swap"
            else np.linalg.lstsq(x, y, rcond=None)[0]
        )
        result = np.zeros((size, d.shape[1]))
        result[: new.size] = e_donor[name][: new.size] @ d
        for content, number in tuned.special.items():
            result[special[content]] = e_instruct[name][number]
        padding = np.repeat(result.mean(0, keepdims=True), -size % 64, axis=0)
        expected[name] = np.concatenate([result, padding])
    return expected, {content: special[content] for content in tuned.special}
