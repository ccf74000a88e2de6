"""The markers of thinking and of the answer's text, read off a template; a short table for what none shows."""

from __future__ import annotations

import re

from localllm.chat.probes import ANSWER, CALL, THOUGHT, THOUGHTFUL_ANSWER, THOUGHTFUL_CALL, TOOLS, Probe
from localllm.chat.syntax import TAG, AnswerMarkers, ThinkingMarkers

THINK_TAGS = ThinkingMarkers("<think>", "</think>")
# Many templates leave earlier thinking out; they name the end to cut at it, and not always the start. The text on the
# left is what shows that a template is of such a model.
_KNOWN = (
    ("</think>", THINK_TAGS),
    ("[/THINK]", ThinkingMarkers("[THINK]", "[/THINK]")),
    ("</seed:think>", ThinkingMarkers("<seed:think>", "</seed:think>")),
    ("<|END_THINKING|>", ThinkingMarkers("<|START_THINKING|>", "<|END_THINKING|>")),
    ("<|inner_suffix|>", ThinkingMarkers("<|inner_prefix|>", "<|inner_suffix|>")),  # Apertus
    ("<|begin|>assistant<|think|>", ThinkingMarkers("<|think|>", "<|end|>")),  # Solar Open
    (
        "Here is my thought process:",
        ThinkingMarkers("Here is my thought process:", "Here is my response:"),
    ),  # Granite 3.2
    ("<channel|>", ThinkingMarkers("<|channel>thought", "<channel|>")),  # Gemma 4
    ("[BEGIN FINAL RESPONSE]", ThinkingMarkers("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]")),  # Apriel
)
# Granite 3.3 is told in words to write between these; what Apriel ends an answer with stands in no template.
_KNOWN_ANSWERS = (
    ("<response></response>", AnswerMarkers("<response>", ("</response>",))),
    ("[BEGIN FINAL RESPONSE]", AnswerMarkers("", ("[END FINAL RESPONSE]",))),
)
# How a template cuts earlier thinking off: at a tag that ends something, and is not that of a call or its result.
_CUT_AT = re.compile(r"""split\(\s*(['"])(?P<tag><\|?/[^<>'"\s]+>|\[/[^\[\]'"\s]+\])\1\s*(?:,\s*\d+\s*)?\)""")
# How it cuts out the text of one: behind the last tag that begins it.
_CUT_BEHIND = re.compile(r"""split\(\s*(['"])(?P<tag><[^<>/'"\s]+>)\1\s*\)\s*\[\s*-1\s*\]""")
_ANNOUNCED = re.compile(r"\s*(\w{1,16}[:：])\s*")
_EMPTY_PAIR = re.compile(rf"(?P<start>{TAG})\s*(?P<end>{TAG})\s*\Z")
_NOT_THINKING = re.compile(
    r"tool|call|func|response|answer|result|output|param|arg"
    r"|</(?:b|i|u|s|p|em|strong|small|code|pre|div|span|quote|blockquote|details|summary)>",  # how HTML sets a text
    re.IGNORECASE,
)
_WORD = re.compile(r"think|thought|reason", re.IGNORECASE)
_TAG_AFTER = re.compile(rf"\A(?:{TAG}|\[[A-Z][A-Z ]{{1,40}}\])")
_TAG_AND_WORD = re.compile(rf"{TAG}\w*")
_TAGS_BEFORE = re.compile(rf"(?:{TAG}\w*)+\Z")
_MOST_LINE_CHARACTERS = 64
_MOST_ROW_CHARACTERS = 512


def thinking_markers(probe: Probe) -> ThinkingMarkers | None:
    """What stands around thinking, or None for a model that does not think."""
    # Gemma 4 keeps only the thinking before a call.
    for reply, think in ((THOUGHTFUL_ANSWER, None), (THOUGHTFUL_ANSWER, True), (THOUGHTFUL_CALL, True)):
        shown = probe.show(reply, tools=TOOLS if reply.tool_calls else (), think=think)
        if shown is not None and THOUGHT in shown:
            before, _, after = shown.partition(THOUGHT)
            if found := _markers_around(before.rstrip(), after.lstrip(), probe):
                return found
    source = probe.template.source
    known = next((markers for evidence, markers in _KNOWN if evidence in source), None)
    return known or _cut_off(source) or _left_empty(probe) or (THINK_TAGS if _switches_thinking(probe) else None)


def _switches_thinking(probe: Probe) -> bool:
    """Whether thinking can be switched, though no tag shows: the model is told in words, as Cogito is."""
    on, off = (probe.show(think=think) for think in (True, False))
    return on != off and on is not None and off is not None and THOUGHT not in on


