"""Config folders: the user's and the shipped one, read into the classes of `schema`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from lep_bench import files, hub, yamlfile
from lep_bench.config.schema import Baseline, Devices, Family, Suite, find_suite_faults
from lep_bench.errors import ConfigError, LepBenchError, unknown_name


@dataclass(frozen=True)
class Configs:
    """Config folders, the user's first: a user's file replaces a shipped one of the same name."""

    folders: tuple[Path, ...]

    @classmethod
    def of(cls, extra: Sequence[Path] = ()) -> Configs:
        """The folders `extra`, then the shipped one. Raises LepBenchError for a missing folder."""
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

    def locate_field(self, kind: str, name: str, *path: str) -> str:
        """``file:line: field``, for errors about a field's value.

        The line is that of the field, or of the nearest one above it that is written.
        """
        file, line = self.file(kind, name), 1
        node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        for part in path:
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            pair = next((pair for pair in pairs if pair[0].value == part), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        return f"{file}:{line}: {'.'.join(path)}"

    def family(self, name: str) -> Family:
        """Read and check a family."""
        file = self.file("families", name)
        family = yamlfile.read_yaml(file, Family, name=name)

        def resolve(location: str, *path: str) -> str:
            return self._resolve_location("families", name, location, *path)

        vocabularies = {}
        for part, vocabulary in family.vocabularies.items():
            files.check_name(part, f"{file}: vocabulary name")
            if vocabulary.donor is not None:
                donor = resolve(vocabulary.donor, "vocabularies", part, "donor")
                vocabulary = vocabulary.model_copy(update={"donor": donor})
            vocabularies[part] = vocabulary
        corpus = family.corpus
        if isinstance(corpus, str):
            corpus = _resolve_text_path(file, corpus)
        elif corpus is not None:
            corpus = tuple(_resolve_text_path(file, text) for text in corpus)
        return family.model_copy(
            update={
                "base": resolve(family.base, "base"),
                "instruct": resolve(family.instruct, "instruct"),
                "vocabularies": vocabularies,
                "corpus": corpus,
            }
        )

    def suite(self, name: str) -> Suite:
        """Read a suite. Raises ConfigError for the first fault that `find_suite_faults` finds."""
        suite = yamlfile.read_yaml(self.file("suites", name), Suite, name=name)
        for path, fault in find_suite_faults(suite):
            raise ConfigError(f"{self.locate_field('suites', name, *path)}: {fault}")
        return suite

    def baseline(self, name: str) -> Baseline:
        """Read a baseline."""
        baseline = yamlfile.read_yaml(self.file("baselines", name), Baseline, name=name)
        return baseline.model_copy(
            update={"model": self._resolve_location("baselines", name, baseline.model, "model")}
        )

    def devices(self, name: str) -> Devices:
        """Read a hardware config."""
        return yamlfile.read_yaml(self.file("hardware", name), Devices, name=name)

    def _resolve_location(self, kind: str, name: str, location: str, *path: str) -> str:
        """Return a folder as an absolute path, and `builtin:`, `api:` or a Hub id unchanged.

        A relative path is relative to the YAML, wherever the command is run. Raises ConfigError
        (file:line: field) for a folder that does not exist.
        """
        if location.startswith(("builtin:", hub.API)):
            return location
        here = self.file(kind, name).parent
        folder = here / Path(location).expanduser()
        if location and folder.is_dir():
            return str(folder.resolve())
        if location.count("/") != 1 or location.startswith((".", "/", "~")):
            raise ConfigError(
                f"{self.locate_field(kind, name, *path)}: {location or '(empty)'}: no such folder; "
                f"a path here is relative to {here}; else give a Hub id"
            )
        # It would be taken for the checkpoint, but only when run from here.
        if Path(location).is_dir():
            raise ConfigError(
                f"{self.locate_field(kind, name, *path)}: {location} is a folder where you are, "
                f"but a path here is relative to {here}: write its absolute path; if you mean the "
                "Hub's, run from another folder"
            )
        return location


def _resolve_text_path(file: Path, text: str) -> str:
    """Return a text file's path relative to the YAML, and a dataset's name unchanged.

    Whether the file exists is checked when it is read.
    """
    path = file.parent / Path(text).expanduser()
    return (
        str(path)
        if path.exists()
        or path.suffix in (".txt", ".jsonl", ".json", ".parquet", ".gz")
        or text.startswith((".", "~"))
        else text
    )
