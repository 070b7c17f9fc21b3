"""The root of every exception that `dain_core` defines, and the tree below it.

    DainCoreError
    ├── BackendError           dain_core.runtime.backends.stages  a way to run networks cannot be used; a ValueError
    ├── CalibrationError       dain_core.runtime.calibration   what eight bits need is missing or wrong; a ValueError
    ├── CompressionError       dain_core.compression.errors    a network cannot be pruned or tuned as asked
    ├── DeviceError            dain_core.runtime.devices       a device does not exist or cannot be used; a ValueError
    ├── EvaluationError        dain_core.evaluation.pictures   `dain eval` cannot use a file, an option or a method
    ├── ExportError            dain_core.export.errors         a network cannot be exported, or an export not used
    ├── FrameTooLargeError     dain_core.runtime.memory        a frame needs more memory than may be used; a ValueError
    ├── ProfileError           dain_core.runtime.profile       a profile of `dain tune` does not fit here; a ValueError
    ├── TrainingDataError      dain_core.training.batch        training data cannot be read, or do not fit the run
    ├── TrainingError          dain_core.training.errors       a training run cannot start or continue
    │   ├── CheckpointError    dain_core.training.checkpoints  a file of a run cannot be written, read or used
    │   └── NonFiniteError     dain_core.training.precision    a number is infinite or NaN
    ├── UnknownModelError      dain_core.weights.registry      no model has that name; a ValueError
    │   └── NotExportedError   dain_core.runtime.backends.onnx  a model has no export to run
    └── WeightsError           dain_core.weights.files         weights cannot be read or do not fit the network

A program that passes an invalid argument (a wrong shape, a time outside a pair of frames) gets a plain ValueError.
"""

from __future__ import annotations


class DainCoreError(Exception):
    """An error that `dain_core` raises. Its text is a sentence that says what is wrong and what to do."""
