"""What the commands' help names is what there is."""

from __future__ import annotations

import pytest

from dain_core import choices
from dain_core.compression import calibrate, importance
from dain_core.export import engines, graphs, write
from dain_core.network import model, networks
from dain_core.training import cli, config, objective, precision
from dain_core.weights import files


def test_choices_are_those_of_their_owners() -> None:
    assert list(choices.MODELS) == list(networks.NETWORKS) == list(files.SHIPPED)
    assert list(choices.TRAINED) == list(model.CONFIGS)
    assert choices.LAYOUTS == files.FORMATS
    assert choices.IMPORTANCES == importance.MEASURES
    assert list(choices.CALIBRATIONS) == list(calibrate.METHODS)
    assert list(choices.EXPORT_FORMS) == list(graphs.FORMS)
    assert list(choices.EXPORT_PRECISIONS) == list(write.PRECISIONS)
    assert list(choices.ENGINE_PRECISIONS) == list(engines.PRECISIONS)
    assert list(choices.LEVELS) == list(precision.LEVELS)


def test_settings_of_a_run_are_those_of_training() -> None:
    assert cli.PARTS == config.PARTS and cli.CROP_MULTIPLE == config.CROP_MULTIPLE
    assert tuple(objective.WEIGHTS) == cli.LOSSES


@pytest.mark.parametrize("name", cli.DEFAULTS)
def test_defaults_of_a_run_are_those_of_its_settings(name: str) -> None:
    assert cli.DEFAULTS[name] == getattr(config.TrainConfig, name)
