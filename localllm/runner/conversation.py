"""The child's text side of what comes in: conversation → prompt tokens, and every number of a request.

Preparing runs the model's own template, which may raise, or never return: the daemon's deadline covers that, so nothing
here guards against time. Everything else a bad model file can do in text ends as a TemplateError of one request.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import get_args

from localllm.answer_rules import AnswerRules
from localllm.chat.constraint import Asked, Grounds, asked_of, grounds_of, rules_for
from localllm.chat.formats import OutputFormat
from localllm.chat.parser import OutputParser
from localllm.chat.voices import Sources as VoiceSources
from localllm.chat.voices import Voice, Voices
from localllm.engine.backend import Backend
from localllm.engine.grammar import schema_complaint
from localllm.engine.infill import InfillPrompt, InfillWriter
from localllm.engine.memory import needs_checkpoints
from localllm.engine.sequence import SequenceRequest
from localllm.errors import BadRequestError, UnsupportedError
from localllm.generation import (
    Failed,
    FillIn,
    GenerationRequest,
    Message,
    Priority,
    merge_options,
    sampling_from,
)
from localllm.runner.exchange import Exchange, tail

_PRIORITIES = get_args(Priority)  # from the one that is served first
_KEEP_TOKENS = 4
_KEPT_RULES = 8
_ANSWER_TOKENS = 256  # the room left where the request does not say how long the answer may get


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request ready for the engine, and the parser for what comes back. `parser` is None for raw prompts."""

    sequence: SequenceRequest
    parser: OutputParser | None
    dropped_messages: int = 0
    dropped_tokens: int = 0
    exchange: Exchange | None = None


@dataclass(frozen=True, slots=True)
class Rejection:
    """A request that could not be prepared."""

    id: int
    error: Failed


@dataclass(frozen=True, slots=True)
class Sources:
    """What comes from outside the request: 32 random bits for a seed, an id for a tool call, the local time."""

    new_seed: Callable[[], int]
    new_call_id: Callable[[], str]
    now: Callable[[], datetime]


