"""The root of every exception that `dain_core` defines.

    DainCoreError
    ├── DeviceError            dain_core.runtime.devices   there is no such device, or it cannot be used; a ValueError
    ├── FrameTooLargeError     dain_core.runtime.memory    a frame needs more memory than may be used; a ValueError
    ├── UnknownModelError      dain_core.weights.registry  no model has that name; a ValueError
    └── WeightsError           dain_core.weights.files     weights cannot be read, do not fit, or are not as expected

`dain_core.training` and `dain_core.evaluation` have errors of their commands beside these. Arguments that no program
should pass (a wrong shape, a time outside a pair) are plain ValueErrors.
"""

from __future__ import annotations


class DainCoreError(Exception):
    """An error that this package names; its text is a sentence for people."""
