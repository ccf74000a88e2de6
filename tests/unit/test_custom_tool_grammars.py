"""The input of a custom tool of OpenAI's Responses follows its Lark grammar, in every notation of calls."""

from __future__ import annotations

import functools
import json
import re

import pytest
from chat_templates import upstream_templates
from custom_tools import asked, decoded
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from random_answers import Talk, answers

from localllm.chat.lark_texts import plain_grammar, quoted_grammar
from localllm.dialects.openai_responses_tools import custom_input
from localllm.errors import BadRequestError, InvalidFieldError

# The shape of the grammar with which a coding agent describes patches: rules, aliases, an import, lines of any text.
PATCH = r"""
start: begin_patch hunk+ end_patch
begin_patch: "*** Begin Patch" LF
end_patch: "*** End Patch" LF?

hunk: add_hunk | delete_hunk | update_hunk
add_hunk: "*** Add File: " filename LF add_line+
delete_hunk: "*** Delete File: " filename LF
update_hunk: "*** Update File: " filename LF change_move? change?

filename: /(.+)/
add_line: "+" /(.*)/ LF -> line

change_move: "*** Move to: " filename LF
change: (change_context | change_line)+ eof_line?
change_context: ("@@" | "@@ " /(.+)/) LF
change_line: ("+" | "-" | " ") /(.*)/ LF
eof_line: "*** End of File" LF

%import common.LF
"""
SUM = r"""
?start: sum          // a comment
?sum: product
    | sum ("+" | "-") product -> added
product: atom (("*" | "/") atom)*
atom: NUMBER
    | "(" sum ")"
    | ESCAPED_STRING
NUMBER: /[0-9]{1,3}/ ("." "0".."9"~1..2)?
%import common.ESCAPED_STRING
%import common (WS)
%ignore WS
"""
WORDS = r"""
start: "SAY"i " " word ("," word)* END
word: /[a-z\u00e9]{1,3}/ | /"[^"\n]{1,4}"/ | /\\[tn"]/
END: "\n"? "<end>"
"""
WORD = r'(?:[a-zé]{1,3}|"[^"\n]{1,4}"|\\[tn"])'
LINES = 'start: (/[^\\n]{0,6}/ "\\n"){1,3}'
FREE = "start: /[^<]?(?s:.){0,5}/"

# A model by chance would hardly ever end a line, or a patch.
LIKELY = {**dict.fromkeys(b"\\\n", 3.0), ord("n"): 4.0, ord("*"): 3.0, ord("E"): 4.0}

# JSON; texts as they are between tags, on lines and not; behind keys that name a kind; in elements; Gemma's; Python's;
# behind a header of their own.
TEMPLATES = [
    "Qwen-Qwen3-0.6B",
    "Qwen3-Coder",
    "GLM-4.6",
    "Kimi-K3",
    "deepseek-ai-DeepSeek-V3.2",
    "MiniMax-M3",
    "google-gemma-4-31B-it",
    "LFM2-8B-A1B",
    "openai-gpt-oss-120b",
    "meetkai-functionary-medium-v3.2",
    "mistralai-Mistral-Nemo-Instruct-2407",
    "meta-llama-Llama-3.1-8B-Instruct",
    "moonshotai-Kimi-K2",
]


def is_patch(text: str) -> bool:
    """Whether a text is a patch of that shape, found without a grammar."""
    line, name = "[^\n]*\n", "[^\n]+\n"
    change = rf"(?:(?:@@ {name}|@@\n|[-+ ]{line})+(?:\*\*\* End of File\n)?)?"
    update = rf"\*\*\* Update File: {name}(?:\*\*\* Move to: {name})?{change}"
    hunk = rf"(?:\*\*\* Add File: {name}(?:\+{line})+|\*\*\* Delete File: {name}|{update})"
    return re.fullmatch(rf"\*\*\* Begin Patch\n{hunk}+\*\*\* End Patch\n?", text) is not None