def _cut_off(source: str) -> ThinkingMarkers | None:
    """The tag at which a template cuts, and the one that it ends."""
    ends = (found["tag"] for found in _CUT_AT.finditer(source))
    end = next((end for end in ends if not _NOT_THINKING.search(end)), None)
    return None if end is None else ThinkingMarkers(end.replace("/", "", 1), end)


def _left_empty(probe: Probe) -> ThinkingMarkers | None:
    """The pair with nothing in it at the end of a prompt for an answer without thinking."""
    shown = _EMPTY_PAIR.search((probe.show(think=False, prompts=True) or "")[-_MOST_ROW_CHARACTERS:])
    if shown is None or not _is_pair(shown["start"], shown["end"]):
        return None
    return ThinkingMarkers(shown["start"], shown["end"])


def _markers_around(before: str, after: str, probe: Probe) -> ThinkingMarkers | None:
    """The shortest row of tags before a thought that says what it is, and the tag behind it."""
    row, end = _TAGS_BEFORE.search(before), _TAG_AFTER.search(after)
    tags = _TAG_AND_WORD.findall(row.group()) if row else []
    starts = ("".join(tags[-count:]) for count in range(1, len(tags) + 1))
    start = next((start for start in starts if _WORD.search(start)), "") or _announced(probe)
    if not start and tags and end and _is_pair(tags[-1], end.group()):
        start = tags[-1]
    if not start or not end or len(_TAG_AND_WORD.findall(start)) > 1:
        return None
    says_already = probe.prompt.rstrip().endswith((start, end.group()))
    ends_alone = probe.lead.lstrip().startswith(end.group()) and not says_already
    return ThinkingMarkers(start, end.group(), ends_alone)


def _is_pair(start: str, end: str) -> bool:
    """Whether the second tag says that it ends the first."""
    return end.replace("/", "", 1) == start != end and not _NOT_THINKING.search(end)


def _announced(probe: Probe) -> str:
    """The last line of the prompt, where that says in words that thinking follows."""
    line = probe.prompt.rstrip().rpartition("\n")[2]
    is_said = line.endswith(":") and len(line) <= _MOST_LINE_CHARACTERS and _WORD.search(line)
    return line if is_said and not re.search(TAG, line) else ""


def answer_markers(probe: Probe, thinking: ThinkingMarkers | None) -> AnswerMarkers | None:
    """What stands around the text of an answer, or None where it stands alone."""
    lead = probe.lead
    for marker in (thinking.start, thinking.end) if thinking else ():
        lead = lead.replace(marker, "")
    tags = re.findall(TAG, lead) if re.fullmatch(rf"\s*(?:{TAG}\s*)+", lead) else []
    if not tags or tags[-1] in _row_at_end(probe.prompt):
        source = probe.template.source
        known = next((markers for evidence, markers in _KNOWN_ANSWERS if evidence in source), None)
        found = known or _cut_out(source) or _announced_text(probe)
        return found or (AnswerMarkers("", probe.ends) if _call_follows_end(probe) else None)
    # Where thinking ends as a turn does, what follows it is a turn anew.
    again = probe.prompt_end.strip() if thinking and thinking.end in probe.ends else ""
    return AnswerMarkers(tags[-1], probe.ends, again)


def _cut_out(source: str) -> AnswerMarkers | None:
    """The pair of tags between which a template looks for the text of earlier answers, as Hunyuan's does."""
    starts = (found["tag"] for found in _CUT_BEHIND.finditer(source))
    own = (start for start in starts if not _WORD.search(start) and not re.search("tool|call|func", start))
    pairs = ((start, start.replace("<", "</", 1)) for start in own)
    return next((AnswerMarkers(start, (end,)) for start, end in pairs if end in source), None)


def _announced_text(probe: Probe) -> AnswerMarkers | None:
    """A word and a colon before an answer beside tools, where there are other words before a call."""
    asked, answered = probe.prompt_with_tools, probe.answered or ""
    if not asked or not answered.startswith(asked):
        return None
    said = _ANNOUNCED.fullmatch(answered[len(asked) :].partition(ANSWER.content)[0])
    return AnswerMarkers(said.group(1), ()) if said else None


def _row_at_end(prompt: str) -> list[str]:
    """The tags with which a prompt ends: what a template writes of them before an answer is no mark of the answer."""
    row = re.search(rf"(?:{TAG}\s*)+\Z", prompt[-_MOST_ROW_CHARACTERS:])
    return re.findall(TAG, row.group()) if row else []


def _call_follows_end(probe: Probe) -> bool:
    """Whether a template ends the text, an empty one too, before a call."""
    called = probe.show(CALL, tools=TOOLS) or ""
    at = called.find(CALL.tool_calls[0].name)
    prompt = probe.show(tools=TOOLS, prompts=True) or ""
    begun = called[:at].removeprefix(prompt) if at >= 0 and called.startswith(prompt) else ""
    return bool(probe.ends) and begun.lstrip().startswith(probe.ends[0])
