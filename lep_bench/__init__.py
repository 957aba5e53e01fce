"""lep-bench: give a language model a Russian vocabulary, carry it into its instruct version (LEP),
and measure what came out.

The one library call is `lep_bench.adapt`; everything else is the command line's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def adapt(
    base: str | Path,
    instruct: str | Path,
    donor: str | Path,
    out: str | Path,
    *,
    method: str = "conversion",
    params: dict[str, Any] | None = None,
    row_policy: str = "bytes-exact",
    discard_donor_body: bool = False,
    device: str = "cpu",
    adapters: Sequence[Path] = (),
) -> Path:
    """Learned Embedding Propagation (arXiv 2412.21140, section 3.4): the instruct model with the
    donor's vocabulary.

    base, instruct, donor: checkpoint folders, Hub ids or `builtin:FAMILY/base`. method: a
    propagation adapter's name. A donor whose body differs from the base's is refused unless
    `discard_donor_body`: only its embeddings are used. `device` ("cpu" or "cuda") does the float64
    products. Writes a complete checkpoint to `out` (which must not exist), with `lep.json` beside
    it, and returns its path. Raises LepBenchError (one line: what, where, what to do) when the
    three do not belong together.
    """
    from lep_bench import plugin
    from lep_bench.surgery import propagate

    adapter = plugin.discover_adapters(adapters).get("propagation", method).adapter
    settings = adapter.params.model_validate(params or {})
    return propagate.adapt(
        str(base),
        str(instruct),
        str(donor),
        Path(out),
        adapter,
        settings,
        policy=row_policy,
        discard_donor_body=discard_donor_body,
        device=device,
    )
