"""What options may be given, for help that does not wait for PyTorch. A test compares each with its owner's."""

from __future__ import annotations

#: The networks, by the names of those that come with the project.
MODELS = ("dain", "dain-lite", "dain-refined")
#: The networks that `dain train` trains.
TRAINED = ("dain", "dain-lite")
#: Forms of stored weights.
LAYOUTS = ("int8", "fp16", "fp32")
#: Measures of how much a channel matters.
IMPORTANCES = ("first", "second", "weight")
#: Ways to find the range of an activation.
CALIBRATIONS = ("max", "99.999", "99.99", "99.9", "mse")
#: Precisions of an ONNX file, and of an engine of TensorRT.
EXPORT_PRECISIONS = ("fp32", "fp16", "int8")
ENGINE_PRECISIONS = ("fp32", "fp16", "int8", "fp8")
EXPORT_FORMS = ("whole", "stages")
#: Precisions to train in.
LEVELS = ("fp32", "bf16", "fp16", "fp16-master")
