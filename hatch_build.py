"""Wheels carry the data folders inside the package, so that an installed lep-bench works without
the checkout.
"""

from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDERS = ("adapters", "tasks", "configs", "leaderboards")
LEFT_OUT = {"__pycache__", ".DS_Store"}


class DataFolders(BuildHookInterface):
    """Copies `FOLDERS` to lep_bench/_data. Editable installs use the checkout's folders: a copy
    there would go stale.
    """

    def initialize(self, version: str, build_data: dict) -> None:
        """Called by hatchling with version "standard" for a wheel and "editable" for `pip install
        -e`.
        """
        if version != "standard":
            return
        root = Path(self.root)
        # `lep-bench doctor` compares what is installed with the versions that the tests ran with.
        build_data["force_include"][str(root / "constraints.txt")] = (
            "lep_bench/_data/constraints.txt"
        )
        for folder in FOLDERS:
            for file in sorted((root / folder).rglob("*")):
                if file.is_file() and not LEFT_OUT & set(file.parts) and file.suffix != ".pyc":
                    build_data["force_include"][str(file)] = (
                        f"lep_bench/_data/{file.relative_to(root).as_posix()}"
                    )
