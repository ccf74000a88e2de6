"""Amounts of bytes as people read and write them: 4683087332 is "4.7 GB", "5M" is 5000000. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "KB"))
_PREFIXES = ("", "K", "M", "G", "T")
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?(?:/S)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reserve:
    """Memory of a device that is left free: a share of all of it, and so many bytes."""

    share: float = 0.05
    bytes: int = 300 * 2**20

    def of(self, total_bytes: int) -> int:
        """How much of a device of this size."""
        return int(total_bytes * self.share) + self.bytes


def parse_reserve(text: str) -> Reserve:
    """A reserve of "5%+300MiB", "10%" or "1GiB". Raises ValueError."""
    share, size = 0.0, 0
    for part in text.split("+"):
        if part.strip().endswith("%"):
            share += float(part.strip()[:-1]) / 100
        else:
            size += parse_size(part)
    if not 0 <= share < 1 or size >= 2**62:
        raise ValueError(f'"{text}" leaves nothing of a device')
    return Reserve(share, size)


def size_text(size_bytes: int) -> str:
    """Bytes in decimal units: 4683087332 → "4.7 GB"."""
    for unit_bytes, unit in _UNITS:
        if size_bytes >= unit_bytes:
            value = size_bytes / unit_bytes
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f}".removesuffix(".0") + f" {unit}"
    return f"{size_bytes} B"


def parse_size(text: str) -> int:
    """Bytes of "5M", "500 kB", "1.5GB", "2MiB" or "5M/s". Raises ValueError."""
    match = _AMOUNT.fullmatch(text.strip().upper())
    if match is None or (match[3] and not match[2]):
        raise ValueError(f'"{text}" is not an amount of bytes such as 500K, 5M or 1G')
    return int(float(match[1]) * (1024 if match[3] else 1000) ** _PREFIXES.index(match[2]))
