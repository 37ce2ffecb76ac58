"""Strict configuration: YAML text to frozen dataclasses; unknown or duplicate keys and wrong types are errors."""

import dataclasses
import math
import types
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

Config = TypeVar("Config")

MAX_YAML_BYTES = 256 * 1024
"""A configuration is a page of text; anything larger is a mistake or an attack."""
MAX_YAML_DEPTH = 20


class ConfigError(ValueError):
    """A configuration, plan or setup that cannot be used; the message names the thing, the value and the remedy."""


class _StrictLoader(yaml.SafeLoader):
    """safe_load without aliases (a few lines of them expand to gigabytes), duplicate keys and deep nesting."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed")
        self._depth += 1
        if self._depth > MAX_YAML_DEPTH:
            raise yaml.YAMLError(f"nested deeper than {MAX_YAML_DEPTH} levels")
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        duplicates = sorted({key for key in keys if isinstance(key, str) and keys.count(key) > 1})
        if duplicates:
            raise yaml.YAMLError(f"key {duplicates[0]!r} is given twice")
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """The mapping in a YAML text, read without tags, aliases or duplicate keys.

    Raises: ConfigError naming `where`.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_YAML_BYTES:
        raise ConfigError(f"{where}: larger than {MAX_YAML_BYTES} bytes; a configuration is a short text")
    try:
        data = yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{where}: not valid YAML: {reason}") from error
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ConfigError(f"{where}: must be a mapping of names to values, got {type(data).__name__}")
    return data


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises: ConfigError naming the file."""
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_YAML_BYTES} bytes; is this the configuration file?")
        return parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; give the path of an agent configuration (YAML)") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from error


def parse(cls: type[Config], data: Any, where: str) -> Config:
    """An instance of the dataclass `cls` from plain YAML data; fields left out take their defaults.

    Raises: ConfigError naming the field, its value and what was expected.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a mapping of names to values, got {data!r}")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # pyright: ignore[reportArgumentType]
    unknown = sorted(str(key) for key in data if key not in fields)
    if unknown:
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; known keys are {', '.join(fields)}")
    hints = get_type_hints(cls)
    values = {name: _convert(hints[name], value, f"{where}.{name}") for name, value in data.items()}
    try:
        return cls(**values)
    except TypeError as error:
        required = [
            name
            for name, field in fields.items()
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        ]
        missing = ", ".join(name for name in required if name not in values)
        raise ConfigError(f"{where}: required key missing: {missing or error}") from error
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def to_plain(config: Any) -> Any:
    """The inverse of `parse`: dictionaries, lists and scalars that `yaml.safe_dump` writes."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, (list, tuple)):
        return [to_plain(item) for item in config]
    if isinstance(config, dict):
        return {str(key): to_plain(value) for key, value in config.items()}
    return config


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(get_args(hint), value, where)
    if origin is Literal:
        if value in get_args(hint) and type(value) in {type(choice) for choice in get_args(hint)}:
            return value
        raise ConfigError(f"{where}: must be one of {', '.join(map(repr, get_args(hint)))}, got {value!r}")
    if origin is tuple:
        return _convert_tuple(get_args(hint), value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected a mapping, got {value!r}")
        return {key: _convert(get_args(hint)[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return parse(hint, value, where)  # pyright: ignore[reportArgumentType]
    return _convert_scalar(hint, value, where)


def _convert_union(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in choices:
        return None
    for choice in choices:
        if choice is type(None):
            continue
        try:
            return _convert(choice, value, where)
        except ConfigError:
            if len([c for c in choices if c is not type(None)]) == 1:
                raise
    raise ConfigError(f"{where}: {value!r} fits none of {', '.join(map(str, choices))}")


def _convert_tuple(item_hints: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where}: expected a list, got {value!r}")
    if len(item_hints) == 2 and item_hints[1] is Ellipsis:
        item_hints = (item_hints[0],) * len(value)
    if len(item_hints) != len(value):
        raise ConfigError(f"{where}: expected {len(item_hints)} items, got {len(value)}")
    pairs = zip(item_hints, value, strict=True)
    return tuple(_convert(hint, item, f"{where}[{i}]") for i, (hint, item) in enumerate(pairs))


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and type(value) in (int, float):
        if not math.isfinite(value):
            raise ConfigError(f"{where}: must be finite, got {value!r}")
        return float(value)
    if hint in (bool, int, str) and type(value) is hint:
        return value
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 (no dot) as text
        raise ConfigError(f"{where}: expected a number, got the text {value!r}; write exponents with a dot, as 1.0e-3")
    raise ConfigError(f"{where}: expected {getattr(hint, '__name__', hint)}, got {value!r}")
