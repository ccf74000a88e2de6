"""llama-server's `prompt_progress`: how far a prompt is, for who asks with `return_progress`.

{"total": tokens of the prompt, "cache": of these taken over, "processed": done, with these, "time_ms": since when}
"""

from __future__ import annotations

from typing import Any

from localllm.generation import PromptProgress

_NANOSECONDS_PER_MILLISECOND = 1_000_000


class PromptReport:
    """The progress of one prompt. The engine tells of every step but the last, which an answer's first word shows."""

    def __init__(self) -> None:
        self._began_ns = 0
        self._last: PromptProgress | None = None

    def step(self, event: PromptProgress, now_ns: int) -> dict[str, Any]:
        """The report of one step."""
        if self._last is None:
            self._began_ns = now_ns
        self._last = event
        return {
            "total": event.prompt_tokens,
            "cache": event.cached_tokens,
            "processed": event.processed_tokens,
            "time_ms": (now_ns - self._began_ns) // _NANOSECONDS_PER_MILLISECOND,
        }

    def end(self, now_ns: int) -> dict[str, Any] | None:
        """The report of the last step, once."""
        last = self._last
        if last is None or last.processed_tokens >= last.prompt_tokens:
            return None
        return self.step(PromptProgress(last.prompt_tokens, last.prompt_tokens, last.cached_tokens), now_ns)