def is_sum(text: str) -> bool:
    """Whether Python, too, reads a text as a sum."""
    atoms = re.sub(r'"(?:[^"\\\n]|\\[^\n])*"', "1", text)
    if re.search(r"[0-9.][ \t\f\r\n]+[0-9.]|[^-0-9.+*/() \t\f\r\n]", atoms):
        return False
    digits = re.sub(r"\b0+(?=[0-9])", "", atoms)
    try:
        compile(f"({digits})", "sum", "eval")
    except SyntaxError:
        return False
    return re.search(r"[0-9]{4,}\b(?!\.)|\*[ \t\f\r\n]*\*|/[ \t\f\r\n]*/", atoms) is None


CHECKS = {
    PATCH: is_patch,
    SUM: is_sum,
    WORDS: re.compile(rf"(?i:say) {WORD}(?:,{WORD})*\n?<end>").fullmatch,
    LINES: re.compile(r"(?:[^\n]{0,6}\n){1,3}").fullmatch,
    FREE: re.compile(r"(?s)[^<]?.{0,5}").fullmatch,
}  # fmt: skip


def check_inputs(name: str, grammar: str) -> None:
    talk = Talk(upstream_templates()[name], likely=LIKELY if grammar == PATCH else None)
    for seed in range(2):
        for said in talk.answers(asked("lark", grammar), seed):
            assert ("stop", ["note"]) == (said.reason.replace("tool_calls", "stop"), [one for one, _ in said.calls][:1])
            for called, arguments in said.calls:
                assert "note" == called
                assert CHECKS[grammar](custom_input(arguments)), custom_input(arguments)


@pytest.mark.parametrize("name", TEMPLATES[:3])
@pytest.mark.parametrize("grammar", [PATCH, WORDS], ids=["patch", "words"])
def test_an_input_follows_its_grammar(name, grammar):
    check_inputs(name, grammar)


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("grammar", CHECKS, ids=["patch", "sum", "words", "lines", "free"])
def test_an_input_follows_its_grammar_in_every_notation(name, grammar):
    check_inputs(name, grammar)


@pytest.mark.parametrize(
    ("grammar", "complaint"),
    [
        ("start: undefined_rule", r'"note" cannot be kept: line 1, column 8: unknown name: "undefined_rule"'),
        ('start: "a" other\nother: /a(?=b)/', "line 2, column 8: .*look-around"),
        ('start: "a"\nother: /a(?=b)/', "the regular expression"),
        ("start: a{2}\na.2: /x/", "line 2.*priority"),
        ('begin: "a"', "start"),
        ('start: "a', "line 1"),
        ("start: <think>", "line 1|special"),
        ('start: %json {"type": "object"}', "line 1"),
        ("start: /a$/", "note.*\\$"),
    ],
)
def test_a_grammar_that_cannot_be_kept_is_refused_with_the_place_and_the_reason(grammar, complaint):
    for choice in ("auto", "required"):
        with pytest.raises(BadRequestError, match=complaint):
            answers(asked("lark", grammar, choice), upstream_templates()["Qwen-Qwen3-0.6B"])


def test_what_is_neither_lark_nor_regex_is_refused_and_nothing_is_told_to_be_ignored():
    assert ((), ()) == (decoded("regex", "x").ignored, decoded("lark", 'start: "x"').ignored)
    with pytest.raises(InvalidFieldError, match="lark"):
        decoded("ebnf", "x")
    with pytest.raises(InvalidFieldError, match="definition"):
        decoded("lark", None)


def test_a_call_that_is_the_models_own_choice_follows_the_grammar_too():
    begin = list(b"Let me see.\n<tool_call>\n")
    for said in answers(asked("lark", PATCH, "auto"), upstream_templates()["Qwen-Qwen3-0.6B"], begin=begin):
        assert [is_patch(custom_input(arguments)) for _, arguments in said.calls[:1]] == [True]


