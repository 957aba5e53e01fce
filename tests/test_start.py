"""What a run's processes import before they work: seconds of every cold command."""

from __future__ import annotations

import subprocess
import sys


def python(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_checking_rows_needs_no_torch():
    python(
        "import sys; from lep_bench.evaluate import lmeval as needs; assert not {'torch', "
        "'transformers'} & {*sys.modules}"
    )


def test_workers_leave_scikit_learn_out_and_importable():
    python(
        "import gc, sys; from lep_bench.pipeline import worker; worker._import_transformers()\n"
        "assert 'transformers.generation.candidate_generator' in sys.modules\n"
        "assert not [name for name in sys.modules if name.startswith('sklearn')]\n"
        # lm-eval's metrics: only transformers was told that there is none
        "from sklearn.metrics import matthews_corrcoef, roc_curve\n"
        # and what is imported already stays
        "worker._import_transformers(); assert 'sklearn' in sys.modules"
    )
