"""What a model may use of a machine: cores and memory within affinity and control groups."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from localllm.placement.devices import host

CPU = "sys/devices/system/cpu/cpu{}/topology/{}"


def machine(root: Path, cores: dict[int, int], files: dict[str, str]) -> Path:
    """A machine whose CPUs belong to these cores."""
    topology = {
        CPU.format(cpu, name): value
        for cpu, core in cores.items()
        for name, value in (("core_id", f"{core}\n"), ("physical_package_id", "0\n"))
    }
    for name, text in {**topology, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def usable() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def test_two_hyper_threads_of_one_core_count_once(tmp_path):
    assert 1 == host(machine(tmp_path, dict.fromkeys(usable(), 7), {})).physical_cores
    distinct = tmp_path / "distinct"
    assert len(usable()) == host(machine(distinct, {cpu: cpu for cpu in usable()}, {})).physical_cores


@pytest.mark.parametrize(
    "files",
    [
        {"proc/self/cgroup": "0::/pod/box\n", "sys/fs/cgroup/pod/cpu.max": "100000 100000\n"},
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/\n1:cpu:/box\n",
            "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000\n",
        },
    ],
)
def test_a_cpu_quota_of_either_kind_of_control_group_counts(tmp_path, files):
    assert 1 == host(machine(tmp_path, {cpu: cpu for cpu in usable()}, files)).physical_cores


def test_no_quota_is_no_limit(tmp_path):
    files = {
        "proc/self/cgroup": "1:cpu:/\n0::/\n",
        "sys/fs/cgroup/cpu.max": "max 100000\n",
        "sys/fs/cgroup/memory.max": "max\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    }
    found = host(machine(tmp_path, {cpu: cpu for cpu in usable()}, files))
    assert len(usable()) == found.physical_cores
    assert psutil.virtual_memory().total == found.total_bytes


def test_a_memory_limit_counts_less_what_is_used_and_cannot_be_given_back(tmp_path):
    files = {
        "proc/self/cgroup": "0::/box\n",
        "sys/fs/cgroup/box/memory.max": "1000000\n",
        "sys/fs/cgroup/box/memory.current": "700000\n",
        "sys/fs/cgroup/box/memory.stat": "anon 300000\ninactive_file 400000\n",
    }
    found = host(machine(tmp_path, {cpu: cpu for cpu in usable()}, files))
    assert (1_000_000, 700_000) == (found.total_bytes, found.available_bytes)


@pytest.mark.parametrize(
    ("cpuinfo", "has_amx"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f amx_tile amx_int8\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd\n", False),
        (None, False),
    ],
)
def test_whether_the_cpu_has_amx_is_told_by_its_flags(tmp_path, cpuinfo, has_amx):
    files = {} if cpuinfo is None else {"proc/cpuinfo": cpuinfo}
    assert has_amx == host(machine(tmp_path, {0: 0}, files)).has_amx
