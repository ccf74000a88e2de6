"""The child's text side of one request: conversation → prompt tokens, and engine outputs → events.

Preparing runs the model's own template, which may raise, or never return: the daemon's deadline covers that, so nothing
here guards against time. Everything else a bad model file can do in text ends as a TemplateError of one request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from localllm.chat.formats import OutputFormat
from localllm.chat.parser import OutputParser
from localllm.chat.template import ChatTemplate
from localllm.engine.backend import Backend
from localllm.engine.sequence import Finish, SequenceOutput, SequenceRequest
from localllm.errors import BadRequestError, UnsupportedError
from localllm.generation import (
    ContentDelta,
    Event,
    Finished,
    GenerationRequest,
    Message,
    PromptProgress,
    Timings,
    ToolCallDelta,
    Usage,
    merge_options,
    sampling_from,
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request ready for the engine, and the parser for what comes back. `parser` is None for raw prompts."""

    sequence: SequenceRequest
    parser: OutputParser | None
    dropped_messages: int = 0


class Conversations:
    """Prepares requests for one loaded model. `new_seed` gives 32 random bits for requests that name no seed."""

    def __init__(self, backend: Backend, template: str | None, new_seed: Callable[[], int]) -> None:
        self._backend = backend
        self._template_source = template or backend.facts.chat_template
        self._new_seed = new_seed
        self._template: ChatTemplate | None = None
        self._format: OutputFormat | None = None

    def prepare(self, request_id: int, request: GenerationRequest) -> Prepared:
        """Render, tokenize, and fix every number. Raises BadRequestError, TemplateError, PromptTooLongError."""
        if request.response_format is not None:
            raise UnsupportedError("structured output is not in this version", hint="leave `format` out")
        if request.raw:
            return Prepared(self._sequence(request_id, request, self._tokenize_prompt(request.prompt or "")), None)
        messages, dropped = self._fit(request)
        prompt = self._render(messages, request)
        parser = self._parser(request, prompt)
        return Prepared(self._sequence(request_id, request, self._tokenize_prompt(prompt)), parser, dropped)

    def render(self, request: GenerationRequest) -> str:
        """The prompt text the model would see."""
        return request.prompt or "" if request.raw else self._render(_messages(request), request)

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of any text."""
        return self._backend.tokenize(text, add_special=add_special, parse_special=parse_special)

    def _tokenize_prompt(self, prompt: str) -> list[int]:
        """Token ids of a rendered prompt: special tokens are read, and BOS is not added twice."""
        bos = self._backend.facts.bos_text
        has_bos = bool(bos) and prompt.startswith(bos)
        return self._backend.tokenize(prompt, add_special=not has_bos, parse_special=True)

    def _limit(self, request: GenerationRequest) -> int:
        facts = self._backend.facts
        most = min(facts.trained_context_tokens or facts.pool_tokens, facts.pool_tokens)
        return min(request.options.num_ctx or most, most)

    def _sequence(self, request_id: int, request: GenerationRequest, prompt: list[int]) -> SequenceRequest:
        options = merge_options(request.options, self._backend.facts.sampling_defaults)
        sampling = sampling_from(options)
        if not prompt:
            raise BadRequestError("the prompt is empty", hint="send at least one character")
        predict = options.num_predict
        return SequenceRequest(
            id=request_id,
            prompt=prompt,
            sampling=sampling,
            seed=self._new_seed() if sampling.seed is None else sampling.seed,
            limit_tokens=self._limit(request),
            max_new_tokens=None if predict is None or predict < 0 else predict,
            stop=options.stop or (),
        )

    def _render(self, messages: tuple[Message, ...], request: GenerationRequest) -> str:
        return self._chat_template().render(messages, request.tools, think=request.think)

    def _fit(self, request: GenerationRequest) -> tuple[tuple[Message, ...], int]:
        """The messages that fit: all of them, or with the policy "truncate" without the oldest turns.

        System messages and the last message always stay, as Ollama does; how many went is part of the result.
        """
        messages = _messages(request)
        if request.context_policy == "refuse":
            return messages, 0
        droppable = [index for index, message in enumerate(messages[:-1]) if message.role != "system"]
        low, high = 0, len(droppable)
        while low < high:
            middle = (low + high) // 2
            if self._fits(_without(messages, droppable[:middle]), request):
                high = middle
            else:
                low = middle + 1
        return _without(messages, droppable[:low]), low

    def _fits(self, messages: tuple[Message, ...], request: GenerationRequest) -> bool:
        return len(self._tokenize_prompt(self._render(messages, request))) < self._limit(request)

    def _chat_template(self) -> ChatTemplate:
        if self._template is None:
            facts = self._backend.facts
            self._template = ChatTemplate(self._template_source, bos_token=facts.bos_text, eos_token=facts.eos_text)
        return self._template

    def _parser(self, request: GenerationRequest, prompt: str) -> OutputParser:
        if self._format is None:
            self._format = OutputFormat.of(self._chat_template())
        return OutputParser(self._format, request.tools, self._format.opens_thinking(prompt))


class Stream:
    """One running request: turns the engine's outputs for it into events."""

    def __init__(self, prepared: Prepared) -> None:
        self._parser = prepared.parser
        self._prompt_tokens = len(prepared.sequence.prompt)
        self._dropped_messages = prepared.dropped_messages
        self._has_tool_calls = False

    def started(self) -> PromptProgress:
        """The first event: the prompt's length is known."""
        return PromptProgress(0, self._prompt_tokens)

    def events(self, output: SequenceOutput) -> list[Event]:
        """The events of one output that is not an error."""
        events: list[Event] = []
        if output.prompt_processed is not None:
            events.append(PromptProgress(output.prompt_processed, self._prompt_tokens))
        if output.text:
            events += self._parser.feed(output.text) if self._parser else [ContentDelta(output.text)]
        if output.finish is not None:
            events += self._parser.finish() if self._parser else []
        self._has_tool_calls |= any(isinstance(event, ToolCallDelta) for event in events)
        if output.finish is not None:
            events.append(self._finished(output.finish))
        return events

    def _finished(self, finish: Finish) -> Finished:
        stats = finish.stats
        return Finished(
            reason="tool_calls" if finish.reason == "stop" and self._has_tool_calls else finish.reason,
            usage=Usage(prompt_tokens=stats.prompt_tokens, completion_tokens=stats.completion_tokens),
            timings=Timings(
                queue_seconds=stats.queue_seconds,
                prefill_seconds=stats.prefill_seconds,
                decode_seconds=stats.decode_seconds,
            ),
            dropped_messages=self._dropped_messages,
        )


def _messages(request: GenerationRequest) -> tuple[Message, ...]:
    """The conversation: the request's own, or one made of its system text and prompt."""
    if request.messages is not None:
        return request.messages
    system = (Message("system", request.system),) if request.system else ()
    return (*system, Message("user", request.prompt or ""))


def _without(messages: tuple[Message, ...], indices: list[int]) -> tuple[Message, ...]:
    gone = set(indices)
    return tuple(message for index, message in enumerate(messages) if index not in gone)
