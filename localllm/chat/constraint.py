"""What an answer is held to: from a request and what is known of the model's answers to the stages of answer_rules.py.

    thinking      free, up to its end; a budget of tokens ends it
    a format      the answer is JSON, or a text, that was asked for
    tools, auto   free, until a call begins: that is held to the tools' schemas
    tools, must   the answer is a call
    tools, none   free, but for the marks of a call

A schema that cannot be kept is refused where a format was asked for, a call is demanded or the tool is strict. Other
tools are held to as much of their schemas as can be kept: agents bring schemas of all kinds, and did not ask.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from llguidance import regex_to_lark

from localllm.answer_rules import AnswerRules, Free, Held, Mark, Opening, Stage
from localllm.chat.call_grammar import CallableTool, call_grammar, holds_all_calls
from localllm.chat.channel_calls import begun_call, starts_of, whole_calls
from localllm.chat.formats import OutputFormat
from localllm.chat.gbnf import is_gbnf, lark_of_gbnf
from localllm.chat.json_schema import KINDS, bounds_as_floats, closed, unsound
from localllm.chat.lark import BLANKS, Lark, Marks, Part, pattern
from localllm.chat.lark_grammar import complaint_of
from localllm.chat.lark_texts import KEYWORD
from localllm.chat.programs import with_programs
from localllm.chat.syntax import CallSyntax, Channels, PythonSyntax, Syntax
from localllm.errors import BadRequestError
from localllm.generation import GenerationRequest, ResponseFormat, Tool, ToolChoice

logger = logging.getLogger(__name__)

ANY_OBJECT: Mapping[str, object] = {"type": "object"}
NO_ARGUMENTS: Mapping[str, object] = {"type": "object", "properties": {}, "additionalProperties": False}
_AS_FAR_AS_POSSIBLE = {"lenient": True, "coerce_one_of": True}
PLAIN = OutputFormat()


@dataclass(frozen=True, slots=True)
class Grounds:
    """What rules are made of besides the request. `complaint` says what of a schema's text cannot be kept.

    The prompt `opens_thinking`, or `opens_text`, or ends with an answer that has `begun`; else the model `may_think`.
    """

    format: OutputFormat
    marks: Marks
    complaint: Callable[[str], str | None]
    opens_thinking: bool = False
    may_think: bool = False
    opens_text: bool = False
    begun: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks of its answer; `tools` are those that it may call."""

    tools: tuple[Tool, ...]
    tool_choice: ToolChoice
    response_format: ResponseFormat | None
    thinking_budget: int | None


def asked_of(request: GenerationRequest) -> Asked:
    """What is asked; it is the same one for requests that ask for the same."""
    choice, budget = request.tool_choice, request.options.thinking_budget
    may_call = () if choice.mode == "none" else request.tools
    tools = tuple(tool for tool in may_call if not choice.names or tool.name in choice.names)
    return Asked(tools, choice, request.response_format, None if budget is None or budget < 0 else budget)


def grounds_of(
    found: OutputFormat, marks: Marks, complaint: Callable[[str], str | None], request: GenerationRequest, prompt: str
) -> Grounds:
    """The grounds for an answer behind this prompt."""
    continues = request.rendering.continues_final_message
    opens_thinking = found.opens_thinking(prompt)
    return Grounds(
        found,
        marks,
        complaint,
        opens_thinking=opens_thinking,
        may_think=request.think is not False and not opens_thinking and not continues,
        opens_text=found.opens_text(prompt),
        begun=request.messages[-1].content if continues and request.messages else "",
    )


def rules_for(asked: Asked, grounds: Grounds) -> AnswerRules | None:
    """The rules of the answer, None if it is free. Raises BadRequestError for what cannot be kept."""
    plan = _Plan(asked, grounds)
    stages = plan.stages()
    if not any(_holds(stage) for stage in stages):
        return None
    return AnswerRules(tuple(stages), grounds.begun, plan.held_tools)


def _holds(stage: Stage) -> bool:
    if isinstance(stage, Held):
        return True
    return stage.most_tokens is not None or bool(stage.forbidden)


