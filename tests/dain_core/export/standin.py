"""Stands in for the package tensorrt, which tests cannot have: the calls of its Python API that engines are built with.

Signatures, and what is refused, are those of its documentation (TensorRT 10.13 and 11.4). An engine is the ONNX file
that it was parsed from, run by ONNX Runtime; tensors lie in the CPU's memory.
"""

from __future__ import annotations

import ctypes
import enum
import pickle
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime

__version__ = "10.13.0"

#: What belongs to the GPU: engines and timing caches of another are refused.
GPU = "simulated"
#: Whether plug-ins are loaded, without which nothing adds by ScatterElements.
plugins = False


class Logger:
    INFO, WARNING, ERROR = 3, 2, 1

    def __init__(self, min_severity: int = WARNING) -> None:
        assert min_severity in (self.INFO, self.WARNING, self.ERROR)


def init_libnvinfer_plugins(logger: Logger, namespace: str) -> bool:
    global plugins
    assert isinstance(logger, Logger) and isinstance(namespace, str)
    plugins = True
    return True


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class BuilderFlag(enum.Enum):
    REFIT = 0


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1


def nptype(trt_type: DataType) -> type:
    return {DataType.FLOAT: np.float32, DataType.HALF: np.float16}[trt_type]


class IHostMemory(bytes):
    @property
    def nbytes(self) -> int:
        return len(self)


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        assert flags == 1 << int(NetworkDefinitionCreationFlag.STRONGLY_TYPED), (
            "precisions are those of the file"
        )
        self.model: bytes | None = None

    @cached_property
    def inputs(self) -> dict[str, list[int | str]]:
        return {each.name: each.shape for each in onnxruntime.InferenceSession(self.model).get_inputs()}

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_input(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(name=list(self.inputs)[index])


class _ParserError:
    def desc(self) -> str:
        return "no importer for the operator"


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: Logger) -> None:
        assert isinstance(network, INetworkDefinition) and isinstance(logger, Logger)
        self._network, self.num_errors = network, 0

    def parse_from_file(self, model: str) -> bool:
        assert isinstance(model, str), "a path as text"
        content = Path(model).read_bytes()
        if b"ScatterElements" in content and not plugins:
            self.num_errors = 1
            return False
        self._network.model = content
        return True

    def get_error(self, index: int) -> _ParserError:
        assert 0 <= index < self.num_errors
        return _ParserError()


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: tuple[int, ...], opt: tuple[int, ...], max: tuple[int, ...]) -> None:
        assert len(min) == len(opt) == len(max)
        assert all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True)), (input, min, opt, max)
        self.shapes[input] = (min, opt, max)


class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> IHostMemory:
        return IHostMemory(self.content)


class IBuilderConfig:
    def __init__(self) -> None:
        self.profiles: list[IOptimizationProfile] = []
        self.flags: set[BuilderFlag] = set()
        self.workspace = 0
        self._cache: ITimingCache | None = None

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        assert pool is MemoryPoolType.WORKSPACE and isinstance(pool_size, int) and pool_size > 0
        self.workspace = pool_size

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(BuilderFlag(flag))

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(bytes(serialized_timing_cache) or f"{GPU}:".encode())

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if not cache.content.startswith(f"{GPU}:".encode()) and not ignore_mismatch:
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache:
        assert self._cache
        return self._cache


class Builder:
    def __init__(self, logger: Logger) -> None:
        assert isinstance(logger, Logger)

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None:
        """Every input must be in the profile."""
        assert network.model
        [profile] = config.profiles
        assert set(profile.shapes) == set(network.inputs) and config.workspace
        if config._cache:
            config._cache.content += b"+"
        refittable = BuilderFlag.REFIT in config.flags
        return IHostMemory(pickle.dumps((GPU, network.model, profile.shapes, refittable)))


class ICudaEngine:
    def __init__(self, content: bytes) -> None:
        _, self.model, self.shapes, self.refittable = pickle.loads(content)
        self.session = onnxruntime.InferenceSession(self.model)
        self._inputs = [each.name for each in self.session.get_inputs()]
        self._names = [*self._inputs, *(each.name for each in self.session.get_outputs())]

    @property
    def num_io_tensors(self) -> int:
        return len(self._names)

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        each = next(x for x in (*self.session.get_inputs(), *self.session.get_outputs()) if x.name == name)
        return DataType.HALF if each.type == "tensor(float16)" else DataType.FLOAT

    def create_execution_context(self) -> IExecutionContext:
        return IExecutionContext(self)

    def serialize(self) -> IHostMemory:
        return IHostMemory(pickle.dumps((GPU, self.model, self.shapes, self.refittable)))


class IExecutionContext:
    """Runs when its inputs have shapes within the profile, and every tensor has a place."""

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._places: dict[str, int] = {}
        self._made: dict[str, np.ndarray] | None = None

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.shapes[name]
        assert all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True)), (
            name,
            least,
            shape,
            most,
        )
        self._shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert isinstance(memory, int)
        self._places[name] = memory
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """Sizes of outputs follow from those of inputs; here they are found by running."""
        assert set(self._shapes) == set(self._engine.shapes), "all inputs have shapes first"
        given = {
            each: np.zeros(shape, nptype(self._engine.get_tensor_dtype(each))) + 0.5
            for each, shape in self._shapes.items()
        }
        if self._made is None:
            names = [each.name for each in self._engine.session.get_outputs()]
            self._made = dict(zip(names, self._engine.session.run(names, given), strict=True))
        return self._made[name].shape

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine = self._engine
        given = {name: self._array(name, shape) for name, shape in self._shapes.items()}
        names = [each.name for each in engine.session.get_outputs()]
        for name, value in zip(names, engine.session.run(names, given), strict=True):
            self._array(name, value.shape)[...] = value
        return True

    def _array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        kind = np.dtype(nptype(self._engine.get_tensor_dtype(name)))
        size = int(np.prod(shape, dtype=int)) * kind.itemsize
        place = (ctypes.c_char * size).from_address(self._places[name])
        return np.frombuffer(place, kind).reshape(shape)


class Runtime:
    def __init__(self, logger: Logger) -> None:
        assert isinstance(logger, Logger)

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        return ICudaEngine(serialized_engine) if pickle.loads(serialized_engine)[0] == GPU else None


class Refitter:
    def __init__(self, engine: ICudaEngine, logger: Logger) -> None:
        assert isinstance(engine, ICudaEngine) and isinstance(logger, Logger)
        self.engine, self.pending = engine, b""

    def refit_cuda_engine(self) -> bool:
        if not (self.engine.refittable and self.pending):
            return False
        self.engine.model = self.pending
        return True


class OnnxParserRefitter:
    def __init__(self, refitter: Refitter, logger: Logger) -> None:
        assert isinstance(refitter, Refitter) and isinstance(logger, Logger)
        self._refitter = refitter

    def refit_from_file(self, model: str) -> bool:
        self._refitter.pending = Path(model).read_bytes()
        return True
