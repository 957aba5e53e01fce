"""The tasks, read from their YAML files alone: name, version, fingerprint; without lm-eval."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from lep_bench import bundle
from lep_bench.bundle import DATA
from lep_bench.errors import TaskError, unknown_name
from lep_bench.files import check_name, digest, file_digest, join_names, shipped_folder

_ROWS = {".jsonl", ".json", ".csv", ".parquet"}
_NOT_DATA = {".py", ".pyc", ".yaml", ".yml", ".md"}


@dataclass(frozen=True)
class TaskFile:
    """A task as its YAML describes it. `primary` is the metric that tables show; None: `score` if
    the task has it, else its first.
    """

    name: str
    path: Path
    version: str
    primary: str | None
    # path, name and revision of a Hub dataset, as far as the YAML names one
    dataset: tuple[str, ...]
    includes: tuple[Path, ...]
    config: str | None = None  # of the dataset
    revision: str | None = None
    # a class of the task's own reads its rows and knows their files
    own_class: bool = False

    @property
    def folder(self) -> Path:
        """The folder of the YAML."""
        return self.path.parent

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that the task is made of, by content.

        That is its YAML and the YAMLs that it includes; every .py file in its folder and below;
        every other file there (data), except Markdown and files that only another YAML of the
        folder names; and, where LEP_BENCH_DATA is set, that folder's files for the task's dataset,
        unless a bundle proves that they are the revision that the YAML pins.
        """
        files = {path.name: path for path in self.includes} | {"": self.path}
        files |= {path.relative_to(self.folder).as_posix(): path for path in self._list_files()}
        if (
            os.environ.get(DATA)
            and self.dataset
            and not bundle.is_proven(self.dataset[0], self.revision)
        ):
            files |= {
                f"{DATA}/{os.path.relpath(path, Path(os.environ[DATA]).expanduser())}": path
                for path in self._list_local_rows()
            }
        return digest({name: file_digest(path) for name, path in files.items()})

    def _list_local_rows(self) -> list[Path]:
        own, root = bundle.locate_dataset(self.dataset[0]), Path(os.environ[DATA]).expanduser()
        # Only a task's own class takes the folder itself for its dataset's.
        if own is None and (not self.own_class or bundle.read_manifest(root) is not None):
            return []
        folders = (
            [own or root]
            if self.config is None
            else [(own or root) / below for below in (f"data/{self.config}", self.config)]
        )
        return next(
            (
                found
                for folder in folders
                if (found := sorted(p for p in folder.rglob("*") if p.suffix in _ROWS))
            ),
            [],
        )

    def _list_files(self) -> Iterator[Path]:
        own = _read_text(self.path) + "".join(map(_read_text, self.includes))
        others = "".join(
            _read_text(path)
            for path in _list_yamls(self.folder)
            if path != self.path and path not in self.includes
        )
        for path in sorted(self.folder.rglob("*")):
            hidden = any(
                part.startswith(".") or part == "__pycache__"
                for part in path.relative_to(self.folder).parts
            )
            if hidden or not path.is_file():
                continue
            data = path.suffix.lower() not in _NOT_DATA
            if path.suffix == ".py" or (data and (path.name in own or path.name not in others)):
                yield path


@dataclass(frozen=True)
class TaskFiles:
    """The tasks of several folders, by name."""

    folders: tuple[Path, ...]
    tasks: dict[str, TaskFile]

    def get(self, name: str) -> TaskFile:
        """The task; raises UnknownNameError with near names."""
        if name not in self.tasks:
            raise unknown_name("task", name, self.tasks, "(see lep-bench list tasks)")
        return self.tasks[name]


