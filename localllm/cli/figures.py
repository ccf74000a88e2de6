"""How figures are written for people: ages, durations, places; sizes are in sizes.py. Pure; clock values come in."""

from __future__ import annotations

from datetime import datetime

_AGE_UNITS = (
    (31_536_000, "year"),
    (2_592_000, "month"),
    (604_800, "week"),
    (86_400, "day"),
    (3_600, "hour"),
    (60, "minute"),
)


def span_text(seconds: float) -> str:
    """A length of time in its largest unit: 7300 → "2 hours"."""
    for unit_seconds, unit in _AGE_UNITS:
        if seconds >= unit_seconds:
            count = int(seconds // unit_seconds)
            return f"{count} {unit}" + ("s" if count > 1 else "")
    return "less than a minute"


def age_text(moment: datetime | None, now: datetime) -> str:
    """How long ago: "3 days ago"; "-" for a time nobody said."""
    if moment is None:
        return "-"
    return f"{span_text(max(0.0, (now - moment).total_seconds()))} ago"


def until_text(moment: datetime | None, now: datetime, state: str | None = None) -> str:
    """When a model is unloaded: "4 minutes from now", "Forever", or what it does instead."""
    if state in ("loading", "stopping"):
        return f"{state.capitalize()}..."
    if moment is None or moment.year - now.year > 50:  # a far-away year is how Ollama's dialect writes "never"
        return "Forever"
    seconds = (moment - now).total_seconds()
    return "Stopping..." if seconds <= 0 else f"{span_text(seconds)} from now"


def processor_text(size_bytes: int, gpu_bytes: int) -> str:
    """Where a model lies: "100% CPU", "100% GPU" or "24%/76% CPU/GPU"."""
    if size_bytes <= 0:
        return "-"
    if gpu_bytes <= 0:
        return "100% CPU"
    if gpu_bytes >= size_bytes:
        return "100% GPU"
    cpu_percent = round((size_bytes - gpu_bytes) / size_bytes * 100)
    return f"{cpu_percent}%/{100 - cpu_percent}% CPU/GPU"


def nanoseconds_text(nanoseconds: int) -> str:
    """A duration: 1234567890 → "1.235s", 850000 → "850µs"."""
    seconds = nanoseconds / 1e9
    if seconds >= 60:
        minutes, rest = divmod(seconds, 60)
        hours, minutes = divmod(int(minutes), 60)
        return (f"{hours}h" if hours else "") + f"{minutes}m{rest:.1f}s"
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= scale:
            return f"{seconds / scale:.4g}{unit}"
    return f"{nanoseconds}ns"
