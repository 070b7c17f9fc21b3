"""Training, from top to bottom."""

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

#: Gives a process its data, on its device: others than every other process's.
OpenSource = Callable[[TrainConfig, Ranks], Source]

#: Steps between two looks at the clock and for signals, which all processes take together.
_AGREE_EVERY = 10

#: Whether a step's gradients were finite is looked up so many steps later: the device has more to do meanwhile.
_LOOK_BACK = 2

#: So many steps in a row may be left out while the scale of the loss adapts.
_SKIPS = 20

#: Samples that a part without weights is initialised by.
_INITIAL_SAMPLES = 8

_GIB = 2**30


def train(
    config: TrainConfig, open_source: OpenSource, *, resume: bool = False, device: str = "auto"
) -> dict[str, float]:
    """Train until the run's end, or until SIGTERM or SIGINT; then the run's folder has all that came of it.

    A run measured in steps that is stopped or killed, and resumed from its last checkpoint, makes the same steps as one
    that is not: on a CPU to the last bit. With several processes (see `joined`) each takes batches of its own, and
    all their gradients make a step; figures are those of all.

    Args:
        config: with `resume`, the end, and what is logged and saved when, may differ from those before.
        open_source: gives the data.
        resume: go on from the folder's checkpoint.
        device: see `joined`.

    Returns:
        The last line of the log.

    Raises:
        TrainingError, TrainingDataError, WeightsError: with what to do.
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
            if len(state["sources"]) == ranks.count:  # else they start anew
                source.load_state_dict(state["sources"][ranks.index])
            if ranks.first:
                run.keep_config(config)
                run.rewind_log(trainer.steps)
        return _loop(config, ranks, run, source, trainer, seconds)


def prepare(config: TrainConfig, ranks: Ranks, source: Source, *, fresh: bool) -> Trainer:
    """The network, on its device, and all that trains it; a fresh one with the weights it starts with."""
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
        ranks.share((0.0,))  # no process is done before the first has written
    return entry


class Figures:
    """The means of what a run watches, since they were last read, in all its processes."""

    def __init__(self, ranks: Ranks, samples: int) -> None:
        """`samples`: how many a process takes in a step."""
        self._ranks = ranks
        self._samples = samples
        self._names: list[str] = []
        self._forget()

    def _forget(self) -> None:
        self._sums: Tensor | None = None
        self._steps = 0
        self._since = time.monotonic()

    def add(self, watched: Mapping[str, Tensor]) -> Tensor:
        """Take a step's figures, each its sum and the count of what it sums; returns whether all are finite, on the
        device. What is not does not count."""
        figures = torch.stack(list(watched.values()))
        finite = figures.isfinite().all(1)
        figures = torch.where(finite[:, None], figures, 0)
        self._names = list(watched)
        self._sums = figures if self._sums is None else self._sums + figures
        self._steps += 1
        return finite.all()

    def read(self) -> dict[str, float]:
        """The means by name, samples a second, and the peak of the device's memory in GiB. Waits for the device."""
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
    """Finds a step whose numbers were not finite some steps later, so that the device never idles while the host waits.

    Attributes:
        skipped: how many steps did not count.
    """

    def __init__(self, trainer: Trainer, allowed: int) -> None:
        """`allowed`: how many such steps in a row are no error."""
        self._trainer = trainer
        self._allowed = allowed
        self._in_a_row = 0
        self._pending: deque[tuple[Tensor, torch.cuda.Event | None, list[Batch], float, int]] = deque()
        self.skipped = 0

    def add(self, finite: Tensor, batches: list[Batch], progress: float) -> None:
        """Remember a step; raises NonFiniteError for an earlier one."""
        copy, event = finite.to("cpu", non_blocking=True), None
        if finite.is_cuda:
            event = torch.cuda.Event(blocking=True)
            event.record()
        self._pending.append((copy, event, batches, progress, self._trainer.steps))
        self.look(_LOOK_BACK)

    def look(self, keep: int) -> None:
        """Look at all steps but the last `keep`."""
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
    """Set by the first SIGTERM or SIGINT; the second does what it always does."""
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
