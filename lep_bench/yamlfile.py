"""YAML read into frozen pydantic models; every error names file:line: field."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from lep_bench.errors import ConfigError, unknown_name


class Frozen(BaseModel):
    """Base of everything read from or written to disk: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Model = TypeVar("Model", bound=BaseModel)


def read_yaml(path: Path, model: type[Model], **extra: Any) -> Model:
    """Read `path` as `model`; `extra` fills fields that the file does not have (e.g. its name).

    Raises ConfigError as ``file:line: field: message`` for unreadable YAML, wrong keys (with near
    names) or values.
    """
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:  # a forbidden character, an impossible date
        raise ConfigError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}:1: a mapping of fields is expected: {', '.join(model.model_fields)}"
        )
    try:
        return model.model_validate({**data, **extra})
    except ValidationError as error:
        raise ConfigError(
            "\n".join(_explain(path, tree, model, item) for item in error.errors()[:3])
        ) from error


def _explain(path: Path, tree: yaml.Node | None, model: type[BaseModel], item: Any) -> str:
    where = list(item["loc"])
    line = _find_line(tree, where)
    field = ".".join(map(str, where)) or "(file)"
    if item["type"] == "extra_forbidden":
        known = _list_fields(model, where[:-1])
        return f"{path}:{line}: {field}: " + (
            str(unknown_name("field", str(where[-1]), known)) if known else "unknown field"
        )
    return f"{path}:{line}: {field}: {item['msg'][0].lower()}{item['msg'][1:]}"


def _list_fields(model: Any, where: list[Any]) -> list[str]:
    parts = iter(where)
    for part in parts:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        model = field.annotation
        inner = [a for a in getattr(model, "__args__", ()) if hasattr(a, "model_fields")]
        if inner:
            model = inner[0]
            # dict[str, Model] and tuple[Model, ...]: the next part is a key or an index. In Model |
            # None it is a field.
            if getattr(field.annotation, "__origin__", None) in (dict, tuple, list):
                next(parts, None)
    return list(getattr(model, "model_fields", {}))


def _find_line(node: yaml.Node | None, where: list[Any]) -> int:
    line = node.start_mark.line + 1 if node else 1
    for part in where:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, node = key.start_mark.line + 1, value
                    break
            else:
                return line
        elif (
            isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value)
        ):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line
    return line
