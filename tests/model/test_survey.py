"""The survey of devices, in earnest: what ggml says of this machine, and speeds that a machine can have."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from localllm.runner.inventory import survey_command


def survey(*flags: str) -> list[dict]:
    done = subprocess.run([*survey_command(), *flags], capture_output=True, text=True, timeout=110, check=True)
    devices: list[dict] = json.loads(done.stdout.splitlines()[-1])["devices"]
    return devices


def test_the_cpu_is_a_device_with_memory_and_no_speed_unless_asked():
    cpu = next(device for device in survey() if device["kind"] == "cpu")
    assert ("CPU", "CPU", False) == (cpu["name"], cpu["backend"], cpu["is_integrated"])
    assert cpu["total_bytes"] > 2**28
    assert (None, None, None) == (cpu["bandwidth_bytes_per_second"], cpu["flops"], cpu["link_bytes_per_second"])


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--plain",)])
def test_a_speed_is_one_that_a_cpu_can_have_or_none_when_it_is_busy(flags):
    cpu = next(device for device in survey("--speeds", "1", *flags) if device["kind"] == "cpu")
    bandwidth, flops = cpu["bandwidth_bytes_per_second"], cpu["flops"]
    assert (bandwidth is None) == (flops is None)
    if bandwidth is not None:
        assert 1e8 < bandwidth < 1e12
        assert 1e9 < flops < 1e14


def test_the_parent_side_never_imports_the_engine():
    code = "import localllm.runner.inventory, localllm.runner.measuring, sys; print('llama_cpp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "False" == done.stdout.strip()
