"""What a template is compiled to says the same as jinja2's own code in its own sandbox, and gives away no more."""

from __future__ import annotations

from datetime import datetime

import jinja2
import jinja2.ext
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from localllm.chat.sandbox import Program
from localllm.errors import TemplateError


class Own(dict[str, object]):
    """A dict that is none of the plain ones."""


VALUES = {
    "row": {"a": 1, "none": None, "zero": 0, "text": "t", "items": "an item", "get": "a get", "inner": {"b": [3, 4]}},
    "own": Own(a=1, items="an item"),
    "rows": [{"a": 1}, {"b": 2}, {"a": 0}, {"a": 4, "children": [{"a": 5}]}],
    "text": "some text",
    "number": 7,
}
PROGRAMS = [
    # keys, attributes and what is neither
    "{{ row.a }}{{ row['a'] }}{{ row.inner.b[1] }}{{ row['inner']['b'][0] }}{{ row.nothing }}|{{ row['nothing'] }}",
    "{{ row.items is callable }}{{ row['items'] }}{{ row['keys'] is callable }}{{ row.get is callable }}",
    "{{ own.a }}{{ own['a'] }}{{ own['items'] }}{{ own.items() | list }}{{ own.get('b', 2) }}{{ own.nothing }}",
    "{{ text.upper() }}{{ text['upper']() }}{{ text.nothing is defined }}{{ rows.nothing is undefined }}",
    "{{ missing.a is defined }}",
    "{{ row.none }}{{ row.none is defined }}{{ row.gone is defined }}{{ row.gone | default('d') }}",
    # only their truth
    "{% if row.a %}1{% endif %}{% if row.gone %}2{% endif %}{% if not row.zero %}3{% endif %}"
    "{% if row.items %}4{% endif %}",
    "{% if row['keys'] %}1{% endif %}{% if own.gone %}2{% endif %}{% if own['items'] %}3{% endif %}",
    "{{ row.gone or row.a }}{{ row.a and row.gone }}{{ 'x' if row.gone or not row.none else 'y' }}{{ not row.gone }}",
    "{{ (row.a if row.gone else row.text) if (row.a if row.zero else row.none) else 'z' }}",
    "{% for one in rows if one.a and not one.children %}{{ one.a }}{% else %}none{% endfor %}",
    "{% if missing.gone %}1{% endif %}",
    "{% if text.gone or number.gone or rows.gone %}1{% else %}2{% endif %}",
    # dict methods with and without plain arguments
    "{{ row.get('a') }}{{ row.get('b') }}{{ row.get('b', 'd') }}{{ row.get('b', row.a) }}"
    "{{ row.get('gone', none) is none }}",
    "{% for key, value in row.items() %}{{ key }}{{ value }}{% endfor %}{{ row.keys() | list }}"
    "{{ row.values() | list }}",
    "{{ row.inner.get('b')[0] }}{{ row.get('inner').get('b').index(4) }}{{ row.get(*['a']) }}{{ row.get(**{}) }}",
    "{{ text.get('a') }}",
    # namespaces
    "{% set ns = namespace(a=1) %}{% set ns.b = ns.a + 1 %}{{ ns.a }}{{ ns.b }}{{ ns.c }}{{ ns.c is defined }}",
    "{% set ns = namespace({'items': 1}, self=2) %}{{ ns.items }}{{ ns.self }}{{ ns['items'] }}{{ ns | attr('self') }}",
    "{% set ns = namespace(a=none) %}{% if ns.a %}1{% endif %}{% if ns.gone %}2{% endif %}{% if not ns.a %}3"
    "{% endif %}",
    "{% set ns = namespace(a=1) %}{{ [ns] | map(attribute='a') | list }}{{ ns is mapping }}{{ ns is iterable }}",
    "{% set ns = {'a': 1} %}{% if number %}{% set ns = namespace(a=2) %}{% endif %}{{ ns.a }}",
    "{% set ns = row %}{% for one in rows %}{% set ns = namespace(a=one) %}{% endfor %}{{ ns.a }}",
    "{% set a, b = namespace(x=1), 2 %}{% set a.x = 3 %}{{ a.x }}{{ b }}",
    "{% set row.a = 1 %}",
    # loops, and names that only they assign
    "{% for one in rows %}{% if one.a %}{% set x = one.a %}{% endif %}{{ x }},{% endfor %}{{ x }}",
    "{% set x = 'o' %}{% for one in rows %}{{ x }}{% if one.a %}{% set x = one.a %}{% endif %}{{ x }},"
    "{% endfor %}{{ x }}",
    "{% for one in rows %}{% if one.a %}{% set number = one.a %}{% endif %}{{ number }},{% endfor %}{{ number }}",
    "{% for one in rows %}{% for two in rows %}{% if two.a %}{% set y = loop.index %}{% endif %}{{ y }}"
    "{% endfor %};{% endfor %}",
    "{% for one in [] %}{% set y = 1 %}{{ y }}{% else %}{% if row.a %}{% set y = 2 %}{% endif %}{{ y }}"
    "{% endfor %}{{ y }}",
    "{% for one in rows recursive %}{{ one.a }}{% if one.children %}[{{ loop(one.children) }}]{% endif %}{% endfor %}",
    "{% for one in rows %}{% if loop.first %}{% set z = 1 %}{% endif %}{% for i in range(2) %}{{ z }}"
    "{% endfor %}{% endfor %}",
    "{% for one in rows if one.a %}{% if one.a > 1 %}{% set w = 1 %}{% endif %}{{ w }}{{ loop.length }}{% endfor %}",
    "{% for one in rows %}{{ loop.index }}{{ loop.index0 }}{{ loop.last }}{{ loop.cycle('a', 'b') }}{{ loop.previtem }}"
    "{{ loop.changed(one.a) }}{{ loop.nextitem is defined }}{{ loop.revindex0 }}{{ loop.gone is defined }}{% endfor %}",
    "{{ loop.index }}{{ loop is defined }}",
    "{% for loop_ in rows %}{% for one in rows %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}",
    "{% for one in rows %}{% if one.a %}{% continue %}{% endif %}{{ one.b }}{% break %}{% endfor %}",
    # macros
    "{% macro m(a, b=2, c=none) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c=4) }}{{ m() }}",
    "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(b=1) }}{{ m(*[1, 2]) }}{{ m(**{'a': 3}) }}",
    "{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, b=3) }}{{ m() }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}",
    "{% macro m(a) %}<{{ caller(a) }}>{% endmacro %}{% call(x) m(1) %}{{ x }}{{ number }}{% endcall %}",
    "{% macro m(n) %}{{ n }}{% if n %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(3) }}",
    "{% for one in rows %}{% macro m() %}{{ one.a }}{{ u }}{% endmacro %}{% if one.a %}{% set u = 1 %}"
    "{% endif %}{{ m() }}{% endfor %}",
    "{% autoescape true %}{% macro m(a) %}<{{ a }}>{% endmacro %}{{ m('<b>') }}{{ '<i>' }}{% endautoescape %}"
    "{{ '<i>' }}",
    # texts, sums and blocks
    "{{ 'a' + text + 'b' }}{{ 1 + number }}{{ [1] + [2] }}{{ 1.5 + 1 }}{{ true + 1 }}{{ row.inner.b + [5] }}",
    "{{ 'a' + 1 }}",
    "{{ missing + 'a' }}",
    "{{ true }}{{ none }}{{ 1.0 }}{{ [1, 'a'] }}{{ row.inner }}{{ text }}{{ missing }}",
    "{% set x %}{{ number }}{% for one in rows %}{{ one.a }}{% endfor %}{% endset %}[{{ x }}]{{ x | length }}",
    "{% block b %}{{ number }}{% for one in rows %}{{ one.a }}{% endfor %}{% endblock %}{{ self.b() }}",
    "{% for one in rows %}{% block c scoped %}{{ one.a }}{{ loop.index }}{% endblock %}{% endfor %}",
    "{% with x = row.a %}{{ x }}{% if row.gone %}{% set x = 2 %}{% endif %}{{ x }}{% endwith %}{{ x }}",
    "{% filter upper %}{{ text }}{{ row.a }}{% endfilter %}",
    "{{ 'a&b' | replace('&', '&amp;') }}{{ 'ab' | replace('&', '+') }}{{ 'aaa' | replace('a', 'b', 2) }}"
    "{{ 7 | replace(7, 8) }}",
    "{{ 'ab' | replace('&', missing) }}{{ text | string }}{{ number | string | length }}{{ text | upper | trim }}",
    "{% set ns = namespace(a=1) %}{% set ns._a = 2 %}{{ ns.a }}{{ ns | attr('gone') }}{{ ns['gone'] is defined }}",
]


