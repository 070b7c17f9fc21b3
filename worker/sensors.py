"""What a machine says of its heat, of what slows it down, of its power, and of how busy it is.

Linux says it in sysfs: thermal zones and what cools them, hwmon, the counters of x86 processors, the firmware of a
Raspberry Pi. NVIDIA's driver says it by NVML, where nvidia-ml-py is installed. A Jetson has no whole NVML: its
over-current protection is a hwmon, and its power mode is in the files of nvpmodel. What a machine does not have, or
does not let this process read, is left out.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

try:
    import pynvml
except ModuleNotFoundError:  # only a machine with an NVIDIA GPU needs it
    pynvml = None

#: NVML's clocks-event reasons, by their bits (nvml.h); the others say nothing of trouble.
_OF_NVML = {0x4: "power-cap", 0x20: "heat", 0x40: "heat", 0x80: "power-brake"}
#: What a Raspberry Pi's firmware says of now, by its bits: https://www.raspberrypi.com/documentation/computers/os.html
_OF_RASPBERRY_PI = {0x1: "under-voltage", 0x4: "heat", 0x8: "heat"}
#: Cooling devices that slow processors down, as Linux and Jetson's device trees call them. Fans slow nothing down.
_SLOWING = re.compile(r"Processor|(thermal-)?(cpufreq|devfreq)\b.*|intel_powerclamp|.*-throttle-alert")
_PLAUSIBLE = range(-40, 200)  # °C; a Jetson's zone that is off says -256
FEWEST_TICKS = 50  # of a hundredth of a second, of all processors, that say how busy they are
REMEMBERED_SECONDS = 30.0  # for who asks seldom: a drop of the voltage may be over in a moment


@dataclass(frozen=True)
class Reading:
    """What was read at one time.

    Attributes:
        celsius: the highest temperature of each sensor, by its name.
        throttled_by: why the machine is slower than it could be, or was half a minute ago at most; names of
            `service.jobs.workers.THROTTLES`.
        power_mode: as the machine calls it; None where it has no name for it.
        watts: that the GPU takes; None without a sensor.
        utilisation: how busy the GPU is, or else the processors, from 0 to 1; None where nothing says it.
    """

    celsius: dict[str, float]
    throttled_by: list[str]
    power_mode: str | None
    watts: float | None = None
    utilisation: float | None = None


@dataclass
class Sensors:
    """The sensors of this machine, and of one GPU if a worker has one.

    Attributes:
        device: of the worker: "cpu", "cuda:0" …
        root: the folder that has `sys`, `etc`, `proc` and `var`.
    """

    device: str = "cpu"
    root: Path = Path("/")
    _counted: dict[Path, int] = field(default_factory=dict)  # at the last reading
    _seen: dict[str, float] = field(default_factory=dict)  # when each throttle was last in force
    _ticks: tuple[int, int] = (0, 0)  # of all processors, in all and idle, at the last reading
    _busy: float | None = None  # then

    def read(self) -> Reading:
        """Read all of them, which takes a few milliseconds."""
        highest: defaultdict[str, float] = defaultdict(lambda: float("-inf"))
        for name, celsius in (*self._zones(), *self._chips(), *_temperature(self._gpu)):
            if int(celsius) in _PLAUSIBLE:
                highest[name] = max(highest[name], celsius)
        now = time.monotonic()
        for throttle in (*self._heat(), *self._over_current(), *self._raspberry_pi(), *_clocks(self._gpu)):
            self._seen[throttle] = now
        recent = sorted(name for name, seen in self._seen.items() if now - seen < REMEMBERED_SECONDS)
        watts, busy = _power(self._gpu), _load(self._gpu) if self._gpu else self._processors()
        return Reading(dict(highest), recent, self._power_mode(), watts, busy)

    @cached_property
    def _gpu(self) -> Any:
        """NVML's handle of the worker's GPU; None where NVML does not know it."""
        if pynvml is not None and self.device.startswith("cuda"):
            with suppress(pynvml.NVMLError, RuntimeError):
                pynvml.nvmlInit()
                uuid = torch.cuda.get_device_properties(self.device).uuid
                return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        return None

    # -- temperatures

    def _zones(self) -> Iterator[tuple[str, float]]:
        for zone in sorted(self._sys("class/thermal").glob("thermal_zone*")):
            yield from _celsius(_text(zone / "type"), zone / "temp")

    def _chips(self) -> Iterator[tuple[str, float]]:
        for chip in sorted(self._sys("class/hwmon").glob("hwmon*")):
            if _text(chip / "device" / "temp") is None:  # else it is a thermal zone once more
                for temperature in sorted(chip.glob("temp*_input")):
                    yield from _celsius(_text(chip / "name"), temperature)

    # -- what slows the machine down

    def _heat(self) -> Iterator[str]:
        for cooler in sorted(self._sys("class/thermal").glob("cooling_device*")):
            kind, state = _text(cooler / "type"), _number(cooler / "cur_state")
            if kind and _SLOWING.fullmatch(kind) and state is not None and state > 0:
                yield "heat"
        counters = "devices/system/cpu/cpu*/thermal_throttle/*_throttle_count"
        if any(self._rose(counter) for counter in self.root.glob(f"sys/{counters}")):
            yield "heat"

    def _over_current(self) -> Iterator[str]:
        if any(self._rose(counter) for counter in self._sys("class/hwmon").glob("hwmon*/oc*_event_cnt")):
            yield "over-current"

    def _raspberry_pi(self) -> Iterator[str]:
        flags = _text(self._sys("devices/platform/soc/soc:firmware/get_throttled"))
        alarms = [
            chip / "in0_lcrit_alarm"
            for chip in self._sys("class/hwmon").glob("hwmon*")
            if _text(chip / "name") == "rpi_volt"
        ]
        if any(_number(alarm) for alarm in alarms):
            yield "under-voltage"
        with suppress(ValueError):
            yield from (reason for bit, reason in _OF_RASPBERRY_PI.items() if int(flags or "0", 16) & bit)

    def _rose(self, counter: Path) -> bool:
        """Whether a counter of events has risen since the last reading."""
        count = _number(counter)
        if count is None:
            return False
        before = self._counted.get(counter, count)
        self._counted[counter] = count
        return count > before

    # -- the power mode

    def _power_mode(self) -> str | None:
        return (
            self._nvpmodel()
            or _text(self._sys("firmware/acpi/platform_profile"))
            or _text(self._sys("devices/system/cpu/cpu0/cpufreq/scaling_governor"))
        )

    # -- how busy it is

    def _processors(self) -> float | None:
        """The share of their time that processors worked since the last reading, unless that was just now."""
        ticks = [int(word) for word in (_text(self.root / "proc/stat") or "").split("\n")[0].split()[1:9]]
        total, idle = sum(ticks), sum(ticks[3:5])  # of which the second waits for disks
        passed, rested = total - self._ticks[0], idle - self._ticks[1]
        if passed >= FEWEST_TICKS:
            self._busy = 1 - rested / passed if self._ticks[0] else None
            self._ticks = total, idle
        return self._busy

    def _nvpmodel(self) -> str | None:
        """The mode of a Jetson: nvpmodel keeps its number in one file, and the names of all in another."""
        number = re.search(r"pmode:(\d+)", _text(self.root / "var/lib/nvpmodel/status") or "")
        if number is None:
            return None
        models = _text(self.root / "etc/nvpmodel.conf") or ""
        name = re.search(rf"POWER_MODEL\s+ID=0*{int(number[1])}\s+NAME=(\S+)", models)
        return name[1] if name else f"mode {int(number[1])}"

    def _sys(self, path: str) -> Path:
        return self.root / "sys" / path


def _celsius(name: str | None, millidegrees: Path) -> Iterator[tuple[str, float]]:
    value = _number(millidegrees)
    if name and value is not None:
        yield name, value / 1000


def _text(path: Path) -> str | None:
    """What a file says; None where there is none, or it says nothing now, as that of a part without power."""
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None


def _number(path: Path) -> int | None:
    with suppress(ValueError):
        return int(_text(path) or "")
    return None


def _temperature(gpu: Any) -> Iterator[tuple[str, float]]:
    if gpu is not None:
        with suppress(pynvml.NVMLError):
            yield "gpu", float(pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU))


def _clocks(gpu: Any) -> Iterator[str]:
    if gpu is not None:
        with suppress(pynvml.NVMLError):
            reasons = pynvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)
            yield from (reason for bit, reason in _OF_NVML.items() if reasons & bit)


def _power(gpu: Any) -> float | None:
    if gpu is not None:
        with suppress(pynvml.NVMLError):
            return float(pynvml.nvmlDeviceGetPowerUsage(gpu)) / 1000
    return None


def _load(gpu: Any) -> float | None:
    with suppress(pynvml.NVMLError):
        return float(pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu) / 100
    return None
