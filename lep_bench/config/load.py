from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from lep_bench import files, hub, yamlfile
from lep_bench.config.schema import Baseline, Devices, Family, Suite, find_suite_faults
from lep_bench.errors import ConfigError, LepBenchError, unknown_name


@dataclass(frozen=True)
class Configs:
    """Config folders, the user's first: a user's file of the same name takes the shipped one's
    place.
    """

    folders: tuple[Path, ...]

    @classmethod
    def of(cls, extra: Sequence[Path] = ()) -> Configs:
        """The shipped folder behind `extra`. Raises LepBenchError for a folder that does not
        exist.
        """
        for folder in extra:
            if not folder.is_dir():
                raise LepBenchError(f"--configs {folder}: there is no such folder")
        return cls((*extra, files.shipped_folder("configs")))

    def names(self, kind: str) -> list[str]:
        """Names of `families`, `suites`, `baselines` or `hardware`."""
        return sorted(
            {file.stem for folder in self.folders for file in (folder / kind).glob("*.yaml")}
        )

    def file(self, kind: str, name: str) -> Path:
        """The YAML of that name; raises UnknownNameError with near names."""
        for folder in self.folders:
            file = folder / kind / f"{name}.yaml"
            if name and file.parent == folder / kind and file.is_file():
                return file
        raise unknown_name(
            {"families": "family"}.get(kind, kind.rstrip("s")), name, self.names(kind)
        )

    def place(self, kind: str, name: str, *where: str) -> str:
        """``file:line: field`` of a field, or of the nearest one above it that is written; for
        errors about its value.
        """
        file, line = self.file(kind, name), 1
        node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        for part in where:
            found = (
                [pair for pair in node.value if pair[0].value == part]
                if isinstance(node, yaml.MappingNode)
                else []
            )
            if not found:
                break
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        return f"{file}:{line}: {'.'.join(where)}"

    def family(self, name: str) -> Family:
        """Read and check a family."""
        file = self.file("families", name)
        family = yamlfile.read_yaml(file, Family, name=name)
        place = partial(self._placed, "families", name)
        vocabularies = {}
        for part, given in family.vocabularies.items():
            files.check_name(part, f"{file}: vocabulary name")
            donor = (
                place(given.donor, "vocabularies", part, "donor")
                if given.donor is not None
                else None
            )
            vocabularies[part] = given.model_copy(update={"donor": donor})
        corpus = family.corpus
        if corpus is not None:
            corpus = (
                _resolve_text_path(file, corpus)
                if isinstance(corpus, str)
                else tuple(_resolve_text_path(file, text) for text in corpus)
            )
        roles = {role: place(getattr(family, role), role) for role in ("base", "instruct")}
        return family.model_copy(update={**roles, "vocabularies": vocabularies, "corpus": corpus})

    def suite(self, name: str) -> Suite:
        """Read a suite; raises ConfigError for what `schema.suite_faults` finds in it."""
        suite = yamlfile.read_yaml(self.file("suites", name), Suite, name=name)
        for where, wrong in find_suite_faults(suite):
            raise ConfigError(f"{self.place('suites', name, *where)}: {wrong}")
        return suite

    def baseline(self, name: str) -> Baseline:
        """Read a baseline."""
        baseline = yamlfile.read_yaml(self.file("baselines", name), Baseline, name=name)
        return baseline.model_copy(
            update={"model": self._placed("baselines", name, baseline.model, "model")}
        )

    def devices(self, name: str) -> Devices:
        """Read a hardware config."""
        return yamlfile.read_yaml(self.file("hardware", name), Devices, name=name)

    def _placed(self, kind: str, name: str, location: str, *where: str) -> str:
        """`location` as it stands when it is `builtin:` or a Hub id, else the folder as an absolute
        path: a relative one is relative to the YAML, wherever the command is run. Raises
        ConfigError (file:line: field) for a folder that is not there."""
        if location.startswith(("builtin:", hub.API)):
            return location
        here = self.file(kind, name).parent
        folder = here / Path(location).expanduser()
        if location and folder.is_dir():
            return str(folder.resolve())
        if location.count("/") != 1 or location.startswith((".", "/", "~")):
            raise ConfigError(
                f"{self.place(kind, name, *where)}: {location or '(empty)'}: no such folder; "
                f"a path here is relative to {here}; else give a Hub id"
            )
        # it would be taken for the checkpoint, and only when run from here
        if Path(location).is_dir():
            raise ConfigError(
                f"{self.place(kind, name, *where)}: {location} is a folder where you are, "
                f"but a path here is relative to {here}: "
                "write it with its whole path; if the Hub's is meant, run from another folder"
            )
        return location


def _resolve_text_path(file: Path, text: str) -> str:
    """A text file's path made absolute like a checkpoint's; whether it is there is found out when
    it is read. Names of data sets stay.
    """
    path = file.parent / Path(text).expanduser()
    return (
        str(path)
        if path.exists()
        or path.suffix in (".txt", ".jsonl", ".json", ".parquet", ".gz")
        or text.startswith((".", "~"))
        else text
    )
