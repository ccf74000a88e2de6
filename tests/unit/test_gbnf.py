"""llama.cpp's notation of grammars, read as llguidance's."""

import pytest
from llguidance import LLMatcher

from localllm.chat.gbnf import is_gbnf, lark_of_gbnf
from localllm.engine.grammar import byte_tokenizer
from localllm.errors import BadRequestError

TOKENIZER = byte_tokenizer([*(bytes([byte]) for byte in range(256)), b""], 256)
JSON = r"""
root ::= value
value ::= object | array | string | number | ("true" | "false" | "null") ws   # any
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array ::=
  "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""


def accepts(grammar: str, text: str) -> bool:
    matcher = LLMatcher(TOKENIZER, LLMatcher.grammar_from_lark(lark_of_gbnf(grammar)), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    tokens = list(text.encode())
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@pytest.mark.parametrize(
    "text", ['{"a": [1, -2.5e3, "x\\"y é 漢"], "b": {}}', "[]", "true", '"\\u00e9"', '{"a":\n\t1}']
)
def test_a_grammar_of_json_takes_json(text):
    assert accepts(JSON, text)
    assert not accepts(JSON, text + "x")


@pytest.mark.parametrize(
    ("grammar", "taken", "refused"),
    [
        ('root ::= "a"+ "b"?', ["a", "aab"], ["", "b"]),
        ('root ::= [a-z]+ "ing"', ["walking", "inging"], ["walk"]),  # letter by letter, as llama.cpp reads it
        ("root ::= [^a-c\\]\\-]{2,3}", ["xy", "d.e"], ["x", "ax", "]x", "-x", "wxyz"]),
        ("root ::= [-a]*", ["", "a-a"], ["b"]),
        ("root ::= . .", ["éx", "漢字"], ["a"]),
        ('root ::= ("x" | ) "y"', ["xy", "y"], ["x"]),
        ("root ::= a-b aB\na-b ::= \"1\"\naB ::= '2'".replace("'", '"'), ["12"], ["21"]),
        ('root ::= "\\x41\\u00e9\\n"', ["Aé\n"], ["A"]),
        ('root ::= "q" [^q]* "q" "!"', ["qabcq!"], ["qaqcq!"]),
        ('root ::= "(" root? ")"', ["(())"], ["(()"]),
    ],
)
def test_what_a_grammar_takes(grammar, taken, refused):
    assert dict.fromkeys(taken, True) | dict.fromkeys(refused, False) == {
        text: accepts(grammar, text) for text in [*taken, *refused]
    }


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ('start ::= "a"', 'has no rule "root"'),
        ("root ::= a\nb ::= c", 'uses the rule "a" at line 1, but does not define it'),
        ('"a"', "line 1: a rule begins with its name"),
        ('root ::= "a', "cannot be read at line 1"),
        ('root ::=\n  "a" ?? !', "cannot be read at line 2"),
    ],
)
def test_a_grammar_that_is_none_is_told_where(grammar, message):
    with pytest.raises(BadRequestError, match=message.replace("?", r"\?")):
        lark_of_gbnf(grammar)


def test_the_two_notations_are_told_apart():
    assert [True, False, False] == [is_gbnf(text) for text in ('root ::= "a"', 'start: "a"', 'start: "::="\nx: "y"')]
