"""Several answers to one request, generated side by side and told as they come.

    generate() ─┐
    generate() ─┼─▶ OfChoice(index, event) … ─▶ Finished, with the figures of all
    generate() ─┘                         or ─▶ Failed, when one of them failed; the others are cancelled

The engine computes them in one batch, and a prompt that several have only once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import msgspec

from localllm.dialects.body import Decoded
from localllm.generation import (
    AnswerEvent,
    ContentDelta,
    Event,
    Failed,
    Finished,
    GenerationRequest,
    OfChoice,
    PromptProgress,
    Timings,
    Usage,
)
from localllm.server.services import Runner

Answers = Callable[[Runner], AsyncGenerator[AnswerEvent, None]]


def answers(decoded: Decoded, requests: Sequence[GenerationRequest]) -> Answers:
    """What a runner is to do for a body: answer its request, or each of those that are its choices."""

    def stream(runner: Runner, place: int, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        if place in decoded.mixed_prompts:
            return _joined(runner, request, decoded.mixed_prompts[place])
        return _echoed(runner, request) if decoded.echoes else runner.generate(request)

    def generate(runner: Runner) -> AsyncGenerator[AnswerEvent, None]:
        streams = [stream(runner, place, one) for place, one in enumerate(requests)]
        return side_by_side(streams, decoded.candidates_per_prompt) if decoded.choices else streams[0]

    return generate


async def tokens_of(
    runner: Runner, pieces: Sequence[str | int], *, add_special: bool = True, parse_special: bool = True
) -> list[int]:
    """The token ids of texts and token ids in turn; what a model wants around a text comes before the first piece."""
    tokens: list[int] = []
    for place, piece in enumerate(pieces):
        if isinstance(piece, int):
            tokens.append(piece)
        else:
            special = add_special and place == 0
            tokens += await runner.tokenize(piece, add_special=special, parse_special=parse_special)
    return tokens


async def _joined(
    runner: Runner, request: GenerationRequest, pieces: Sequence[str | int]
) -> AsyncGenerator[Event, None]:
    """The events of one request whose prompt is texts and token ids in turn."""
    tokens = tuple(await tokens_of(runner, pieces))
    async with aclosing(runner.generate(msgspec.structs.replace(request, prompt_tokens=tokens))) as events:
        async for event in events:
            yield event


async def _echoed(runner: Runner, request: GenerationRequest) -> AsyncGenerator[Event, None]:
    """The events of one request, and before its text that of its prompt, with the logprobs if they were asked for."""
    text: str | None = None
    async with aclosing(runner.generate(request)) as events:
        async for event in events:
            if not isinstance(event, PromptProgress):
                yield event
                continue
            if text is None:
                text = await _prompt_text(runner, request)
                yield ContentDelta(text)
            yield _without_added_mark(event, text)


def _without_added_mark(progress: PromptProgress, prompt: str) -> PromptProgress:
    """A beginning that the model wants before a prompt is no part of its text: the token's text is empty then."""
    first, *others = progress.logprobs or (None,)
    if first is None or first.logprob is not None or prompt.encode().startswith(first.data):
        return progress
    return msgspec.structs.replace(progress, logprobs=(msgspec.structs.replace(first, data=b""), *others))


async def _prompt_text(runner: Runner, request: GenerationRequest) -> str:
    if request.prompt_tokens is None:
        return request.prompt or ""
    return b"".join(await runner.detokenize(request.prompt_tokens)).decode("utf-8", "replace")


async def side_by_side(
    streams: Sequence[AsyncGenerator[Event, None]], per_prompt: int
) -> AsyncGenerator[AnswerEvent, None]:
    """The events of all streams; each run of `per_prompt` of them is of one prompt, whose tokens count once."""
    events: asyncio.Queue[tuple[int, Event | None]] = asyncio.Queue()
    tasks = [asyncio.create_task(_pump(index, stream, events)) for index, stream in enumerate(streams)]
    finishes: dict[int, Finished] = {}
    try:
        while len(finishes) < len(streams):
            index, event = await events.get()
            if event is None:
                await tasks[index]  # raises what ended it
                if index not in finishes:
                    return
                continue
            if isinstance(event, Failed):
                yield event
                return
            if isinstance(event, Finished):
                finishes[index] = event
            yield OfChoice(index, event)
        yield total([finishes[index] for index in range(len(streams))], per_prompt)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def total(finishes: Sequence[Finished], per_prompt: int) -> Finished:
    """One result for all: tokens added up, a prompt's once, and the longest times."""
    firsts = finishes[::per_prompt]
    return Finished(
        "stop",
        Usage(
            sum(one.usage.prompt_tokens for one in firsts),
            sum(one.usage.cached_tokens for one in firsts),
            sum(one.usage.completion_tokens for one in finishes),
            sum(one.usage.thinking_tokens for one in finishes),
            sum(one.usage.drafted_tokens for one in finishes),
            sum(one.usage.accepted_tokens for one in finishes),
        ),
        Timings(**{name: max(getattr(one.timings, name) for one in finishes) for name in Timings.__struct_fields__}),
        dropped_messages=firsts[0].dropped_messages,
        dropped_tokens=sum(one.dropped_tokens for one in finishes),
        unfinished_tool_call=any(one.unfinished_tool_call for one in finishes),
    )


async def _pump(
    index: int, stream: AsyncGenerator[Event, None], events: asyncio.Queue[tuple[int, Event | None]]
) -> None:
    """Put a stream's events into the queue, and None when it is over, however it ends."""
    try:
        async with aclosing(stream):
            async for event in stream:
                events.put_nowait((index, event))
    finally:
        events.put_nowait((index, None))
