"""Energy counters: added up over their wraps, told only where they can be read."""

from __future__ import annotations

from localllm.server.energy import EnergyMeters, no_gpus


def zone(folder, name: str, title: str, energy: object, most: int = 1_000_000_000):
    path = folder / name
    path.mkdir(exist_ok=True)
    for file, value in (("name", title), ("energy_uj", energy), ("max_energy_range_uj", most)):
        (path / file).write_text(f"{value}\n")
    return path


def test_packages_count_from_the_first_look_on_and_over_their_end(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 900_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 5)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 7)
    meters = EnergyMeters(tmp_path, no_gpus)
    assert {"package-0": 0.0} == meters.joules()
    zone(tmp_path, "intel-rapl:0", "package-0", 950_000_000)
    assert {"package-0": 50.0} == meters.joules()
    zone(tmp_path, "intel-rapl:0", "package-0", 25_000_000)
    assert {"package-0": 125.0} == meters.joules()


def test_what_cannot_be_read_is_left_out(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", "no number")
    (zone(tmp_path, "intel-rapl:1", "package-1", 1) / "energy_uj").unlink()
    assert {"gpu 0 Some": 3.5} == EnergyMeters(tmp_path, lambda: {"gpu 0 Some": 3.5}).joules()
    assert {} == EnergyMeters(tmp_path / "nowhere", no_gpus).joules()
