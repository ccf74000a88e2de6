"""How much energy the processors and GPUs have taken, where the machine tells: RAPL's counters and NVML's.

    /sys/class/powercap/intel-rapl:0/    name "package-0", energy_uj in microjoules, which starts anew at
                                         max_energy_range_uj; readable for root only on most machines

What cannot be read is left out, never told as 0. A counter tells joules since it was first looked at (RAPL) or since
the driver was loaded (NVML), of the whole device: nobody knows what of it was ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from localllm.placement.nvml import Nvml

POWERCAP = Path("/sys/class/powercap")
_MICROJOULES = 1e6


def no_gpus() -> Mapping[str, float]:
    """For a machine without any."""
    return {}


class EnergyMeters:
    """The counters of one machine. `folder` is where the kernel shows RAPL's, `gpu_joules` asks the GPUs."""

    def __init__(self, folder: Path = POWERCAP, gpu_joules: Callable[[], Mapping[str, float]] | None = None) -> None:
        self._folder = folder
        self._gpu_joules = gpu_joules
        self._last: dict[str, int] = {}
        self._totals: dict[str, int] = {}

    def joules(self) -> dict[str, float]:
        """What each device has taken so far, by its name. Touches files: not for the event loop."""
        if self._gpu_joules is None:
            self._gpu_joules = Nvml().joules
        processors = {name: total / _MICROJOULES for name, total in self._processors().items()}
        return {**processors, **self._gpu_joules()}

    def _processors(self) -> dict[str, int]:
        # Packages only: their parts ("intel-rapl:0:1") are counted in them.
        for zone in sorted(self._folder.glob("intel-rapl:[0-9]*")):
            if zone.name.count(":") != 1:
                continue
            try:
                name = (zone / "name").read_text(encoding="ascii").strip()
                now, most = _number(zone / "energy_uj"), _number(zone / "max_energy_range_uj")
            except (OSError, ValueError):  # not ours to read, or not a number
                continue
            gone = now - self._last.get(name, now)
            self._totals[name] = self._totals.get(name, 0) + (gone if gone >= 0 else gone + most)
            self._last[name] = now
        return self._totals


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))