class _Plan:
    """The stages of one answer. Stage 0 is where it begins; others are found by the names they are made for."""

    def __init__(self, asked: Asked, grounds: Grounds) -> None:
        self._asked = asked
        self._grounds = grounds
        self._format = grounds.format
        self._stages: list[Stage] = []
        self._places: dict[str, int] = {}
        self._must_call = asked.tool_choice.mode == "required"
        syntax, mark = self._format.calls if asked.tools else None, self._format.program_mark
        self._syntax = with_programs(syntax, mark, asked.tools)[0] if syntax is not None else None
        self._callable = self._callable_tools()

    def stages(self) -> list[Stage]:
        if self._must_call and not self._callable:
            raise BadRequestError("a call cannot be forced: this model has no notation for calls that is known")
        self._place("start", lambda: self._thinking() if self._grounds.opens_thinking else self._answer(is_first=True))
        return self._stages

    @property
    def held_tools(self) -> frozenset[str]:
        """The tools that can be called, each held to its schema."""
        return frozenset(tool.name for tool in self._callable)

    def _place(self, name: str, make: Callable[[], Stage]) -> int:
        """The number of the stage of that name, made if it is not there yet."""
        if name not in self._places:
            self._places[name] = at = len(self._stages)
            self._stages.append(Free())  # stages lead to one another: the place is known before what stands there
            self._stages[at] = make()
        return self._places[name]

    @property
    def _is_held(self) -> bool:
        return self._must_call or self._asked.response_format is not None

    def _thinking(self) -> Free:
        assert self._format.thinking is not None
        after = self._place("answer", lambda: self._answer(is_first=False))
        marks = (Mark(self._format.thinking.end, after),)
        return Free(marks, most_tokens=self._asked.thinking_budget, must_go_on=self._is_held)

    def _answer(self, *, is_first: bool) -> Stage:
        return self._held_answer(is_first) if self._is_held else self._free_answer(is_first)

    def _thinking_place(self) -> int:
        return self._place("thinking", self._thinking)

    def _held_answer(self, is_first: bool) -> Held:
        """A call, or what was asked for; a model that may think can do so before."""
        lark = self._new_lark()
        start = self._first_mark(is_first)
        wanted: list[str] = []
        if self._callable:
            wanted.append(self._whole_calls(lark, is_first))
        asked = self._asked.response_format
        if asked is not None and not self._must_call:
            body = format_expression(lark, asked, self._complaint)
            wanted.append(" ".join([*self._head_of_text(lark, is_first), body, *self._tail_of_text(lark)]))
        own = lark.rule(*wanted).name
        if not start:
            return Held(lark.text(own), None)
        # Some models begin a line before they think. What follows may be an answer after all; a text is to be exact.
        is_exact = asked is not None and asked.kind in ("regex", "grammar") and not self._must_call
        answer = own if is_exact else f"{lark.sequence(BLANKS)} {own}"
        either = lark.rule(answer, lark.sequence(BLANKS, *lark.mark(start)))
        return Held(lark.text(either.name), None, (Mark(start, self._thinking_place()),), lark.text(own))

    def _first_mark(self, is_first: bool) -> str:
        """What thinking begins with where the answer may begin with it; else empty."""
        thinking = self._format.thinking
        return thinking.start if is_first and self._grounds.may_think and thinking is not None else ""

    @property
    def _may_call_again(self) -> bool:
        return self._asked.tool_choice.parallel

    def _head_of_text(self, lark: Lark, is_first: bool) -> list[str]:
        """What stands before an answer's text: blanks behind thinking, and the model's own marks."""
        channels, answer = self._format.channels, self._format.answer
        if is_first and (self._grounds.opens_text or self._grounds.begun):
            return []
        if channels is not None:
            start = "" if is_first else channels.start
            return [lark.sequence(*lark.mark(start + header_of_text(self._format, channels)))]
        blanks: tuple[Part, ...] = (BLANKS,) if self._format.thinking and not is_first else ()
        if answer is not None and answer.start:
            return [f"({lark.sequence(*blanks, *lark.mark(answer.start), BLANKS)})?", lark.sequence(*blanks)]
        return [lark.sequence(*blanks)] if blanks else []

    def _tail_of_text(self, lark: Lark) -> list[str]:
        answer = self._format.answer
        ends = lark.end_words(answer.ends[:1]) if answer is not None else []
        return [f"({lark.sequence(BLANKS, *lark.mark(end))})?" for end in ends]

    def _whole_calls(self, lark: Lark, is_first: bool) -> str:
        """An answer that is a call, or several if there may be."""
        channels = self._format.channels
        if channels is not None and self._syntax is not None:
            return whole_calls(lark, channels, self._syntax, self._callable, is_first=is_first)
        call = lark.rule(self._calls(lark, None))
        is_one_list = self._syntax is not None and holds_all_calls(self._syntax)
        is_repeated = self._may_call_again and self._format.parallel_calls and not is_one_list
        more = f" ({lark.sequence(BLANKS, call)})*" if is_repeated else ""
        blanks = "" if self._first_mark(is_first) else f"{lark.sequence(BLANKS)} "
        return f"{blanks}{call.name}{more}"

    def _free_answer(self, is_first: bool) -> Free:
        openings: list[Opening] = []
        if start := self._first_mark(is_first):
            openings.append(Opening(rb"\s*" + re.escape(start.encode()), self._thinking_place()))
        if self._callable and (opening := self._bare_opening()) is not None:
            openings.append(Opening(opening, self._call_place(None), is_part=True))
        channels = self._format.channels
        if channels is not None and channels.recipient == "" and is_first:
            # The prompt has said the start of the first message.
            openings += [
                Opening(re.escape(start.removeprefix(channels.start).encode()), self._channel_call_place(start))
                for start in starts_of(channels, self._callable)
            ]
        return Free(self._call_marks(), tuple(openings), self._forbidden())

    def _later(self) -> Free:
        """The answer behind its first call, or text: nothing begins here that may only begin an answer."""
        return Free(self._call_marks(), (), self._forbidden())

    def _call_marks(self) -> tuple[Mark, ...]:
        if not self._callable or self._syntax is None:
            return ()
        channels, thinking = self._format.channels, self._format.thinking
        if channels is None:
            return tuple(Mark(start, self._call_place(start)) for start in self._syntax.starts)
        marks = [Mark(start, self._channel_call_place(start)) for start in starts_of(channels, self._callable)]
        text = self._place("text", self._channel_text)
        marks.append(Mark(header_of_text(self._format, channels), text))
        return (*marks, *((Mark(thinking.start, self._thinking_place()),) if thinking is not None else ()))

    def _call_place(self, begun: str | None) -> int:
        return self._place(f"call {begun}", lambda: self._call_stage(lambda lark: self._calls(lark, begun)))

    def _channel_call_place(self, start: str) -> int:
        channels, syntax = self._format.channels, self._syntax
        assert channels is not None
        assert syntax is not None
        tools = starts_of(channels, self._callable)[start]
        return self._place(
            f"call {start}", lambda: self._call_stage(lambda lark: begun_call(lark, channels, syntax, tools))
        )

    def _channel_text(self) -> Free:
        """The text of a channel: only behind its end a call may begin."""
        assert self._format.channels is not None
        later = self._place("later", self._later)
        return Free(tuple(Mark(end, later) for end in self._format.channels.ends))

    def _forbidden(self) -> tuple[str, ...]:
        calls = self._format.calls
        return calls.starts if calls is not None and self._asked.tool_choice.mode == "none" else ()

    def _call_stage(self, write: Callable[[Lark], str]) -> Held:
        lark = self._new_lark()
        return Held(lark.text(write(lark)), self._place("later", self._later) if self._may_call_again else None)

    def _new_lark(self) -> Lark:
        return Lark(self._grounds.marks, self._format.markers)

    def _calls(self, lark: Lark, begun: str | None) -> str:
        assert self._syntax is not None
        return call_grammar(
            lark, self._syntax, self._callable, begun, several=self._may_call_again and self._format.parallel_calls
        )

    def _bare_opening(self) -> bytes | None:
        """What an answer begins with that is a call without a mark."""
        names = b"|".join(re.escape(tool.name.encode()) for tool in self._callable)
        if isinstance(self._syntax, CallSyntax) and self._syntax.bare:
            kind = rb'(?:"type"\s*:\s*"function"\s*,\s*)?'
            key = json.dumps(self._syntax.name_key).encode()
            named = rb'"(?:%b)"\s*:' % names
            return rb"\s*\{\s*" + (kind + key + rb'\s*:\s*"(?:%b)"' % names if self._syntax.name_key else named)
        if isinstance(self._syntax, PythonSyntax) and self._syntax.bare:
            return rb"\s*\[\s*(?:%b)\(" % names
        return None

    def _callable_tools(self) -> list[CallableTool]:
        if self._syntax is None:
            return []
        found = [self._callable_tool(tool, self._syntax) for tool in self._asked.tools]
        return [tool for tool in found if tool is not None]

    def _callable_tool(self, tool: Tool, syntax: Syntax) -> CallableTool | None:
        """The tool with the schema its arguments are held to; None for one that cannot be called in this notation."""
        parameters = parameters_of(tool)
        is_strict = tool.strict or self._must_call
        complaints: list[str] = []
        if tool.input_grammar is not None and (complaint := complaint_of(tool.input_grammar)):
            raise BadRequestError(f'the grammar of the tool "{tool.name}" cannot be kept: {complaint}')
        for schema in (parameters, *(() if is_strict else lesser_schemas(parameters))):
            candidate = CallableTool(tool.name, schema)
            complaint = self._complaint(schema) or self._cannot_write(candidate, syntax)
            if complaint is None:
                if complaints:
                    logger.warning('arguments of "%s" are held to less than its schema: %s', tool.name, complaints[0])
                return candidate
            complaints.append(complaint)
        if is_strict:
            raise BadRequestError(
                f'calls of the tool "{tool.name}" cannot be held to its schema: {complaints[0]}',
                hint=None if self._must_call else 'leave out "strict" to hold them to as much of it as possible',
            )
        logger.warning('calls of "%s" are not held to anything: %s', tool.name, complaints[0])
        return None

    def _complaint(self, schema: Mapping[str, object]) -> str | None:
        return unsound(schema) or self._grounds.complaint(json.dumps(bounds_as_floats(schema)))

    def _cannot_write(self, tool: CallableTool, syntax: Syntax) -> str | None:
        try:
            call_grammar(self._new_lark(), syntax, [tool], None, several=False)
        except BadRequestError as error:
            return error.message
        return None


