"""Which devices there are: what the child says, what is remembered, what is free now, and why a GPU is not used."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from localllm.placement.devices import Device, DeviceProcess, Host
from localllm.placement.nvml import NvidiaGpu, _gpu, enriched, pci_id
from localllm.runner.inventory import SPEEDS_FILE, Inventory, has_gpu_backend

GIB = 2**30
HOST = Host(physical_cores=8, total_bytes=64 * GIB, available_bytes=50 * GIB)
ROW = {
    "kind": "gpu",
    "name": "CUDA0",
    "description": "NVIDIA GeForce RTX 4090",
    "id": "0000:c1:00.0",
    "backend": "CUDA",
    "total_bytes": 24 * GIB,
    "free_bytes": 23 * GIB,
}
CPU_ROW = {"kind": "cpu", "name": "CPU", "total_bytes": 64 * GIB}
SEEN = NvidiaGpu(
    "0000:c1:00.0", "NVIDIA GeForce RTX 4090", 24 * GIB, 20 * GIB, "580.1", 450.0, (DeviceProcess(7, "game", 3 * GIB),)
)


def survey_program(folder: Path, *answers: str) -> tuple[str, ...]:
    """A child that gives one answer after the other, and writes down how it was asked."""
    program = folder / "survey.py"
    program.write_text(
        "import pathlib, sys\n"
        f"log = pathlib.Path({str(folder / 'asked')!r})\n"
        "asked = log.read_text().splitlines() if log.exists() else []\n"
        "log.write_text('\\n'.join([*asked, ' '.join(sys.argv[1:]) or '-']))\n"
        f"answers = {list(answers)!r}\n"
        "answer = answers[min(len(asked), len(answers) - 1)]\n"
        "exec(answer[1:]) if answer.startswith('!') else print('noise'), print(answer)\n"
    )
    return (sys.executable, "-S", str(program))


def asked(folder: Path) -> list[str]:
    file = folder / "asked"
    return file.read_text().splitlines() if file.exists() else []


def listing(*rows: dict[str, object]) -> str:
    return json.dumps({"devices": rows})


def inventory(
    folder: Path,
    *answers: str,
    gpu_backend: bool = True,
    nvml: Callable[[], tuple[NvidiaGpu, ...]] = lambda: (),
    settle_seconds: float = 1000.0,
    seconds_between_looks: float = 10.0,
) -> Inventory:
    clock = itertools.count(100.0, seconds_between_looks)
    return Inventory(
        "A CPU",
        ("engine 1",),
        folder / "state",
        dict(os.environ),
        command=survey_program(folder, *answers),
        look_at_host=lambda: HOST,
        gpu_backend=gpu_backend,
        ask_nvml=nvml,
        settle_seconds=settle_seconds,
        now=lambda: next(clock),
    )


async def looked(there: Inventory, times: int = 1):
    try:
        machines = [await there.machine() for _ in range(times)]
        return machines[-1]
    finally:
        await there.close()


def test_a_build_without_a_gpu_backend_is_not_asked(tmp_path):
    machine = asyncio.run(looked(inventory(tmp_path, listing(ROW, CPU_ROW), gpu_backend=False)))
    assert (Device("cpu", "CPU", "A CPU", "", 64 * GIB, 50 * GIB),) == machine.devices
    assert [] == asked(tmp_path)


def test_gpus_come_first_and_the_cpus_memory_is_the_hosts(tmp_path):
    machine = asyncio.run(looked(inventory(tmp_path, listing(ROW, CPU_ROW))))
    assert ["CUDA0", "CPU"] == [device.name for device in machine.devices]
    assert (24 * GIB, 23 * GIB, "CUDA") == (
        machine.gpus[0].total_bytes,
        machine.gpus[0].free_bytes,
        machine.gpus[0].backend,
    )
    assert 50 * GIB == machine.cpu.free_bytes


def test_what_another_process_has_taken_is_seen_without_asking_the_engine_again(tmp_path):
    machine = asyncio.run(looked(inventory(tmp_path, listing(ROW), nvml=lambda: (SEEN,)), times=3))
    gpu = machine.gpus[0]
    assert (20 * GIB, "580.1", 450.0) == (gpu.free_bytes, gpu.driver, gpu.power_limit_watts)
    assert (DeviceProcess(7, "game", 3 * GIB),) == gpu.processes
    assert 1 == len(asked(tmp_path))


def test_without_nvml_the_engine_is_asked_what_is_free_each_time(tmp_path):
    later = listing(ROW | {"free_bytes": 11 * GIB})
    machine = asyncio.run(looked(inventory(tmp_path, listing(ROW), listing(ROW), later), times=2))
    assert 11 * GIB == machine.gpus[0].free_bytes


def test_looks_of_one_moment_share_what_the_engine_said(tmp_path):
    asyncio.run(looked(inventory(tmp_path, listing(ROW), seconds_between_looks=0.1), times=3))
    assert 1 == len(asked(tmp_path))


def test_a_part_of_a_gpu_is_not_told_the_memory_of_the_whole(tmp_path):
    part = listing(ROW | {"total_bytes": 6 * GIB, "free_bytes": 5 * GIB})
    machine = asyncio.run(looked(inventory(tmp_path, part, nvml=lambda: (SEEN,))))
    assert (5 * GIB, ()) == (machine.gpus[0].free_bytes, machine.gpus[0].processes)


@pytest.mark.parametrize("answer", ["!import os; os.abort()", "no JSON", '{"devices": 1}'])
def test_a_survey_that_fails_leaves_the_cpu_and_says_why_the_gpu_is_not_used(tmp_path, answer):
    there = inventory(tmp_path, answer, nvml=lambda: (SEEN,))
    machine = asyncio.run(looked(there))
    assert ["CPU"] == [device.name for device in machine.devices]
    assert there.without_gpu(machine).startswith(
        "the engine does not see NVIDIA GeForce RTX 4090: the survey ended with"
    )


def test_a_gpu_that_the_build_cannot_use_is_named(tmp_path):
    there = inventory(tmp_path, listing(CPU_ROW), gpu_backend=False, nvml=lambda: (SEEN,))
    machine = asyncio.run(looked(there))
    assert "the engine was built without CUDA, so NVIDIA GeForce RTX 4090 cannot be used" == there.without_gpu(machine)
    assert "" == inventory(tmp_path, gpu_backend=False).without_gpu(machine)


async def _measured(there: Inventory, folder: Path) -> None:
    await there.machine()
    for _ in range(200):
        if (folder / "state" / SPEEDS_FILE).exists():
            break
        await asyncio.sleep(0.02)
    await there.close()


def test_speeds_are_measured_once_and_remembered(tmp_path):
    fast = {"bandwidth_bytes_per_second": 4e10, "flops": 5e11}
    answers = listing(CPU_ROW | fast)
    asyncio.run(_measured(inventory(tmp_path, answers, gpu_backend=False, settle_seconds=0), tmp_path))
    assert ["--speeds 8"] == asked(tmp_path)
    again = asyncio.run(looked(inventory(tmp_path, answers, gpu_backend=False, settle_seconds=0)))
    assert (4e10, 5e11) == (again.cpu.bandwidth_bytes_per_second, again.cpu.flops)
    assert ["--speeds 8"] == asked(tmp_path)


def test_who_asks_for_speeds_gets_them_at_once(tmp_path):
    async def ask():
        there = inventory(
            tmp_path, listing(CPU_ROW | {"bandwidth_bytes_per_second": 4e10, "flops": 5e11}), gpu_backend=False
        )
        try:
            return await there.measured_machine()
        finally:
            await there.close()

    assert 4e10 == asyncio.run(ask()).cpu.bandwidth_bytes_per_second
    assert 4e10 == asyncio.run(ask()).cpu.bandwidth_bytes_per_second
    assert ["--speeds 8"] == asked(tmp_path)


def test_speeds_of_another_engine_are_not_taken(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    (state / SPEEDS_FILE).write_text('{"key": "other", "speeds": {"CPU": [1.0, 1.0, null]}}')
    machine = asyncio.run(looked(inventory(tmp_path, gpu_backend=False)))
    assert machine.cpu.bandwidth_bytes_per_second is None


def test_a_layout_that_kills_the_measurement_is_left_out(tmp_path):
    plain = listing(CPU_ROW | {"bandwidth_bytes_per_second": 3e10, "flops": 2e11})
    there = inventory(tmp_path, "!import os; os.abort()", plain, gpu_backend=False, settle_seconds=0)
    asyncio.run(_measured(there, tmp_path))
    assert ["--speeds 8", "--speeds 8 --plain"] == asked(tmp_path)


def test_a_busy_machine_has_no_speed_yet(tmp_path):
    busy = listing(CPU_ROW | {"bandwidth_bytes_per_second": None, "flops": None})
    quiet = listing(CPU_ROW | {"bandwidth_bytes_per_second": 3e10, "flops": 2e11})
    there = inventory(tmp_path, busy, quiet, gpu_backend=False, settle_seconds=0)
    asyncio.run(_measured(there, tmp_path))
    assert ["--speeds 8", "--speeds 8"] == asked(tmp_path)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["libggml-cpu.so", "libggml-base.so", "libllama.so", "libggml-rpc.so"], False),
        (["libggml-cpu.so", "libggml-cuda.so.0"], True),
        (["ggml-vulkan.dll"], True),
        (["libggml-metal.dylib"], True),
    ],
)
def test_a_build_tells_by_its_libraries_whether_it_can_use_a_gpu(tmp_path, files, found):
    for name in files:
        (tmp_path / name).touch()
    assert found == has_gpu_backend(tmp_path)


def test_pci_addresses_are_compared_in_one_form():
    assert "0000:c1:00.0" == pci_id("00000000:C1:00.0") == pci_id("0000:c1:00.0")


def test_only_the_gpu_with_the_same_address_is_enriched():
    device = Device("gpu", "CUDA1", id="0000:02:00.0", total_bytes=8 * GIB, free_bytes=7 * GIB)
    assert (device,) == enriched((device,), (SEEN,))
    assert (20 * GIB,) == tuple(
        gpu.free_bytes for gpu in enriched((replace(device, id=SEEN.id, total_bytes=23 * GIB),), (SEEN,))
    )


class FakeNvmlError(Exception):
    """What the library raises."""


def test_a_gpu_that_does_not_tell_its_processes_or_its_power_is_known_all_the_same():
    def refuse(handle: object) -> object:
        raise FakeNvmlError

    library = SimpleNamespace(
        NVMLError=FakeNvmlError,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=8 * GIB, free=7 * GIB),
        nvmlDeviceGetPowerManagementLimit=refuse,
        nvmlDeviceGetComputeRunningProcesses=refuse,
        nvmlDeviceGetPciInfo=lambda handle: SimpleNamespace(busId="00000000:01:00.0"),
        nvmlDeviceGetName=lambda handle: "A GPU",
    )
    assert NvidiaGpu("0000:01:00.0", "A GPU", 8 * GIB, 7 * GIB, "580", None, ()) == _gpu(library, 0, "580")
