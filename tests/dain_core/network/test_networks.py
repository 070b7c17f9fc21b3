"""What configurations have in common: widths by name, and their form in JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dain_core.network.networks import (
    NETWORKS,
    Config,
    config_from_json,
    config_to_json,
    is_narrowed,
    kind_of,
    widths,
    with_widths,
)


@pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS)
def test_a_configuration_comes_back_from_json(config: Config) -> None:
    narrow = with_widths(config, {name: max(width - 16, 16) for name, width in widths(config).items()})
    assert config_from_json(config_to_json(narrow)) == narrow != config
    assert kind_of(narrow) == kind_of(config)


def test_a_configuration_of_an_earlier_version_has_defaults() -> None:
    assert config_from_json('{"network": "dain", "context_width": 48}') == with_widths(
        NETWORKS["dain"], {"context_width": 48}
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "names none of the networks"),
        ({"network": "rife"}, "names none of the networks"),
        ({"network": "dain", "spectacles": 2}, "unknown field spectacles"),
        ({"network": "dain", "context_width": 0}, "context_width cannot be 0"),
        ({"network": "dain", "context_width": True}, "context_width cannot be true"),
        ({"network": "dain", "kernel_widths": [16, 16]}, "kernel_widths cannot be"),
        ({"network": "dain", "flow_finest": 9}, "flow_finest cannot be 9: choose 2 to 6"),
        ({"network": "dain-refined", "base": {"flow_scale": "x"}}, 'flow_scale cannot be "x"'),
    ],
)
def test_a_configuration_that_is_none_is_refused(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_from_json(json.dumps(values))


def test_widths_have_names() -> None:
    config = with_widths(NETWORKS["dain-refined"], {"refine.2": 80, "base.flow_dense.0": 112})
    assert (config.refine, config.base.flow_dense) == ((48, 64, 80, 128, 128), (112, 128, 96, 64, 32))  # type: ignore[union-attr]
    assert widths(config) == {**widths(NETWORKS["dain-refined"]), "refine.2": 80, "base.flow_dense.0": 112}


def test_a_narrowed_network_is_known_as_such() -> None:
    narrow = with_widths(NETWORKS["dain"], {"rectify_width": 96})
    assert is_narrowed(narrow, NETWORKS["dain"]) and is_narrowed(NETWORKS["dain"], NETWORKS["dain"])
    assert not is_narrowed(NETWORKS["dain"], narrow)
    assert not is_narrowed(narrow, NETWORKS["dain-lite"])
    assert not is_narrowed(narrow, NETWORKS["dain-refined"])
    assert not is_narrowed(NETWORKS["dain-lite"], NETWORKS["dain"])  # it was no part of it


@pytest.mark.parametrize(
    "changes",
    [
        {"kernels": 2},
        {"residuals": (1, 2, 2, 3, 3)},
        {"base": {"flow_finest": 3}},
        {"base": {"depth_scale": 8}},
    ],
)
def test_a_network_with_fewer_parts_is_narrowed(changes: dict[str, Any]) -> None:
    small = config_from_json(json.dumps({"network": "dain-refined", **changes}))
    assert is_narrowed(small, NETWORKS["dain-refined"]) and not is_narrowed(NETWORKS["dain-refined"], small)