def header_of_text(found: OutputFormat, channels: Channels) -> str:
    """The header of an answer's text, as that of thinking is written."""
    if found.thinking is not None and channels.thinking:
        return found.thinking.start.replace(channels.thinking, channels.text)
    return f"{channels.text}{channels.header_end}"


def format_expression(
    lark: Lark, wanted: ResponseFormat, complaint_of: Callable[[Mapping[str, object]], str | None]
) -> str:
    """The expression of an answer in this format. Raises BadRequestError."""
    if wanted.kind in ("json_object", "json_schema"):
        said = json.loads(wanted.schema) if wanted.schema is not None else ANY_OBJECT
        schema = closed({} if said is True else {"enum": []} if said is False else said)
        if complaint := complaint_of(schema):
            raise BadRequestError(f"the answer cannot be held to its JSON schema: {complaint}")
        return lark.json(schema).name
    text = wanted.schema or ""
    if wanted.kind == "regex":
        return lark.sequence(pattern(regex_to_lark(text, "dw")))
    return lark.lark(lark_of_gbnf(text) if is_gbnf(text) else text).name


def parameters_of(tool: Tool) -> Mapping[str, object]:
    """The JSON Schema of a tool's arguments, which are an object; without one there are none."""
    definition = json.loads(tool.definition)
    function = definition.get("function") if isinstance(definition, dict) else None
    inner = function if isinstance(function, dict) else definition
    parameters = inner.get("parameters") if isinstance(inner, dict) else None
    if not isinstance(parameters, dict) or not parameters:
        return NO_ARGUMENTS
    if tool.input_grammar is not None and isinstance(texts := parameters.get("properties"), dict):
        texts = {key: {"type": "string", KEYWORD: tool.input_grammar} for key in texts}
        return {"type": "object", "properties": texts, "required": list(texts), "additionalProperties": False}
    return parameters if "$ref" in parameters else {**parameters, "type": "object"}


def lesser_schemas(schema: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Schemas that ask less and less, for one that cannot be kept as it is."""
    yield {**schema, "x-guidance": _AS_FAR_AS_POSSIBLE}
    properties, required = schema.get("properties"), schema.get("required")
    if isinstance(properties, dict):
        kinds = {name: _kind_alone(one) for name, one in properties.items()}
        names = [name for name in required if name in kinds] if isinstance(required, list) else []
        yield {"type": "object", "properties": kinds, "required": names}
    yield ANY_OBJECT


def _kind_alone(schema: object) -> Mapping[str, object]:
    kind = schema.get("type") if isinstance(schema, dict) else None
    return {"type": kind} if isinstance(kind, str) and kind in KINDS else {}
