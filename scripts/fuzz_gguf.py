"""Break GGUF files in thousands of ways and see that neither our reader nor llama.cpp behind it comes to harm.

    nice scripts/fuzz_gguf [--files 12000] [--first 0] [--jobs 2] [--out FOLDER] [--adapters]

Prints the figures and what the findings have in common; exit 1 when there were any. With --out the files that did harm
are kept, each with a line in `harm.txt`. A number always makes the same file: --only N repeats one. With --adapters
adapters of the models are broken, and the models left whole.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from gguf_fuzz.adapter_campaign import AdapterCampaign, write_adapters  # noqa: E402
from gguf_fuzz.campaign import Campaign, Report  # noqa: E402
from gguf_fuzz.document import parse  # noqa: E402
from gguf_fuzz.seeds import write_seeds  # noqa: E402

GUIDE = ROOT / "modelfiles" / "guide" / "guide.gguf"
WORKPLACE = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
SHARE = 500


def run_share(numbers: range, seeds: list[Path], out: Path | None, models: dict[str, Path]) -> Report:
    """One process's share of the campaign; with `models` the seeds are adapters of these."""
    with tempfile.TemporaryDirectory(dir=WORKPLACE, prefix="gguf-fuzz-") as folder:
        plain = Campaign(seeds, Path(folder))
        campaign = AdapterCampaign(seeds, Path(folder), models=models) if models else plain
        report = campaign.run(numbers)
        if out is not None:
            keep(report, campaign, out)
    return report


def keep(report: Report, campaign: Campaign, out: Path) -> None:
    """The harmful files, made again under their numbers."""
    out.mkdir(parents=True, exist_ok=True)
    for finding in report.harm:
        path = next(path for path in campaign.seeds if path.stem == finding.seed)
        data = path.read_bytes()
        for written in campaign.write(finding.number, (finding.seed, data, parse(data)))[0]:
            shutil.copyfile(written, out / f"{finding.number}-{written.name}")
        with (out / "harm.txt").open("a") as file:
            file.write(f"{finding.number} {finding.seed}: {finding.change}\n    {finding.what}\n")


def main() -> int:
    """Run the campaign that the command line asks for."""
    parser = argparse.ArgumentParser(prog="fuzz_gguf", description="See this file's first lines.")
    parser.add_argument("--files", type=int, default=12_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=Path, default=WORKPLACE / "gguf-fuzz-seeds")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--adapters", action="store_true")
    chosen = parser.parse_args()
    seeds, models = [*write_seeds(chosen.seeds), GUIDE], {}
    if chosen.adapters:
        models = {seed.stem: seed for seed in seeds if seed.stem != "t5"}  # which is not run at all
        seeds = write_adapters(list(models.values()), chosen.seeds / "adapters")
    first, count = (chosen.first, chosen.files) if chosen.only is None else (chosen.only, 1)
    shares = [range(at, min(at + SHARE, first + count)) for at in range(first, first + count, SHARE)]
    started = time.monotonic()
    total = Report()
    with ProcessPoolExecutor(chosen.jobs) as pool:
        count = len(shares)
        for report in pool.map(run_share, shares, [seeds] * count, [chosen.out] * count, [models] * count):
            total.add(report)
    sys.stdout.write(f"{len(seeds)} seeds, {time.monotonic() - started:.0f} s\n{total.summary()}\n")
    return int(bool(total.harm))


if __name__ == "__main__":
    sys.exit(main())
