"""How much one request may hold, beyond the size of its body: what a model's process would take long to get through.

Every limit is far above what people and agents send. How many answers, texts to embed or tokens beside a token there
may be stands where those are decoded.
"""

from __future__ import annotations

from localllm.errors import InvalidFieldError
from localllm.generation import GenerationRequest

MOST_MESSAGES = 10_000
MOST_TOOLS = 1_000
MOST_STOPS, LONGEST_STOP = 64, 1_000
LARGEST_SCHEMA = 256 * 1024
MOST_BIASES = 65_536


def check_limits(request: GenerationRequest) -> None:
    """Raises InvalidFieldError that names the field, how much it holds and what it may."""
    stops = request.options.stop or ()
    schema = request.response_format.schema if request.response_format is not None else None
    for field, what, found, most in (
        ("messages", "messages", len(request.messages or ()), MOST_MESSAGES),
        ("tools", "tools", len(request.tools), MOST_TOOLS),
        ("stop", "texts", len(stops), MOST_STOPS),
        ("stop", "characters in one text", max(map(len, stops), default=0), LONGEST_STOP),
        ("logit_bias", "tokens", len(request.options.logit_bias or ()), MOST_BIASES),
        ("format", "characters", len(schema or ""), LARGEST_SCHEMA),
    ):
        if found > most:
            raise InvalidFieldError(f"{field} has {found} {what}, and {most} is the most", field=field)
    largest = max((len(tool.definition) for tool in request.tools), default=0)
    if largest > LARGEST_SCHEMA:
        raise InvalidFieldError(f"a tool has {largest} characters, and {LARGEST_SCHEMA} is the most", field="tools")
