"""A training run from its start to its end: data, steps, log, checkpoints."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from dain_core.network.model import DAIN, ModelConfig
from dain_core.training.batch import Batch, Source
from dain_core.training.checkpoints import Run
from dain_core.training.config import PARTS, TrainConfig
from dain_core.training.frozen import Teacher
from dain_core.training.initialise import inherit, initialise
from dain_core.training.precision import Precision
from dain_core.training.ranks import Ranks, joined
from dain_core.training.reports import Reports
from dain_core.training.trainer import Trainer, rate_factor
from dain_core.weights.files import load_weights

#: Opens the data of one process, on its device. Every process of a run gets other data.
OpenSource = Callable[[TrainConfig, Ranks], Source]

#: The number of steps after which all processes agree on the time and on whether a signal asked them to stop.
_AGREE_EVERY = 10

#: The number of steps after which the host looks whether the gradients of a step were finite. The device meanwhile has
#: steps to work on.
_LOOK_BACK = 2

#: The number of steps in a row that may be skipped while the scale of the loss adapts.
_SKIPS = 20

#: The number of triplets by which a part without weights is initialised.
_INITIAL_SAMPLES = 8

_GIB = 2**30


def train(
    config: TrainConfig, open_source: OpenSource, *, resume: bool = False, device: str = "auto"
) -> dict[str, float]:
    """Train until the run's end or until SIGTERM or SIGINT, and save the results in the run's folder.

    A run that is limited by steps makes the same steps whether it is resumed from a checkpoint or never stopped; on a
    CPU they agree to the last bit. With several processes (see `joined`) each process takes its own batches, a step
    uses the gradients of all of them, and the log's figures are means over all of them.

    Args:
        config: the settings. With `resume`, `steps`, `minutes`, `log_every` and `save_every` may differ from those of
            the run so far.
        open_source: opens the data.
        resume: whether to continue from the checkpoint in the folder.
        device: see `joined`.

    Returns:
        The last entry of the log; empty if there is none.

    Raises:
        TrainingError: the run cannot start or continue.
        TrainingDataError: the data cannot be used.
        WeightsError: the initial weights or the teacher's weights cannot be used.
        DeviceError: the device does not exist.
    """
    with joined(device) as ranks:
        torch.backends.cudnn.benchmark = config.tune
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = config.precision != "fp32"
        torch.manual_seed(config.seed)
        run = Run(Path(config.out))
        state = run.load(config.network) if resume else None
        if ranks.first and state is None:
            run.start(config)
        source = open_source(config, ranks)
        trainer = prepare(config, ranks, source, fresh=state is None)
        seconds = 0.0
        if state is not None:
            trainer.load_state_dict(state["trainer"])
            seconds = state["seconds"]
            if (
                len(state["sources"]) == ranks.count
            ):  # with another number of processes the sources start anew
                source.load_state_dict(state["sources"][ranks.index])
            if ranks.first:
                run.keep_config(config)
                run.rewind_log(trainer.steps)
        return _loop(config, ranks, run, source, trainer, seconds)


def prepare(config: TrainConfig, ranks: Ranks, source: Source, *, fresh: bool) -> Trainer:
    """Make the network on its device, and its trainer.

    Args:
        config: the settings of the run.
        ranks: this process among all of the run.
        source: the data, a few of which initialise the parts without weights.
        fresh: whether to load or make the initial weights. A run that resumes takes its weights from the checkpoint.
    """
    model = DAIN(config.network)
    if fresh and config.init is not None:
        model.load_state_dict(load_weights(config.init, config.network))
    model.to(ranks.device)
    unmade = config.reset if config.init is not None else PARTS
    kept: frozenset[nn.Module] = frozenset()
    teacher = None
    if config.teacher is not None:
        trained = DAIN(ModelConfig())
        trained.load_state_dict(load_weights(config.teacher, trained.config))
        if config.init is None:
            kept = inherit(model.flow, dict(trained.flow.named_parameters()))
        teacher = Teacher(trained.to(ranks.device), Precision.named(config.precision).dtype)
    if fresh and unmade:
        initialise(model, unmade, source.sample(_INITIAL_SAMPLES), kept)
    return Trainer(model, config, ranks, teacher=teacher, fresh_depth="depth" in unmade)


def _loop(
    config: TrainConfig, ranks: Ranks, run: Run, source: Source, trainer: Trainer, seconds: float
) -> dict[str, float]:
    reports = Reports(run) if ranks.first else None
    late = LateCheck(trainer, _SKIPS if trainer.precision.scaled else 0)
    figures = Figures(ranks, config.batch * config.accumulate)
    started, stopped = time.monotonic() - seconds, 0.0
    batches: list[Batch] = []
    entry: dict[str, float] = {}

    def save() -> None:
        late.look(0)
        sources = ranks.gather(source.state_dict())
        if reports is not None:
            run.save(
                {"trainer": trainer.state_dict(), "seconds": seconds, "sources": sources}, config.network
            )
            run.export(trainer.averaged())
            reports.show(trainer.steps, trainer.model, batches[0], trainer.precision)

    with _stop_signals() as stop:
        while True:
            if ranks.count == 1 or trainer.steps % _AGREE_EVERY == 0:
                seconds, stopped = ranks.share((time.monotonic() - started, float(stop.is_set())))
            progress = config.progress(trainer.steps, seconds)
            if stopped or progress == 1:
                break
            batches = [source.sample(config.batch) for _ in range(config.accumulate)]
            watched = trainer.step(batches, progress)
            late.add(figures.add(watched), batches, progress)
            if trainer.steps % config.log_every == 0:
                entry = {
                    "step": trainer.steps,
                    "seconds": seconds,
                    "progress": progress,
                    "rate": config.rate * rate_factor(progress, config.warm_up),
                    "skipped": late.skipped,
                    **figures.read(),
                }
                if reports is not None:
                    reports.add(entry)
            if trainer.steps % config.save_every == 0:
                save()
        if batches and trainer.steps % config.save_every:
            save()
        ranks.share((0.0,))  # no process ends before the first process has written its files
    return entry


class Figures:
    """Means of the watched figures of all processes, since they were last read.

    Args:
        ranks: this process among all of the run.
        samples: the number of triplets that one process takes in a step.
    """

    def __init__(self, ranks: Ranks, samples: int) -> None:
        self._ranks = ranks
        self._samples = samples
        self._names: list[str] = []
        self._forget()

    def _forget(self) -> None:
        self._sums: Tensor | None = None
        self._steps = 0
        self._since = time.monotonic()

    def add(self, watched: Mapping[str, Tensor]) -> Tensor:
        """Add the figures of a step. A figure that is not finite is left out.

        Args:
            watched: by name, the sum over the triplets and their number, (2,).

        Returns:
            Whether all figures are finite: a boolean scalar on the device.
        """
        figures = torch.stack(list(watched.values()))
        finite = figures.isfinite().all(1)
        figures = torch.where(finite[:, None], figures, 0)
        self._names = list(watched)
        self._sums = figures if self._sums is None else self._sums + figures
        self._steps += 1
        return finite.all()

    def read(self) -> dict[str, float]:
        """Return the means by name, the triplets a second and the peak memory of the GPU in GiB, and start anew.

        This call waits for the device.
        """
        assert self._sums is not None
        sums = self._ranks.sum(self._sums).tolist()
        means = {name: sum / count for name, (sum, count) in zip(self._names, sums, strict=True) if count}
        samples = self._steps * self._samples * self._ranks.count
        means["samples_per_second"] = samples / (time.monotonic() - self._since)
        if self._sums.is_cuda:
            means["peak_gib"] = torch.cuda.max_memory_allocated() / _GIB
        self._forget()
        return means


class LateCheck:
    """Looks some steps later whether the figures of a step were finite, so that the device never waits for the host.

    Args:
        trainer: explains a step that was not finite.
        allowed: the number of such steps in a row that are no error.

    Attributes:
        skipped: the number of steps that were not finite so far.
    """

    def __init__(self, trainer: Trainer, allowed: int) -> None:
        self._trainer = trainer
        self._allowed = allowed
        self._in_a_row = 0
        self._pending: deque[tuple[Tensor, torch.cuda.Event | None, list[Batch], float, int]] = deque()
        self.skipped = 0

    def add(self, finite: Tensor, batches: list[Batch], progress: float) -> None:
        """Remember a step, and look at an earlier one.

        Raises:
            NonFiniteError: too many steps in a row were not finite.
        """
        copy, event = finite.to("cpu", non_blocking=True), None
        if finite.is_cuda:
            event = torch.cuda.Event(blocking=True)
            event.record()
        self._pending.append((copy, event, batches, progress, self._trainer.steps))
        self.look(_LOOK_BACK)

    def look(self, keep: int) -> None:
        """Look at all remembered steps except the last `keep`; raise NonFiniteError as `add` does."""
        while len(self._pending) > keep:
            finite, event, batches, progress, step = self._pending.popleft()
            if event is not None:
                event.synchronize()
            if finite:
                self._in_a_row = 0
                continue
            self.skipped += 1
            self._in_a_row += 1
            if self._in_a_row > self._allowed:
                self._trainer.explain(batches, progress, step)


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Give an event that the first SIGTERM or SIGINT sets. The second signal has its usual effect."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def on_signal(number: int, frame: object) -> None:
        stop.set()
        restore()

    for number in handlers:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        restore()
