"""What is read of a machine's heat and power, on trees of files as Linux shows them."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch
from redis import Redis

from service.jobs.workers import THROTTLES, WorkerRecord, Workers
from worker import sensors, telemetry
from worker.sensors import Sensors

#: A Jetson Orin: two zones and one without power, a fan at work, the throttle of the GPU, over-current protection.
JETSON = {
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": "71500",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal",
    "sys/class/thermal/thermal_zone1/temp": "83250",
    "sys/class/thermal/thermal_zone2/type": "cv0-thermal",
    "sys/class/thermal/thermal_zone2/temp": "-256000",
    "sys/class/thermal/cooling_device0/type": "pwm-fan",
    "sys/class/thermal/cooling_device0/cur_state": "3",
    "sys/class/thermal/cooling_device1/type": "gpu-throttle-alert",
    "sys/class/thermal/cooling_device1/cur_state": "0",
    "sys/class/hwmon/hwmon0/name": "cpu_thermal",
    "sys/class/hwmon/hwmon0/device/temp": "71500",
    "sys/class/hwmon/hwmon0/temp1_input": "71500",
    "sys/class/hwmon/hwmon1/name": "soctherm_oc",
    "sys/class/hwmon/hwmon1/oc3_event_cnt": "1",
    "var/lib/nvpmodel/status": "pmode:0002",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=15W >\n",
}
PC = {
    "sys/class/hwmon/hwmon0/name": "k10temp",
    "sys/class/hwmon/hwmon0/temp1_input": "61000",
    "sys/class/hwmon/hwmon0/temp2_input": "64125",
    "sys/class/hwmon/hwmon1/name": "nvme",
    "sys/class/hwmon/hwmon1/temp1_input": "no number",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "7",
    "sys/firmware/acpi/platform_profile": "balanced",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave",
}
RASPBERRY_PI = {
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": "84200",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "0",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand",
}


def write(root: Path, files: dict[str, str]) -> Sensors:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return Sensors(root=root)


def test_a_jetson(tmp_path: Path) -> None:
    reading = write(tmp_path, JETSON).read()
    assert reading.celsius == {"cpu-thermal": 71.5, "gpu-thermal": 83.25}
    assert reading.throttled_by == []
    assert reading.power_mode == "15W"


def test_a_jetson_that_is_slowed_down(tmp_path: Path) -> None:
    machine = write(tmp_path, JETSON)
    write(tmp_path, {"sys/class/thermal/cooling_device1/cur_state": "1"})
    assert machine.read().throttled_by == ["heat"]
    write(tmp_path, {"sys/class/hwmon/hwmon1/oc3_event_cnt": "2"})
    assert machine.read().throttled_by == ["heat", "over-current"]


def test_a_power_mode_that_has_no_name(tmp_path: Path) -> None:
    assert write(tmp_path, {**JETSON, "etc/nvpmodel.conf": ""}).read().power_mode == "mode 2"


def test_a_pc(tmp_path: Path) -> None:
    machine = write(tmp_path, PC)
    reading = machine.read()
    assert (reading.celsius, reading.power_mode) == ({"k10temp": 64.125}, "balanced")
    assert reading.throttled_by == []
    write(tmp_path, {"sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "9"})
    assert machine.read().throttled_by == ["heat"]


@pytest.mark.parametrize(
    ("flags", "throttles"),
    [("0", []), ("50000", []), ("50005", ["heat", "under-voltage"]), ("8", ["heat"]), ("?", [])],
)
def test_a_raspberry_pi(tmp_path: Path, flags: str, throttles: list[str]) -> None:
    machine = write(tmp_path, {**RASPBERRY_PI, "sys/devices/platform/soc/soc:firmware/get_throttled": flags})
    assert machine.read().throttled_by == throttles
    assert machine.read().power_mode == "ondemand"


def test_a_throttle_is_remembered_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = write(tmp_path, {**RASPBERRY_PI, "sys/class/hwmon/hwmon0/name": "rpi_volt"})
    write(tmp_path, {"sys/class/hwmon/hwmon0/in0_lcrit_alarm": "1"})
    assert machine.read().throttled_by == ["under-voltage"]
    write(tmp_path, {"sys/class/hwmon/hwmon0/in0_lcrit_alarm": "0"})
    assert machine.read().throttled_by == ["under-voltage"]
    later = time.monotonic() + sensors.REMEMBERED_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert machine.read().throttled_by == []


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    reading = Sensors(root=tmp_path).read()
    assert reading == sensors.Reading({}, [], None)


def test_how_busy_the_processors_are(tmp_path: Path) -> None:
    machine = write(tmp_path, {"proc/stat": "cpu  1000 0 0 9000 0 0 0 0 0 0\ncpu0 1000 0 0 9000 0 0 0 0 0 0"})
    assert machine.read().utilisation is None  # of the time since it was switched on
    for line, busy in (
        ("1075 0 0 9020 5 0 0 0", 0.75),
        ("1076 0 0 9020 5 0 0 0", 0.75),
        ("1076 0 0 9120 5", 0.01),
    ):
        write(tmp_path, {"proc/stat": f"cpu  {line}"})
        assert machine.read().utilisation == pytest.approx(busy, abs=0.001)


class TestNvml:
    @pytest.fixture
    def gpu(self, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
        """Stands in for the driver; its `reasons` are what slows the GPU down."""
        said = SimpleNamespace(reasons=0, celsius=66)

        def properties(device: str) -> Any:
            return SimpleNamespace(uuid="1-2")

        monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
        monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", {"GPU-1-2": said}.get)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetTemperature", lambda handle, which: handle.celsius)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetCurrentClocksEventReasons", lambda handle: handle.reasons)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetPowerUsage", lambda handle: 612_500)
        monkeypatch.setattr(
            pynvml, "nvmlDeviceGetUtilizationRates", lambda handle: SimpleNamespace(gpu=97, memory=40)
        )
        return said

    def test_power_and_load(self, gpu: SimpleNamespace, tmp_path: Path) -> None:
        reading = Sensors("cuda:0", tmp_path).read()
        assert (reading.watts, reading.utilisation) == (612.5, 0.97)

    def test_temperature_and_reasons(self, gpu: SimpleNamespace, tmp_path: Path) -> None:
        machine = Sensors("cuda:0", tmp_path)
        assert machine.read().celsius == {"gpu": 66}
        gpu.reasons = pynvml.nvmlClocksEventReasonGpuIdle | pynvml.nvmlClocksEventReasonSwPowerCap
        assert machine.read().throttled_by == ["power-cap"]
        gpu.reasons = pynvml.nvmlClocksEventReasonHwThermalSlowdown
        assert machine.read().throttled_by == ["heat", "power-cap"]

    def test_a_driver_that_knows_none(
        self, gpu: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unsupported(*_: object) -> int:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

        said = ("Temperature", "CurrentClocksEventReasons", "PowerUsage", "UtilizationRates")
        for name in (f"nvmlDeviceGet{what}" for what in said):
            monkeypatch.setattr(pynvml, name, unsupported)
        assert Sensors("cuda:0", tmp_path).read() == Sensors(root=tmp_path).read()

    def test_no_driver(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing() -> None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

        monkeypatch.setattr(pynvml, "nvmlInit", missing)
        assert Sensors("cuda:0", tmp_path).read().celsius == {}

    def test_no_package(self, tmp_path: Path) -> None:
        program = (
            "import sys; sys.modules['pynvml'] = None\n"
            "from pathlib import Path; from worker.sensors import Sensors\n"
            "print(Sensors('cuda:0', Path(sys.argv[1])).read().celsius)"
        )
        command = [sys.executable, "-c", program, str(tmp_path)]
        assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "{}\n"


def test_a_workers_record_says_it(redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {**JETSON, "sys/class/thermal/cooling_device1/cur_state": "1"})
    monkeypatch.setattr(telemetry, "Sensors", partial(Sensors, root=tmp_path))
    workers = Workers(redis, ttl_seconds=15)
    record = WorkerRecord(
        name="orin", host="orin", pid=1, device="cpu", device_name="cpu", backend="cpu", model="dain-lite",
        precision="fp32", ready=False, started_at=0.0,
    )  # fmt: skip
    telemetry.Telemetry(workers, record, ttl_seconds=15).update(ready=True)
    [seen] = workers.all()
    assert seen.celsius == {"cpu-thermal": 71.5, "gpu-thermal": 83.25}
    assert (seen.throttled_by, seen.power_mode) == (["heat"], "15W")
    assert set(seen.throttled_by) <= set(THROTTLES)
