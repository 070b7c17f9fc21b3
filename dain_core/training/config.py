"""What a training run is: every setting, checked, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from dain_core.network.model import ModelConfig
from dain_core.training.errors import TrainingError
from dain_core.training.precision import Precision

#: The networks that can train, by the names they have in `DAIN`.
PARTS = ("flow", "depth", "kernels", "context", "rectify")

#: What a crop's sides must be multiples of: the losses halve it four times.
CROP_MULTIPLE = 16

#: What a layer's learning rate is multiplied with. The rectification's first layer sums over thousands of inputs and
#: its last starts near zero: at the rate of the rest every ReLU between them dies within a few hundred steps.
RATE_FACTORS = {"rectify.stem.": 0.15, "rectify.head.": 0.15}


@dataclass(frozen=True)
class TrainConfig:
    """One run of training.

    Attributes:
        data: what to learn from, as `dain_core.training.data.open_source` takes it.
        out: the run's folder.
        network: the widths of the model.
        init: weights to start from: the name of shipped ones or a file; None starts from nothing.
        reset: parts that start from nothing all the same; see `dain_core.training.initialise`.
        parts: those that train; the others stay as they are.
        steps, minutes: how long; the earlier end counts. See `progress`.
        batch: samples of each process and step.
        accumulate: batches whose gradients make one step.
        crop: height and width of the samples, multiples of `CROP_MULTIPLE`.
        precision: one of `dain_core.training.precision.LEVELS`.
        rate: the highest learning rate.
        rates: that of a part, where it is another.
        warm_up: the share of the run in which the rate rises.
        weight_decay: of AdamW.
        clip: the norm to which a part's gradient is cut.
        ema: how much of the averaged weights a step keeps.
        weights: of the losses, where they are others than `dain_core.training.objective.Objective`'s.
        teacher: weights of the official network to learn from as well; without `init`, the flow's layers of the same
            shape start as the teacher's.
        tune: cuDNN tries its kernels at first: a run starts up to a minute later, and its steps are a bit faster.
        seed: of everything random.
        log_every, save_every: steps between log lines, and between checkpoints.
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
        """Raises TrainingError on settings that cannot be."""
        checks = (
            (self.steps is None and self.minutes is None, "say how long to train: steps, minutes or both"),
            (not self.data, "there is nothing to learn from: name at least one source of data"),
            (not self.parts, f"no part trains: choose from {', '.join(PARTS)}"),
            (
                any(side < CROP_MULTIPLE or side % CROP_MULTIPLE for side in self.crop),
                f"the crop {self.crop[0]}x{self.crop[1]} does not fit: its sides must be multiples of {CROP_MULTIPLE}",
            ),
            (min(self.batch, self.accumulate, self.log_every, self.save_every) < 1, "counts are 1 or more"),
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
                f"{untaught[0]} learn from the frame alone: give its loss a weight, or train flow or depth"
            )
        Precision.named(self.precision)

    def progress(self, step: int, seconds: float) -> float:
        """The share of the run that is done, 0 to 1, after so many steps and seconds.

        The learning rate follows it. A run measured in steps alone goes through the same rates whatever the machine and
        however often it is stopped and resumed; one measured in minutes does not.
        """
        by_steps = step / self.steps if self.steps is not None else 0.0
        by_time = seconds / (60 * self.minutes) if self.minutes is not None else 0.0
        return min(max(by_steps, by_time), 1.0)

    def rate_of(self, parameter: str) -> float:
        """The highest learning rate of the parameter called so."""
        rate = self.rates.get(parameter.partition(".")[0], self.rate)
        for prefix, factor in RATE_FACTORS.items():
            if parameter.startswith(prefix):
                rate *= factor
        return rate

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    @staticmethod
    def from_json(text: str) -> TrainConfig:
        """The inverse of `to_json`; ValueError or TypeError if it is something else."""
        values = {key: _tuples(value) for key, value in json.loads(text).items()}
        network = ModelConfig(**values.pop("network"))
        names = {item.name for item in fields(TrainConfig)}
        if unknown := values.keys() - names:
            raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
        return TrainConfig(network=network, **values)


def _tuples(value: Any) -> Any:
    """JSON knows no tuples, our settings no lists."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value
