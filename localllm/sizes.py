"""Amounts of bytes as people read and write them: 4683087332 is "4.7 GB", "5M" is 5000000. Pure."""

from __future__ import annotations

import re

_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "KB"))
_PREFIXES = ("", "K", "M", "G", "T")
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?(?:/S)?", re.ASCII)


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