def plainly(source: str) -> str | None:
    """What jinja2 makes of it, in the environment that transformers has; None where it fails."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    try:
        return environment.from_string(source).render(VALUES)
    except (jinja2.TemplateError, TypeError, ValueError):
        return None


def told(source: str) -> str | None:
    try:
        return Program(source, today=lambda: datetime(2031, 2, 3)).run(dict(VALUES))
    except TemplateError:
        return None


@pytest.mark.parametrize("source", PROGRAMS)
def test_a_program_says_what_jinja_says(source):
    assert plainly(source) == told(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ns._names }}",
        "{{ ns['_names'] }}",
        "{{ ns | attr('_names') }}",
        "{{ [ns] | map(attribute='_names') | list }}",
        "{{ ns._names.update({'a': 2}) }}",
        "{{ ns.__class__ }}",
        "{{ ns['__class__'].__mro__ }}",
        "{{ ns.__init__.__globals__ }}",
        "{{ loop._iterable }}",
        "{{ row.__class__ }}",
        "{{ row['__class__'] }}",
        "{{ row.clear() }}",
        "{{ row.get.__self__.clear() }}",
        "{{ namespace.__init__ }}",
        "{% if ns.__class__ %}{{ ns.__class__.__base__.__subclasses__() }}{% endif %}",
        "{% if row.__class__ %}seen{% endif %}",
        "{% if not row['__class__'] %}no{% else %}seen{% endif %}",
    ],
)
def test_what_stands_in_the_code_itself_opens_no_way_around_the_sandbox(source):
    before = {**VALUES["row"]}
    inside = "{% set ns = namespace(a=1) %}{% for one in rows %}" + source + "{% endfor %}"
    with pytest.raises(TemplateError, match=r"not allowed|is unsafe|no attribute|undefined|safely"):
        Program(inside, today=lambda: datetime(2031, 2, 3)).run(dict(VALUES))
    assert before == VALUES["row"]


def test_a_namespace_that_holds_itself_is_not_printed():
    source = "{% set ns = namespace() %}{% set ns.itself = ns %}{{ ns }}"
    with pytest.raises(TemplateError, match="characters"):
        Program(source, today=lambda: datetime(2031, 2, 3)).run({})


def test_a_name_of_the_code_itself_is_none_of_the_template():
    assert "||" == told("{{ v }}|{{ environment }}|{{ LoopContext }}")
    assert "12" == told("{% set v = 1 %}{{ v }}{% for v in [{'a': 2}] %}{{ v.a }}{% endfor %}")
