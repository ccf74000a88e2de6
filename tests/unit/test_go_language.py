"""Go's text/template as chat/go runs it: what is printed, what is true, what is refused and where, and that it ends."""

from __future__ import annotations

import time
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.chat.go import evaluator
from localllm.chat.go.evaluator import Run
from localllm.chat.go.functions import EARLY, functions
from localllm.chat.go.parser import parse
from localllm.chat.go.values import Document, Documents, Record, TypeNames, float_text
from localllm.errors import TemplateError

FUNCTIONS = functions(lambda: datetime(2026, 3, 1, 12, 0))
DATA = {
    "Name": "Ann",
    "Empty": "",
    "Count": 3,
    "Ratio": 1.5,
    "Yes": True,
    "No": False,
    "List": ["a", "b", "c"],
    "None": [],
    "Map": {"b": 2, "a": 1},
    "Deep": {"Inner": {"Leaf": "leaf"}},
    "Item": Record({"Role": "user", "Content": "hi"}),
    "Arguments": Document({"z": "<tag>", "a": [1, None, True]}),
    "Tools": Documents([{"type": "function"}]),
    "Types": TypeNames(["string"]),
    "Word": "é",
}


def run(source: str, data: object = DATA) -> str:
    parsed = parse(source, frozenset((*FUNCTIONS, *EARLY)))
    return Run(parsed.defined, FUNCTIONS).text(parsed.body, data)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("plain } text {", "plain } text {"),
        ("{{ .Name }}", "Ann"),
        ("a  {{- .Name -}}  b", "aAnnb"),
        ("a {{- /* gone */ -}} b{{/* also */}}!", "ab!"),
        ("a\n{{- /* two\nlines */}}\nb", "a\nb"),
        ("{{ .Missing }}|{{ nil | print }}", "<no value>|<nil>"),
        ("{{ .Count }} {{ .Ratio }} {{ .Yes }} {{ -3 }} {{ 0x1F }} {{ 'a' }} {{ 1e6 }}", "3 1.5 true -3 31 97 1e+06"),
        (r'{{ "tab\t\u00e9\x41\101\"" }}{{ `raw\n` }}', 'tab\té\x41A"raw\\n'),
        ("{{ .List }} {{ .None }} {{ .Map }} {{ .Item }}", "[a b c] [] map[a:1 b:2] {user hi}"),
        ("{{ .Arguments }}", '{"z":"\\u003ctag\\u003e","a":[1,null,true]}'),
        ("{{ .Tools }} {{ .Types }} {{ json .Types }} {{ json .Item }}",
         '[{"type":"function"}] string "string" {"Role":"user","Content":"hi"}'),
        ("{{ .Deep.Inner.Leaf }} {{ (index .List 1) }} {{ $.Name }} {{ (.Deep).Inner.Leaf }}", "leaf b Ann leaf"),
        ("{{ if .Name }}yes{{ else }}no{{ end }}", "yes"),
        ("{{ if .Empty }}1{{ else if .None }}2{{ else if .Count }}3{{ else }}4{{ end }}", "3"),
        ("{{ if .Missing }}1{{ end }}{{ if .No }}2{{ end }}{{ if 0 }}3{{ end }}{{ if .Item }}4{{ end }}", "4"),
        ("{{ with .Deep.Inner }}{{ .Leaf }}{{ end }}{{ with .Empty }}x{{ else }}none{{ end }}", "leafnone"),
        ("{{ with .Empty }}x{{ else with .Name }}{{ . }}{{ end }}", "Ann"),
        ("{{ range .List }}<{{ . }}>{{ end }}{{ range .None }}x{{ else }}none{{ end }}", "<a><b><c>none"),
        ("{{ range $i, $e := .List }}{{ $i }}{{ $e }} {{ end }}{{ range $k, $v := .Map }}{{ $k }}{{ $v }}{{ end }}",
         "0a 1b 2c a1b2"),
        ("{{ range $e := .List }}{{ $e }}{{ end }}{{ range 3 }}{{ . }}{{ end }}", "abc012"),
        ("{{ range .List }}{{ if eq . \"b\" }}{{ continue }}{{ end }}{{ . }}{{ end }}", "ac"),
        ("{{ range $i, $e := .List }}{{ if $i }}{{ break }}{{ end }}{{ $e }}{{ end }}", "a"),
        ("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ $y := 3 }}{{ $y }}{{ end }}{{ $x }}", "32"),
        ("{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ $x }}{{ end }}{{ $x }}", "21"),
        ("{{ $last := \"\" }}{{ range .List }}{{ $last = . }}{{ end }}{{ $last }}", "c"),
        ("{{ and .Name .Empty .Missing.Never }}|{{ or .Empty .Name .Missing.Never }}|{{ and 1 2 }}|{{ or 0 \"\" }}",
         "|Ann|2|"),
        ("{{ not .Name }} {{ not .Empty }}", "false true"),
        ("{{ eq .Name \"x\" \"Ann\" }} {{ ne .Count 3 }} {{ lt 1 2 }} {{ le 2 2 }} {{ gt 1 2 }} {{ ge \"b\" \"a\" }}",
         "true false true true false true"),
        ("{{ eq .Missing nil }} {{ eq .Missing \"\" }} {{ eq .Types \"string\" }}", "true false true"),
        ("{{ len .List }} {{ len .Word }} {{ len .Map }} {{ len .None }}", "3 2 2 0"),
        ("{{ index .Map \"a\" }} {{ index .Map \"zz\" }} {{ index .List 0 }} {{ index .Name 0 }}", "1 <no value> a 65"),
        ("{{ slice .List 1 }} {{ slice .List 0 1 }} {{ slice .Name 1 2 }} {{ slice .List }}", "[b c] [a] n [a b c]"),
        ("{{ range $i, $_ := .List }}{{ if eq (len (slice $.List $i)) 1 }}last{{ end }}{{ end }}", "last"),
        ("{{ print 1 2 \"x\" 3 nil }}|{{ println \"a\" 1 }}", "1 2x3 <nil>|a 1\n"),
        ('{{ printf "%s is %d, %v, %q, %t, %.2f" .Name 7 .List "q\\"" .Yes .Ratio }}',
         'Ann is 7, [a b c], "q\\"", true, 1.50'),
        ('{{ printf "%5d|%-5d|%05d, %x, 100%%" 1 2 3 255 }}', "    1|2    |00003, ff, 100%"),
        ('{{ printf "%*s|%-*d|%*s" 3 "a" 4 7 -2 "b" }}{{ len (printf "a%*s" 5 "") }}', "  a|7   |b 6"),
        ('{{ printf "%s %d" 1 }}{{ printf "x" 1 }}', "%!s(int=1) %!d(MISSING)x%!(EXTRA int=1)"),
        ("{{ .Name | printf \"%s-%s\" \"x\" }} {{ .List | len | printf \"%d\" }}", "x-Ann 3"),
        ('{{ json .Map }} {{ json "a\\"<b>" }} {{ json nil }} {{ json 2.0 }}',
         '{"b":2,"a":1} "a\\"\\u003cb\\u003e" null 2'),
        ("{{ currentDate }} {{ yesterdayDate }} {{ currentDate \"ignored\" }}", "2026-03-01 2026-02-28 2026-03-01"),
        ('{{ define "greet" }}Hello {{ .Name }}{{ $.Count }}{{ end }}{{ template "greet" . }}!', "Hello Ann3!"),
        ('{{ block "inner" .Deep }}{{ .Inner.Leaf }}{{ end }}{{ template "inner" .Deep }}', "leafleaf"),
        ("{{if .Yes}}{{.Name}}{{end}}", "Ann"),
        ("{{\n  .Name\n}}", "Ann"),
        ("{{- if .Yes }}\n  a\n{{- end }}\n", "\n  a\n"),
        ("{{ if and .Yes (or .No (gt .Count 2)) }}deep{{ end }}", "deep"),
    ],
)  # fmt: skip
def test_a_template_prints_what_go_prints(source, text):
    assert text == run(source)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0"), (1.0, "1"), (0.5, "0.5"), (100000.0, "100000"), (1000000.0, "1e+06"), (1234567.5, "1.2345675e+06"),
        (0.0001, "0.0001"), (0.00001, "1e-05"), (-2.5, "-2.5"), (-1e100, "-1e+100"), (float("inf"), "+Inf"),
        (float("nan"), "NaN"), (0.1, "0.1"),
    ],
)  # fmt: skip
def test_a_float_prints_its_shortest_digits(number, text):
    assert text == float_text(number)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ .Name", "line 1 of the chat template: an action is never closed by }}"),
        ("a\n{{ if .Name }}", "line 2 of the chat template: {{ if }} has no {{ end }}"),
        ("{{ end }}", "line 1 of the chat template: {{ end }} without an if, with or range before it"),
        ("{{ if .A }}{{ else }}", "line 1 of the chat template: {{ if }} has no {{ end }} behind its {{ else }}"),
        ("{{ else }}", "line 1 of the chat template: {{ else }} without an if, with or range before it"),
        ("\n\n{{ frobnicate .X }}", "line 3 of the chat template: function frobnicate is not supported"),
        ("{{ html .X }}", "line 1 of the chat template: function html is not supported"),
        ("{{ call .X }}", "line 1 of the chat template: function call is not supported"),
        ("{{ $x }}", "line 1 of the chat template: undefined variable $x"),
        ("{{ $x = 1 }}", "line 1 of the chat template: undefined variable $x"),
        ("{{ if true }}{{ $x := 1 }}{{ end }}{{ $x }}", "line 1 of the chat template: undefined variable $x"),
        ("{{ break }}", "line 1 of the chat template: {{ break }} outside a range"),
        ("{{ }}", "line 1 of the chat template: a value is missing before }}"),
        ("{{ .X | .Y }}", "line 1 of the chat template: a value is piped into something that is no function"),
        ("{{ .X .Y }}", "line 1 of the chat template: only a function takes arguments"),
        ("{{ (len .List }}", "line 1 of the chat template: unexpected }} inside parentheses"),
        ("{{ ; }}", "line 1 of the chat template: unexpected '; }}' in an action"),
        ('{{ "\\z" }}', "line 1 of the chat template: unknown escape \\z in a string"),
        ("{{ template x }}", "line 1 of the chat template: template needs a name in quotes, not x"),
        ('{{ template "x" }}', 'line 1 of the chat template: template "x" is not defined'),
        ('{{ if true }}{{ define "x" }}{{ end }}{{ end }}',
         "line 1 of the chat template: define must not stand inside another block"),
        ("{{ .Item.Rolle }}",
         "line 1 of the chat template: there is no field .Rolle here; there are .Role, .Content"),
        ("{{ .Name.First }}", "line 1 of the chat template: a text has no field .First"),
        ("{{ .Missing.First }}", "line 1 of the chat template: the field .First of nothing is asked for"),
        ("{{ index .List 3 }}", "line 1 of the chat template: index out of range: 3"),
        ("{{ index .Missing 0 }}", "line 1 of the chat template: index of nothing"),
        ("{{ slice .List 2 1 }}", "line 1 of the chat template: slice from 2 to 1"),
        ("{{ len .Missing }}", "line 1 of the chat template: len of nothing"),
        ("{{ len .List 1 }}", "line 1 of the chat template: len does not take 2 values"),
        ("{{ eq .List .List }}", "line 1 of the chat template: eq compares texts, numbers and booleans only"),
        ("{{ eq .Name 1 }}", "line 1 of the chat template: eq compares values of one type only"),
        ("{{ lt .Name 1 }}", "line 1 of the chat template: lt, le, gt and ge compare two numbers or two texts"),
        ("{{ range .Name }}{{ end }}", "line 1 of the chat template: range goes over a list, a map or a number only"),
        ('{{ printf "%9999d" 1 }}',
         "line 1 of the chat template: printf's widths and precisions may be 1000 at most"),
        ('{{ printf "%*d" 99999 1 }}', "line 1 of the chat template: printf's width may be 10000 at most"),
        ('{{ printf "%*d" "a" 1 }}', "line 1 of the chat template: printf's width is a string"),
        ('{{ printf "%U" 1 }}', "line 1 of the chat template: printf's verb %U is not supported"),
        ("{{ /* late */ }}",
         'line 1 of the chat template: a comment must start right behind "{{" and end with "*/}}"'),
    ],
)  # fmt: skip
def test_what_go_or_localllm_refuses_is_told_with_its_line(source, message):
    with pytest.raises(TemplateError) as caught:
        run(source)
    assert message == caught.value.message


