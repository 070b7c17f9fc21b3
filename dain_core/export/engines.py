"""Builds TensorRT engines of a model's three stages, by TensorRT or TensorRT-RTX, and gives them other weights.

A network is strongly typed: its precision is that of the ONNX files that engines are built from. TensorRT's calls are
those that both packages document for Python (TensorRT 10.13 to 11.4, TensorRT-RTX 1.7).
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dain_core.export.errors import ExportError
from dain_core.export.graphs import input_shapes
from dain_core.export.quantise import FLOAT8, SYMMETRIC
from dain_core.export.write import Precision, compare, padding, real_pair, run, write_graphs
from dain_core.weights.registry import Entry

#: The precisions of engines. The layers that int8 leaves as they are have half precision. Those of fp8 have float32,
#: because ONNX Runtime's calibration for float8 fails on tensors of half precision.
PRECISIONS = {
    "fp32": Precision(torch.float32, 60.0),
    "fp16": Precision(torch.float16, 45.0),
    "int8": Precision(torch.float16, 35.0, SYMMETRIC),
    "fp8": Precision(torch.float32, 35.0, FLOAT8),
}
#: TensorRT-RTX has no operator that adds what several pixels give to one, as the projection of flow does.
_NOT_FOR_RTX = "synthesis"
_RECORD = "engines.json"

Size = tuple[int, int]  # width and height
Step = Callable[[str], object]


@dataclass(frozen=True)
class Toolkit:
    """The package that builds engines.

    Attributes:
        name: "TensorRT" or "TensorRT-RTX".
        version: of it.
        api: its module.
        gpu: what engines are built for: the GPU here, or, by TensorRT-RTX, a compute capability such as "8.9".
        device: where engines of that GPU can be run, if they can be here.
    """

    name: str
    version: str
    api: Any
    gpu: str
    device: torch.device | None

    @classmethod
    def installed(cls, compute_capability: str | None) -> Toolkit:
        """Return the package that there is; raise ExportError if there is none, or no GPU that it wants."""
        for module, name in (("tensorrt", "TensorRT"), ("tensorrt_rtx_bindings", "TensorRT-RTX")):
            try:
                api = importlib.import_module(module)
            except ImportError:
                continue
            return cls(name, api.__version__, api, *_gpu(name, compute_capability))
        raise ExportError(
            "engines need the package tensorrt, or tensorrt-rtx-cu13-bindings with tensorrt-rtx-cu13-libs: install "
            "one of them, or write the model for other programs with `dain export onnx`"
        )

    @property
    def is_rtx(self) -> bool:
        return self.name == "TensorRT-RTX"


def _gpu(name: str, compute_capability: str | None) -> tuple[str, torch.device | None]:
    if compute_capability:
        if name == "TensorRT":
            raise ExportError(
                "TensorRT builds engines for the GPU that it runs on: leave --compute-capability away, or use "
                "TensorRT-RTX"
            )
        return compute_capability, None
    if not torch.cuda.is_available():
        raise ExportError(
            f"{name} finds no GPU here to build engines for: build them on the machine that will run them"
            + (", or name the GPU's --compute-capability, such as 8.9" if name == "TensorRT-RTX" else "")
        )
    return torch.cuda.get_device_name(), torch.device("cuda")


@dataclass(frozen=True)
class Order:
    """What engines are to be.

    Attributes:
        precision: one of `PRECISIONS`.
        least, usual, most: sizes of frames.
        workspace: the bytes that a layer may use beside its tensors.
        refittable: whether engines can be given other weights.
    """

    precision: str
    least: Size
    usual: Size
    most: Size
    workspace: int
    refittable: bool = False

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Order:
        """Return the order that `engines.json` holds."""
        sizes = {name: tuple(record[name]) for name in ("least", "usual", "most")}
        return cls(**{**record, **sizes})

    def check(self, multiple: int) -> None:
        """Raise ExportError for sizes that engines cannot have."""
        for width, height in (self.least, self.usual, self.most):
            if width % multiple or height % multiple:
                better = "x".join(str(-(-side // multiple) * multiple) for side in (width, height))
                raise ExportError(
                    f"engines take frames whose sides are multiples of {multiple}, which {width}x{height} is not: "
                    f"choose {better}, and repeat the border of frames up to that"
                )
        for axis in (0, 1):
            if not self.least[axis] <= self.usual[axis] <= self.most[axis]:
                raise ExportError("no side may be larger in --least than in --usual, or there than in --most")


def build(
    entry: Entry,
    out: Path,
    order: Order,
    *,
    timing_cache: Path | None = None,
    calibration: Path | None = None,
    compute_capability: str | None = None,
    say: Step = lambda sentence: None,
) -> float | None:
    """Build the engines of a model in the folder `out`; do nothing if they are there.

    Args:
        entry: the model.
        out: is replaced, but only by engines that are complete, and right where they can be run.
        order: what engines are to be.
        timing_cache: a file with what TensorRT measured before; what it measures now is added. TensorRT-RTX has none.
        calibration: a video or a folder of videos or frames, which eight bits are calibrated with.
        compute_capability: of the GPU, for TensorRT-RTX; None is the GPU here.
        say: is told what is done.

    Returns:
        The PSNR in dB of a frame of a real pair against the network's in float32; None if engines cannot be run here,
        or TensorRT-RTX left a stage to ONNX Runtime.

    Raises:
        ExportError: there is no TensorRT, or it does not build them, or their frame is not the network's.
        WeightsError: the weights cannot be read.
        OSError: the place cannot be written to.
    """
    order.check(entry.config.multiple)
    toolkit = Toolkit.installed(compute_capability)
    record = _record(entry, order, toolkit)
    _check_place(out)
    if _read_record(out) == record:
        say(f"{out} has these engines already")
        return None
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as place:
        made = Path(place) / "made"
        made.mkdir()
        files = _graphs(entry, made, order, calibration)
        fidelity = _verify(entry, lambda *given: run(files, *given), order)
        say(f"ONNX in {order.precision}: {fidelity:.1f} dB from the network on a real pair")
        shapes = [input_shapes(entry.config, "stages", height, width) for width, height in _sizes(order)]
        for stage, path in files.items():
            if toolkit.is_rtx and stage == _NOT_FOR_RTX:
                say(f"{stage} stays {path.name}, for ONNX Runtime: TensorRT-RTX has not all of its operators")
                continue
            plan = _build(toolkit, path, [each[stage] for each in shapes], order, timing_cache)
            path.with_suffix(".engine").write_bytes(plan)
            path.unlink()
            say(f"{stage}.engine: {len(plan) / 1e6:.1f} MB")
        (made / _RECORD).write_text(json.dumps(record, indent=2))
        of_engines = None
        if toolkit.device and not toolkit.is_rtx:
            engines = Engines(toolkit, made)
            of_engines = _verify(entry, engines.make, order)
        if out.is_dir():
            os.replace(out, Path(place) / "old")
        os.replace(made, out)
    return of_engines


def refit(
    entry: Entry, out: Path, *, calibration: Path | None = None, say: Step = lambda sentence: None
) -> None:
    """Give the engines in the folder `out` the weights that a model has now.

    Raises:
        ExportError: the engines are another GPU's or version's, another model's, or were not built for that.
    """
    record = _read_record(out)
    if record is None:
        raise ExportError(f"{out} has no engines: build them without --refit")
    toolkit = Toolkit.installed(None)
    for name, here in (("toolkit", f"{toolkit.name} {toolkit.version}"), ("gpu", toolkit.gpu)):
        if record[name] != here:
            raise ExportError(
                f"the engines in {out} are of {record[name]}, and here is {here}: engines run nowhere else. Build "
                "them again, without --refit"
            )
    order = Order.read(record["order"])
    if record["network"] != entry.network or not order.refittable:
        raise ExportError(
            f"the engines in {out} cannot take the weights of {entry.name}: "
            + (
                "they were built without --refittable"
                if not order.refittable
                else f"they are of {record['model']}"
            )
        )
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as place:
        made = Path(place) / "made"
        made.mkdir()
        files = _graphs(entry, made, order, calibration)
        trt, logger = toolkit.api, _logger(toolkit)
        runtime = trt.Runtime(logger)
        for stage, path in files.items():
            engine = runtime.deserialize_cuda_engine((out / f"{stage}.engine").read_bytes())
            refitter = trt.Refitter(engine, logger)
            if not trt.OnnxParserRefitter(refitter, logger).refit_from_file(str(path)) or not (
                refitter.refit_cuda_engine()
            ):
                raise ExportError(
                    f"{toolkit.name} did not take the new weights of {stage}: build the engines again"
                )
            (made / f"{stage}.engine").write_bytes(bytes(engine.serialize()))
            path.unlink()
            say(f"{stage}.engine has the weights of {entry.name}")
        (made / _RECORD).write_text(json.dumps(_record(entry, order, toolkit), indent=2))
        if toolkit.device:
            _verify(entry, Engines(toolkit, made).make, order)
        os.replace(out, Path(place) / "old")
        os.replace(made, out)


class Engines:
    """The engines of a folder, to be run on the GPU that they are of."""

    def __init__(self, toolkit: Toolkit, folder: Path) -> None:
        assert toolkit.device
        self._trt, self._device = toolkit.api, toolkit.device
        self._runtime = toolkit.api.Runtime(_logger(toolkit))
        self._engines = {}
        for path in folder.glob("*.engine"):
            engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
            if engine is None:
                raise ExportError(f"{toolkit.name} cannot load the engine that it built, {path.name}")
            self._engines[path.stem] = engine

    def make(self, first: Tensor, second: Tensor, time: Tensor) -> Tensor:
        """Return the frame at a time between two frames, (1, 3, H, W)."""
        known = {"time": time}
        for which, image in (("first", first), ("second", second)):
            features = {"image": image, **self._run("features", {"image": image})}
            known |= {f"{which}.{name}": tensor for name, tensor in features.items()}
        known |= self._run("motion", known)
        return self._run("synthesis", known)["frame"].cpu()

    def _run(self, stage: str, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        trt, engine = self._trt, self._engines[stage]
        context = engine.create_execution_context()
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        given, made = {}, {}
        for name in names:
            if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                given[name] = known[name].to(self._device).contiguous()
                context.set_input_shape(name, tuple(given[name].shape))
        for name in names:
            if name not in given:
                kind = getattr(torch, trt.nptype(engine.get_tensor_dtype(name)).__name__)
                made[name] = torch.empty(
                    tuple(context.get_tensor_shape(name)), dtype=kind, device=self._device
                )
            context.set_tensor_address(name, (given | made)[name].data_ptr())
        stream = torch.cuda.current_stream().cuda_stream if self._device.type == "cuda" else 0
        if not context.execute_async_v3(stream):
            raise ExportError(f"the engine of {stage} did not run")
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return made


def _build(
    toolkit: Toolkit,
    path: Path,
    shapes: list[dict[str, tuple[int, ...]]],
    order: Order,
    timing_cache: Path | None,
) -> bytes:
    """Return the engine of a graph as bytes.

    Args:
        shapes: of its inputs at the least, the usual and the largest size.
    """
    trt, logger = toolkit.api, _logger(toolkit)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        said = "; ".join(str(parser.get_error(index).desc()) for index in range(parser.num_errors))
        raise ExportError(f"{toolkit.name} {toolkit.version} does not take {path.stem}: {said}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, order.workspace)
    if order.refittable:
        config.set_flag(trt.BuilderFlag.REFIT)
    if toolkit.is_rtx and toolkit.device is None:
        _aim(toolkit, config)
    profile = builder.create_optimization_profile()
    for name in (network.get_input(index).name for index in range(network.num_inputs)):
        profile.set_shape(name, *(each[name] for each in shapes))
    config.add_optimization_profile(profile)
    if timing_cache and not toolkit.is_rtx:
        known = timing_cache.read_bytes() if timing_cache.exists() else b""
        if not config.set_timing_cache(config.create_timing_cache(known), False):
            raise ExportError(
                f"the timing cache {timing_cache} is of another GPU or another TensorRT: name another file"
            )
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(
            f"{toolkit.name} {toolkit.version} did not build {path.stem}; what it said is above. Sizes that are nearer "
            "to each other, or more --workspace, may help"
        )
    if timing_cache and not toolkit.is_rtx:
        beside = timing_cache.with_name(f".{timing_cache.name}.new")
        beside.write_bytes(bytes(config.get_timing_cache().serialize()))
        beside.replace(timing_cache)
    return bytes(plan)


def _aim(toolkit: Toolkit, config: Any) -> None:
    """Have TensorRT-RTX build for a compute capability that the GPU here need not have."""
    known = toolkit.api.ComputeCapability.__members__
    name = f"SM{toolkit.gpu.replace('.', '')}"
    if name not in known:
        there = ", ".join(f"{each[2:-1]}.{each[-1]}" for each in known if each.startswith("SM"))
        raise ExportError(
            f"TensorRT-RTX {toolkit.version} has no compute capability {toolkit.gpu}: it has {there}"
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(known[name], 0)


def _logger(toolkit: Toolkit) -> Any:
    """Return a logger that shows what goes wrong; its plug-ins, one of which adds up the projection, are loaded."""
    logger = toolkit.api.Logger(toolkit.api.Logger.ERROR)
    if not toolkit.is_rtx:
        toolkit.api.init_libnvinfer_plugins(logger, "")
    return logger


def _sizes(order: Order) -> tuple[Size, Size, Size]:
    return order.least, order.usual, order.most


def _graphs(entry: Entry, folder: Path, order: Order, calibration: Path | None) -> dict[str, Path]:
    example = _frames(entry, order)
    return write_graphs(
        entry, folder, order.precision, PRECISIONS[order.precision], "stages", example, calibration
    )


def _frames(entry: Entry, order: Order) -> tuple[Tensor, Tensor]:
    """Return the real pair in the size nearest to its own that engines take."""
    first, second = real_pair()
    border = padding(first, entry)
    return border.add(first), border.add(second)


def _verify(entry: Entry, make: Callable[[Tensor, Tensor, Tensor], Tensor], order: Order) -> float:
    first, second = _frames(entry, order)
    fidelity = compare(entry, lambda time: make(first, second, time), first, second)
    least = PRECISIONS[order.precision].least
    if not fidelity >= least:
        raise ExportError(
            f"the engines make other frames than {entry.name}: {fidelity:.1f} dB on a real pair, where "
            f"{order.precision} should reach {least:.0f} dB. Nothing was kept"
        )
    return fidelity


def _record(entry: Entry, order: Order, toolkit: Toolkit) -> dict[str, Any]:
    return {
        "model": entry.name,
        "network": entry.network,
        "weights": hashlib.sha256(entry.path.read_bytes()).hexdigest(),
        "toolkit": f"{toolkit.name} {toolkit.version}",
        "gpu": toolkit.gpu,
        "order": json.loads(json.dumps(asdict(order))),
    }


def _read_record(folder: Path) -> dict[str, Any] | None:
    path = folder / _RECORD
    if not path.is_file():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ExportError(
            f"{path} cannot be read: {error}. Remove {folder}, and build the engines again"
        ) from error
    return record


def _check_place(out: Path) -> None:
    if out.is_file():
        raise ExportError(f"{out} is a file: name a folder for the engines")
    if out.is_dir() and any(out.iterdir()) and _read_record(out) is None:
        raise ExportError(f"{out} holds other files: name a new folder for the engines")