def scan_tasks(extra: Sequence[Path] = ()) -> TaskFiles:
    """Every task in `extra` (the user's folders) and in the shipped folder.

    Raises TaskError for a folder that does not exist, a YAML that cannot be read (file:line), or a
    name that stands twice.
    """
    folders = tuple(
        dict.fromkeys([*(Path(folder).resolve() for folder in extra), shipped_folder("tasks")])
    )
    tasks: dict[str, TaskFile] = {}
    for folder in folders:
        if not folder.is_dir():
            raise TaskError(f"task folder {folder}: there is no such folder")
        for path in sorted(p for p in folder.rglob("*.y*ml") if p.suffix in (".yaml", ".yml")):
            task = _read_task(path)
            if task is None:
                continue
            if task.name in tasks and tasks[task.name].path != path:
                raise TaskError(
                    f"two tasks are called {task.name!r}: {tasks[task.name].path} and {path}"
                    "; rename one"
                )
            tasks[task.name] = task
    return TaskFiles(folders, tasks)


def lm_eval_folders(names: Sequence[str]) -> tuple[Path, ...]:
    """Folders of the installed lm-eval's own tasks, such as `xnli`, for `scan_tasks`.

    lm-eval is not imported. Only the named folders are read: all of its 14,000 YAMLs take more than
    ten seconds. Raises TaskError for a folder that does not exist.
    """
    if not names:
        return ()
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise TaskError(
            f"lm_eval: {', '.join(names)}: lm-eval is not installed: pip install lm-eval"
        )
    root = Path(spec.origin).parent / "tasks"
    folders = tuple(join_names(root, name) for name in names)
    for name, folder in zip(names, folders, strict=True):
        if not folder.is_dir():
            raise TaskError(f"lm_eval: {name}: this lm-eval has no such task folder in {root}")
    return folders


def select_tasks(names: Sequence[str], extra: Sequence[Path] = ()) -> list[TaskFile]:
    """The named tasks in that order, each once; raises UnknownNameError with near names."""
    known = scan_tasks(extra)
    return [known.get(name) for name in dict.fromkeys(names)]


class _TaskLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads `!function utils.f` as text: no code of a task runs while tasks are listed."""


_TaskLoader.add_multi_constructor(
    "!", lambda loader, suffix, node: f"!{suffix} {getattr(node, 'value', '')}"
)


def _read_task(path: Path) -> TaskFile | None:
    """The task in `path`; None for groups and for YAMLs that are only included by others."""
    config, includes = _read_config(path, ())
    name = config.get("task")
    if not isinstance(name, str):
        return None
    metadata = config.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise TaskError(f"{path}: metadata: a mapping is expected, such as {{version: 1.0}}")
    arguments = config.get("dataset_kwargs") or {}
    location, subset = config.get("dataset_path"), config.get("dataset_name")
    revision = arguments.get("revision") if isinstance(arguments, dict) else None
    return TaskFile(
        name=check_name(name, f"{path}: task name"),
        path=path,
        version=str(metadata.get("version", "0")),
        primary=metadata.get("primary"),
        dataset=tuple(str(part) for part in (location, subset, revision) if part is not None),
        includes=includes,
        config=None if subset is None else str(subset),
        revision=None if revision is None else str(revision),
        own_class="class" in config,
    )


def _read_config(
    path: Path, including: tuple[Path, ...]
) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """The fields of a task's YAML with those of the YAMLs that it includes, and these files.

    `including`: the files that include this one.
    """
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=_TaskLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: cannot be read: {error}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise TaskError(f"{path}:{line}: not valid YAML: {error.problem}") from error
    except (
        yaml.YAMLError,
        ValueError,
    ) as error:  # a character that YAML forbids, an impossible date
        raise TaskError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(config, dict):
        raise TaskError(f"{path}:1: a mapping of fields is expected")
    names = config.pop("include", None) or []
    fields: dict[str, Any] = {}
    includes: tuple[Path, ...] = ()
    for name in names if isinstance(names, list) else [names]:
        file = (path.parent / str(name)).resolve()
        if file in including or file == path:
            raise TaskError(f"{path}: include: {name} includes itself")
        inner, deeper = _read_config(file, (*including, path))
        fields |= inner
        includes = (*includes, file, *deeper)
    return fields | config, includes


def _list_yamls(folder: Path) -> list[Path]:
    return sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")])


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