@pytest.mark.parametrize(
    "source",
    [
        "{{ range 100000000 }}{{ end }}",
        "{{ range 2000 }}{{ range 2000 }}{{ end }}{{ end }}",
        "{{ $x := \"0123456789\" }}{{ range 100 }}{{ $x = print $x $x }}{{ end }}",
        "{{ $x := \"0123456789\" }}{{ range 30 }}{{ $x = json (print $x $x) }}{{ end }}",
        "{{ range 1000000 }}0123456789012345678901234567890123456789{{ end }}",
        "{{ $x := \"0123456789\" }}{{ range 18 }}{{ $x = print $x $x }}{{ end }}"
        "{{ range 100000 }}{{ len $x }}{{ end }}",
        '{{ define "x" }}{{ template "x" . }}{{ end }}{{ template "x" . }}',
        '{{ define "x" }}{{ range 3 }}{{ template "x" . }}{{ end }}{{ end }}{{ template "x" . }}',
        "{{ if true }}" * 100 + "{{ end }}" * 100,
        "{{ " + "(" * 100 + "1" + ")" * 100 + " }}",
        "{{ if 0 }}" + "{{ else if 0 }}" * 100 + "{{ end }}",
        "{{ 1 }}" * 100_000,
    ],
)  # fmt: skip
def test_what_would_not_end_or_be_too_long_is_refused_in_time(source):
    started = time.process_time()
    with pytest.raises((TemplateError, RecursionError)):
        run(source)
    assert time.process_time() - started < 10


