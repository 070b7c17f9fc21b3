"""The settings of a training run: their checks and their JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from dain_core.network.model import ModelConfig
from dain_core.training.errors import TrainingError
from dain_core.training.precision import Precision

#: The parts of a model that can train, by the names of their attributes in `DAIN`.
PARTS = ("flow", "depth", "kernels", "context", "rectify")

#: The sides of a crop are multiples of this number, because the losses halve it four times.
CROP_MULTIPLE = 16

#: The learning rate of a layer is multiplied by this factor. The first layer of the rectification sums over thousands
#: of inputs, and its last layer starts near zero. At the full rate every ReLU between them dies within a few hundred
#: steps.
RATE_FACTORS = {"rectify.stem.": 0.15, "rectify.head.": 0.15}


@dataclass(frozen=True)
class TrainConfig:
    """The settings of one training run.

    Attributes:
        data: the sources of data, as `dain_core.training.data.open_source` takes them.
        out: the folder of the run.
        network: the widths of the model.
        init: the initial weights: a name of shipped weights, or a file. None gives random weights.
        reset: the parts that start from random weights in spite of `init`; see `dain_core.training.initialise`.
        parts: the parts that train. The other parts keep their weights.
        steps, minutes: the length of the run. The limit that is reached first ends it; see `progress`.
        batch: the triplets in a batch of one process.
        accumulate: the number of batches whose gradients are added up for one step.
        crop: the height and width of the triplets, multiples of `CROP_MULTIPLE`.
        precision: one of `dain_core.training.precision.LEVELS`.
        rate: the highest learning rate.
        rates: the highest learning rate by part, for parts that do not use `rate`.
        warm_up: the share of the run in which the learning rate rises, 0 to 1.
        weight_decay: the weight decay of AdamW.
        clip: the largest norm of the gradient of a part. Larger gradients are scaled down to it.
        ema: the share of the averaged weights that a step keeps, 0 to 1.
        weights: the weights of losses by name, for losses that do not use `dain_core.training.objective.WEIGHTS`.
        teacher: weights of `dain`, a name or a file, whose flow and depth are targets too. Without `init`, the layers
            of the flow that have the teacher's shapes start with the teacher's weights.
        tune: whether cuDNN searches for its fastest kernels. The run then starts up to a minute later, and its steps
            are slightly faster.
        seed: the seed of all random numbers.
        log_every, save_every: the number of steps between log lines and between checkpoints.
    """

    data: tuple[str, ...]
    out: str
    network: ModelConfig = field(default_factory=ModelConfig)
    init: str | None = "dain"
    reset: tuple[str, ...] = ()
    parts: tuple[str, ...] = ("flow", "kernels", "context", "rectify")
    steps: int | None = None
    minutes: float | None = None
    batch: int = 16
    accumulate: int = 1
    crop: tuple[int, int] = (256, 256)
    precision: str = "bf16"
    rate: float = 2e-4
    rates: Mapping[str, float] = field(default_factory=dict)
    warm_up: float = 0.05
    weight_decay: float = 1e-4
    clip: float = 0.3
    ema: float = 0.998
    weights: Mapping[str, float] = field(default_factory=dict)
    teacher: str | None = None
    tune: bool = True
    seed: int = 0
    log_every: int = 50
    save_every: int = 1000

    def __post_init__(self) -> None:
        """Check the settings; raise TrainingError if they are invalid."""
        checks = (
            (
                self.steps is None and self.minutes is None,
                "say how long to train: give steps, minutes or both",
            ),
            (not self.data, "there is nothing to learn from: name at least one source of data"),
            (not self.parts, f"no part is to train: choose from {', '.join(PARTS)}"),
            (
                any(side < CROP_MULTIPLE or side % CROP_MULTIPLE for side in self.crop),
                f"the crop {self.crop[0]}x{self.crop[1]} is invalid: its sides must be multiples of {CROP_MULTIPLE}",
            ),
            (
                min(self.batch, self.accumulate, self.log_every, self.save_every) < 1,
                "batch, accumulate, log_every and save_every must be 1 or more",
            ),
        )
        for wrong, message in checks:
            if wrong:
                raise TrainingError(message)
        unknown = [name for name in (*self.parts, *self.reset, *self.rates) if name not in PARTS]
        if unknown:
            raise TrainingError(f"the model has no part {unknown[0]!r}: its parts are {', '.join(PARTS)}")
        untaught = [name for name in self.parts if name not in ("flow", "depth")]
        if self.weights.get("frame") == 0 and untaught:
            raise TrainingError(
                f"{untaught[0]} can learn from the frame only: give the loss `frame` a weight above 0, or train flow "
                "or depth instead"
            )
        Precision.named(self.precision)

    def progress(self, step: int, seconds: float) -> float:
        """Return the share of the run that is done, 0 to 1, after `step` steps and `seconds` seconds.

        The learning rate depends on it. A run that is limited by steps alone has the same learning rates on every
        machine and after every resumption. A run that is limited by minutes does not.
        """
        by_steps = step / self.steps if self.steps is not None else 0.0
        by_time = seconds / (60 * self.minutes) if self.minutes is not None else 0.0
        return min(max(by_steps, by_time), 1.0)

    def rate_of(self, parameter: str) -> float:
        """Return the highest learning rate of the parameter with this name, such as ``flow.refine.0.0.weight``."""
        rate = self.rates.get(parameter.partition(".")[0], self.rate)
        for prefix, factor in RATE_FACTORS.items():
            if parameter.startswith(prefix):
                rate *= factor
        return rate

    def to_json(self) -> str:
        """Return the settings as a JSON object."""
        return json.dumps(asdict(self), indent=2)

    @staticmethod
    def from_json(text: str) -> TrainConfig:
        """Read what `to_json` wrote.

        Raises:
            ValueError, TypeError, KeyError: the text is not JSON, or not the settings of a run.
            TrainingError: the settings are invalid.
        """
        values = {key: _tuples(value) for key, value in json.loads(text).items()}
        network = ModelConfig(**values.pop("network"))
        names = {item.name for item in fields(TrainConfig)}
        if unknown := values.keys() - names:
            raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
        return TrainConfig(network=network, **values)


def _tuples(value: Any) -> Any:
    """Replace lists by tuples: JSON has no tuples, and the settings have no lists."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value
