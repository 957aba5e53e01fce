"""Makes invented_run and uploads importable: pytest's importlib mode puts no test folder on the
path.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parent.parent))