def test_a_long_conversation_is_within_the_bounds():
    messages = [Record({"Content": "x" * 1000}) for _ in range(1000)]
    last = "{{ $last := eq (len (slice $.M $i)) 1 }}"
    source = f"{{{{ range $i, $m := .M }}}}{last}{{{{ $m.Content }}}}{{{{ if $last }}}}!{{{{ end }}}}{{{{ end }}}}"
    assert "x" * 1_000_000 + "!" == run(source, {"M": messages})


PIECES = st.sampled_from(
    ["{{", "}}", "{{- ", " -}}", "if ", "else ", "end ", "range ", "with ", "define ", "template ", "block ", "break",
     "$x", " := ", " = ", ", ", "| ", "(", ")", ".A", ".", ".List ", '"s" ', "`r` ", "1 ", "0.5 ", "len ", "index ",
     "slice ", "printf ", '"%d" ', "json ", "eq ", "and ", "not ", "text", "\n", "/*", "*/", "nil ", "$ "]
)  # fmt: skip
ACTIONS = st.sampled_from(
    ["{{ if .Yes }}", "{{ else }}", "{{ end }}", "{{ range .List }}", "{{ range $i, $e := .Map }}", "{{ with .Item }}",
     "{{ . }}", "{{ .Name }}", "{{ $x := 1 }}", "{{ $x }}", "{{ break }}", "{{ continue }}", "{{ len . }}", " t\n",
     '{{ define "d" }}', '{{ template "d" . }}', "{{ index .List 9 }}", "{{ json . }}", "{{- .Count -}}"]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["A", "List", "Name"]), inner),
    max_leaves=8,
)


def outcome(source, value):
    """What is printed, or how it is refused; anything else is raised."""
    try:
        return run(source, value)
    except TemplateError as error:
        return error


@settings(max_examples=500, deadline=None)
@given(st.lists(PIECES, max_size=25).map("".join) | st.lists(ACTIONS, max_size=20).map("".join), VALUES)
def test_any_source_over_any_data_prints_or_is_refused(source, data):
    for value in (DATA, {"A": data, "List": [data], "Name": data}):
        assert isinstance(outcome(source, value), str | TemplateError)


def test_the_bounds_are_what_the_tests_took_them_for():
    assert (2_000_000, 16 * 2**20) == (evaluator.MAX_STEPS, evaluator.MAX_CHARACTERS)