def allows(grammar: str, text: str) -> bool:
    tokenizer = LLTokenizer("byte")
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(grammar), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    tokens = tokenizer.tokenize_bytes(text.encode())
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def samples(grammar: str) -> st.SearchStrategy[str]:
    """Texts of a grammar with a few characters changed, and any others."""
    good = {
        PATCH: [
            '*** Begin Patch\n*** Add File: a "b"\\\n+\n+\tx = "\\n"\n*** End Patch',
            "*** Begin Patch\n*** Update File: é\n*** Move to: ü\n@@ f\n-a\n+b\n c\n*** End of File\n"
            "*** Delete File: x\n*** End Patch\n",
        ],
        SUM: ['1 + (2.5*"a\\"b")\n\t- 3', '"\\\\" / 12'],
        WORDS: ['say a,"b\t\\c",\\",\\n\n<end>', 'SAY "é"<end>'],
        LINES: ['a"\\\n\n\tb\n', "\n"],
        FREE: ["ab\n\\", '"'],
    }[grammar]
    changed = st.tuples(
        st.sampled_from(good), st.integers(0, 80), st.sampled_from(["", '"', "\\", "\n", "<", "a", "+", " "])
    )
    return changed.map(lambda one: one[0][: one[1]] + one[2] + one[0][one[1] + 1 :]) | st.sampled_from(good)


@pytest.mark.parametrize("grammar", CHECKS, ids=["patch", "sum", "words", "lines", "free"])
def test_a_text_is_allowed_in_its_place_if_the_grammar_itself_allows_it(grammar):
    ends = ["</arg_value>", "\n</parameter>", '<|"|>']

    own = grammar.replace("%import common.ESCAPED_STRING", r'ESCAPED_STRING: /"([^"\\\n]|\\[^\n])*"/')

    @settings(max_examples=60, deadline=None)
    @given(samples(grammar))
    def check(text: str) -> None:
        is_good = allows(own, text)
        assert is_good == allows(quoted_grammar(grammar), json.dumps(text, ensure_ascii=False)[1:-1])
        for end in ends:
            is_allowed = allows(plain_grammar(grammar, (end.strip(),), json.dumps(end)), text + end)
            # Blanks at the end that say nothing may be taken for those before the mark.
            assert is_good == is_allowed or (is_good and "%ignore" in grammar and text[-1].isspace())

    check()


@pytest.mark.parametrize("text", ["x\n\n<b\n", "\n\n</pa\n", "\n<b\n</par\n", "a\n<\n", "\n\n\n", "\n"])
def test_a_line_may_begin_as_the_mark_behind_a_line_break_does(text):
    end = "\n</parameter>"
    assert allows(LINES, text)
    assert allows(plain_grammar(LINES, (end.strip(),), json.dumps(end)), text + end)


def test_a_text_with_the_mark_that_ends_it_is_not_allowed():
    grammar = plain_grammar(LINES.replace("6", "20"), ("</x>",), json.dumps("</x>"))
    assert allows(grammar, "a <x> </ x>\n</x>")
    assert not allows(grammar, "a </x>\n</x>")


def test_a_grammar_of_which_everything_may_be_left_out_is_written_once() -> None:
    names = range(1500)
    places = " ".join(f"WORD{name}?" for name in names)
    grammar = "\n".join([f"start: {places}", *(f'WORD{name}: "{name},"' for name in names)])
    for written in (quoted_grammar(grammar), plain_grammar(grammar, ("</p>",), '"</p>"')):
        assert len(written) < 10 * len(grammar)


def test_any_part_of_a_sequence_may_be_its_last() -> None:
    matcher_of = functools.partial(LLMatcher, LLTokenizer("byte"))
    grammar = plain_grammar('start: "a"? ("b" | "c"+)? "d"?', ("</p>",), '"</p>"')
    for text, is_one in {"": True, "a": True, "ab": True, "accd": True, "cc": True, "d": True, "bc": False, "da": False,
                         "abcd": False}.items():  # fmt: skip
        matcher = matcher_of(LLMatcher.grammar_from_lark(grammar))
        tokens = list(f"{text}</p>".encode())
        assert is_one == (matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()), text
