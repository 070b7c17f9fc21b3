"""The table of all networks by name, and what their configurations have in common: widths, and a form in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any, TypeVar

from dain_core.network.model import CONFIGS, DAIN, ModelConfig
from dain_core.network.refined import RefinedConfig, RefinedDAIN

Config = ModelConfig | RefinedConfig
Network = DAIN | RefinedDAIN
AnyConfig = TypeVar("AnyConfig", bound=Config)

#: The configurations of all networks by name.
NETWORKS: Mapping[str, Config] = {**CONFIGS, "dain-refined": RefinedConfig()}

#: The kinds of networks, by the name of the network that has the default widths.
_KINDS: Mapping[str, type[Config]] = {"dain": ModelConfig, "dain-refined": RefinedConfig}

#: The fields of configurations that are numbers of channels: those of `ModelConfig`, then those of `RefinedConfig`.
_WIDTHS = frozenset({
    "flow_pyramid", "flow_dense", "flow_dense_fine", "flow_refine", "depth_stem", "depth_widths", "depth_narrow",
    "depth_wide", "context_width", "kernel_widths", "rectify_width", "context", "refine", "rectify",
})  # fmt: skip

#: The fields of configurations that make a network smaller when they grow.
_SHRINKING = frozenset({"flow_finest", "flow_scale", "depth_scale", "matched"})


def config_named(name: str) -> Config:
    """Return the configuration of the network called `name`.

    Raises:
        ValueError: there is no such network; the message lists the names.
    """
    if name not in NETWORKS:
        raise ValueError(f"no model is called {name!r}: choose one of {', '.join(NETWORKS)}")
    return NETWORKS[name]


def kind_of(config: Config) -> str:
    """Return the name of the network that has the same structure as `config` and the default widths."""
    return next(name for name, kind in _KINDS.items() if isinstance(config, kind))


def build(config: Config) -> Network:
    """Make the network of a configuration, with untrained weights."""
    return RefinedDAIN(config) if isinstance(config, RefinedConfig) else DAIN(config)


def widths(config: Config) -> dict[str, int]:
    """Return the numbers of channels of a configuration by name, such as "rectify_width" or "base.flow_dense.2"."""
    found: dict[str, int] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            found |= {f"{field.name}.{name}": width for name, width in widths(value).items()}  # type: ignore[arg-type]
        elif field.name in _WIDTHS and isinstance(value, tuple):
            found |= {f"{field.name}.{index}": width for index, width in enumerate(value)}
        elif field.name in _WIDTHS:
            found[field.name] = value
    return found


def with_widths(config: AnyConfig, new: Mapping[str, int]) -> AnyConfig:
    """Return the configuration with other numbers of channels, given by the names of `widths`."""
    changed: dict[str, Any] = {}
    for field in fields(config):
        value, name = getattr(config, field.name), field.name
        if is_dataclass(value):
            inner = {
                key.removeprefix(f"{name}."): width
                for key, width in new.items()
                if key.startswith(f"{name}.")
            }
            changed[name] = with_widths(value, inner)  # type: ignore[type-var]
        elif isinstance(value, tuple):
            changed[name] = tuple(new.get(f"{name}.{index}", width) for index, width in enumerate(value))
        elif name in new:
            changed[name] = new[name]
    return replace(config, **changed)


def is_narrowed(config: Config, wide: Config) -> bool:
    """Return whether `config` is `wide`, or becomes it when channels, blocks, kernels of warps or small maps grow."""
    return type(config) is type(wide) and all(
        _is_no_larger(field.name, getattr(config, field.name), getattr(wide, field.name))
        for field in fields(wide)
    )


def _is_no_larger(name: str, ours: Any, theirs: Any) -> bool:
    """Whether a field of a configuration stands for no more than that of another one."""
    if is_dataclass(ours):
        return is_narrowed(ours, theirs)  # type: ignore[arg-type]
    if isinstance(ours, tuple):
        return len(ours) == len(theirs) and all(one <= other for one, other in zip(ours, theirs, strict=True))
    if name == "rectify_kernel":  # it tells `dain-lite` from what is left of `dain`
        return bool(ours == theirs)
    return bool(ours >= theirs if name in _SHRINKING else ours <= theirs)


def config_to_json(config: Config) -> str:
    """Return a configuration as a JSON object."""
    return json.dumps({"network": kind_of(config), **asdict(config)})


def config_from_json(text: str) -> Config:
    """Read what `config_to_json` wrote.

    Raises:
        ValueError: the text is no configuration that this version knows.
    """
    values = json.loads(text)
    if not isinstance(values, dict) or values.get("network") not in _KINDS:
        raise ValueError(f"it names none of the networks {', '.join(_KINDS)}")
    kind = _KINDS[values.pop("network")]
    read: Config = _read(kind(), values, "the configuration")
    return read


def _read(default: Any, value: Any, name: str) -> Any:
    """Return `value` in the form of `default`: a dataclass, a tuple of numbers or a number, all of them above 0."""
    if is_dataclass(default) and isinstance(value, dict):
        known = {field.name: getattr(default, field.name) for field in fields(default)}
        if unknown := value.keys() - known.keys():
            raise ValueError(f"{name} has the unknown field {min(unknown)}")
        return replace(default, **{key: _read(known[key], part, key) for key, part in value.items()})  # type: ignore[type-var]
    if isinstance(default, tuple) and isinstance(value, list) and len(value) == len(default):
        return tuple(_read(was, part, name) for was, part in zip(default, value, strict=True))
    if isinstance(default, int) and type(value) is int and 0 < value <= 2**16:
        return value
    raise ValueError(f"{name} cannot be {json.dumps(value)[:80]}")