class Conversations:
    """Prepares requests for one loaded model. `template` replaces the file's own; without either it is ChatML."""

    def __init__(self, backend: Backend, template: str | None, sources: Sources) -> None:
        self._backend = backend
        facts = backend.facts
        self._voices = Voices(
            VoiceSources(
                template or facts.chat_template,
                None if template else facts.tool_template,
                facts.bos_text,
                facts.eos_text,
            ),
            lambda text: len(self.tokenize(text, add_special=False, parse_special=True)) == 1,
            sources.now,
        )
        self._preserved_of: dict[tuple[str, ...], frozenset[int]] = {}
        self._sources = sources
        # Agents send the same tools again and again, and forty of them take 30 ms beside the engine's thread.
        self._rules_for: Callable[[Asked, Grounds], AnswerRules | None] = lru_cache(_KEPT_RULES)(rules_for)

    def prepare(self, request_id: int, request: GenerationRequest) -> Prepared:
        """Render, tokenize, and fix every number. Raises BadRequestError, TemplateError, PromptTooLongError."""
        if request.fill_in is not None:
            infill = self._infill(request, request.fill_in)
            sequence = self._sequence(request_id, request, infill.tokens, self._plain_rules(request))
            return Prepared(sequence, None, 0, infill.dropped_tokens, self._exchange(infill.tokens, request))
        if request.raw or request.prompt_tokens is not None:
            tokens, rules = self._plain_tokens(request), self._plain_rules(request)
            sequence = self._sequence(request_id, request, tokens, rules)
            return Prepared(sequence, None, 0, 0, self._exchange(tokens, request))
        messages, dropped = self._fit(request)
        prompt, tokens, cut = self._prompt(messages, request)
        voice = self._voice(request)
        asked = asked_of(request)
        grounds = grounds_of(voice.format, self._backend, schema_complaint, request, prompt)
        rules = self._rules_for(asked, grounds)
        parser = OutputParser(
            voice.format,
            asked.tools,
            prompt=prompt,
            early=rules.held_tools if request.early_arguments and rules is not None else frozenset(),
            cut_short=asked.thinking_budget is not None,
            new_call_id=self._sources.new_call_id,
        )
        sequence = self._sequence(request_id, request, tokens, rules, self._preserved(voice))
        return Prepared(sequence, parser, dropped, cut, self._exchange(tokens, request))

    def _exchange(self, prompt: list[int], request: GenerationRequest) -> Exchange | None:
        return Exchange(prompt, self._tokenize_more) if request.returns_context else None

    def _prompt(self, messages: tuple[Message, ...], request: GenerationRequest) -> tuple[str, list[int], int]:
        """The text of the new turns, the tokens of all, and how many of the context's were cut to fit."""
        if request.context_tokens is None:
            text = self._render(messages, request)
            return text, self._tokenize_prompt(text), 0
        self._check_tokens(request.context_tokens)
        text = tail(lambda turns: self._render(turns, request), messages)
        new, context = self._tokenize_more(text), list(request.context_tokens)
        room = self._limit(request) - self._answer_room(request) - len(new)
        cut = max(0, len(context) - max(room, 0)) if request.context_policy == "truncate" else 0
        return text, context[cut:] + new, cut

    def _tokenize_more(self, text: str) -> list[int]:
        """Token ids of what stands behind other tokens."""
        return self._backend.tokenize(text, add_special=False, parse_special=True)

    def _plain_rules(self, request: GenerationRequest) -> AnswerRules | None:
        return self._rules_for(asked_of(request), Grounds(OutputFormat(), self._backend, schema_complaint))

    def render(self, request: GenerationRequest) -> tuple[str, list[int]]:
        """The prompt text the model would see, and its tokens."""
        if request.fill_in is not None or request.prompt_tokens is not None:
            infill = request.fill_in and self._infill(request, request.fill_in)
            tokens = infill.tokens if infill else self._plain_tokens(request)
            return b"".join(self.detokenize(tokens)).decode("utf-8", "replace"), tokens
        if request.raw:
            return request.prompt or "", self._tokenize_prompt(request.prompt or "")
        text, tokens, _ = self._prompt(self._fit(request)[0], request)
        return text, tokens

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of any text."""
        return self._backend.tokenize(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, tokens: Sequence[int]) -> list[bytes]:
        """The bytes of each token. Raises BadRequestError for one that the vocabulary does not have."""
        self._check_tokens(tokens)
        return [self._backend.token_bytes(token, special=True) for token in tokens]

    def _plain_tokens(self, request: GenerationRequest) -> list[int]:
        """The tokens of a prompt without a template: those that were sent, or those of its text."""
        if request.prompt_tokens is None:
            return self._tokenize_prompt(request.prompt or "")
        self._check_tokens(request.prompt_tokens)
        return list(request.prompt_tokens)

    def _check_tokens(self, tokens: Sequence[int]) -> None:
        size = self._backend.facts.vocabulary_size
        wrong = next((token for token in tokens if not 0 <= token < size), None)
        if wrong is not None:
            raise BadRequestError(f"there is no token {wrong}: the model's are 0 to {size - 1}")

    def _infill(self, request: GenerationRequest, fill_in: FillIn) -> InfillPrompt:
        """The prompt around a gap; with the policy "truncate" it leaves out what leaves no room for an answer."""
        marks = self._backend.facts.infill
        if marks is None:
            raise UnsupportedError(
                f'"{request.model}" does not support insert: its vocabulary has no tokens for text around a gap',
                hint="use a model made for completing code, such as qwen2.5-coder",
            )
        room = self._limit(request) - self._answer_room(request)
        writer = InfillWriter(
            marks,
            lambda text: self._backend.tokenize(text, add_special=False, parse_special=False),
            self._backend.tokenize("", add_special=True, parse_special=False)[:1],
        )
        room_or_none = room if request.context_policy == "truncate" else None
        return writer.write(request.prompt or "", fill_in.suffix, fill_in.files, room_or_none)

    def _answer_room(self, request: GenerationRequest) -> int:
        """The tokens to leave for the answer where a prompt is cut to fit."""
        most = request.options.num_predict
        return _ANSWER_TOKENS if most is None or most < 0 else max(most, 1)

    def _tokenize_prompt(self, prompt: str) -> list[int]:
        """Token ids of a rendered prompt: special tokens are read, and BOS is not added twice."""
        bos = self._backend.facts.bos_text
        has_bos = bool(bos) and prompt.startswith(bos)
        return self._backend.tokenize(prompt, add_special=not has_bos, parse_special=True)

    def _limit(self, request: GenerationRequest) -> int:
        facts = self._backend.facts
        most = min(facts.trained_context_tokens or facts.sequence_tokens_most, facts.sequence_tokens_most)
        return min(request.options.num_ctx or most, most)

    def _sequence(
        self,
        request_id: int,
        request: GenerationRequest,
        tokens: list[int],
        rules: AnswerRules | None,
        preserved: frozenset[int] = frozenset(),
    ) -> SequenceRequest:
        options = merge_options(request.options, self._backend.facts.sampling_defaults)
        sampling = sampling_from(options)
        if not tokens:
            raise BadRequestError("the prompt is empty", hint="send at least one character")
        self._check_tokens([token for token, _ in sampling.logit_bias])
        predict = options.num_predict
        return SequenceRequest(
            id=request_id,
            prompt=tokens,
            sampling=sampling,
            seed=self._sources.new_seed() if sampling.seed is None else sampling.seed,
            limit_tokens=self._limit(request),
            max_new_tokens=None if predict is None or predict < 0 else predict,
            stop=options.stop or (),
            preserved_tokens=preserved,
            constraint=self._backend.new_constraint(rules) if rules is not None else None,
            shifts=request.shifts_context,
            keep_tokens=_keep_tokens(options.num_keep, len(tokens)),
            priority=_PRIORITIES.index(request.priority),
            client=request.client,
            message_starts=self._message_starts(tokens),
            logprobs=request.logprobs,
            prompt_logprobs=request.prompt_logprobs,
            prefill_seconds_most=request.prefill_seconds_most,
            decode_seconds_most=request.decode_seconds_most,
        )

    def _message_starts(self, tokens: list[int]) -> tuple[int, ...]:
        """Where a control token follows an ordinary one: there a later prompt is likely to go on differently."""
        if not needs_checkpoints(self._backend.facts.memory):
            return ()
        controls = [self._backend.is_control(token) for token in tokens]
        return tuple(at for at in range(1, len(tokens)) if controls[at] and not controls[at - 1])

    def _render(self, messages: tuple[Message, ...], request: GenerationRequest) -> str:
        rendering = request.rendering
        return self._voice(request).template.render(
            messages,
            tuple(tool for tool in request.tools if tool.is_listed),
            think=request.think,
            add_generation_prompt=rendering.prompts,
            continue_final_message=rendering.continues_final_message,
            variables=_template_variables(request),
        )

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

    def _voice(self, request: GenerationRequest) -> Voice:
        # Compiled and probed at the first use, inside the daemon's render deadline: both run the file's own template.
        return self._voices.of(has_tools=bool(request.tools), instead=request.template)

    def _preserved(self, voice: Voice) -> frozenset[int]:
        markers = voice.format.markers
        if markers not in self._preserved_of:
            self._preserved_of[markers] = self._control_tokens(markers)
        return self._preserved_of[markers]

    def _control_tokens(self, markers: tuple[str, ...]) -> frozenset[int]:
        """The markers that are one token of the vocabulary: their text must come out, control tokens or not."""
        tokenized = [self.tokenize(marker, add_special=False, parse_special=True) for marker in markers]
        return frozenset(tokens[0] for tokens in tokenized if len(tokens) == 1)


def _keep_tokens(num_keep: int | None, prompt_tokens: int) -> int:
    """How many tokens a shift keeps: Ollama's default is 4, -1 the whole prompt."""
    if num_keep is None:
        return _KEEP_TOKENS
    return prompt_tokens if num_keep < 0 else num_keep


def _messages(request: GenerationRequest) -> tuple[Message, ...]:
    """The conversation: the request's own, or one made of its system text and prompt."""
    if request.messages is not None:
        return request.messages
    system = (Message("system", request.system),) if request.system else ()
    return (*system, Message("user", request.prompt or ""))


def _template_variables(request: GenerationRequest) -> dict[str, object] | None:
    """The client's own variables, and the budget that some templates tell the model of (Seed-OSS)."""
    budget = request.options.thinking_budget
    variables = {} if budget is None or budget < 0 else {"thinking_budget": budget}
    return {**variables, **(json.loads(request.rendering.variables) if request.rendering.variables else {})} or None


def _without(messages: tuple[Message, ...], indices: list[int]) -> tuple[Message, ...]:
    gone = set(indices)
    return tuple(message for index, message in enumerate(messages) if index not in gone)
