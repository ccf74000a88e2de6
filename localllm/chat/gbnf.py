"""llama.cpp's notation of grammars (GBNF) as llguidance's dialect of Lark.

The two differ in little: names of rules, characters' escapes, and that GBNF reads letter by letter where Lark's lexer
takes whole words. So every rule stays a rule, and only characters and literals become terminals.
"""

from __future__ import annotations

import json
import re

from localllm.errors import BadRequestError

_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r\n]+|\#[^\n]*)
      | (?P<define>(?P<name>[A-Za-z0-9_-]+)[ \t\r\n]*::=)
      | (?P<literal>"(?:[^"\\\n]|\\.)*")
      | (?P<characters>\[(?:[^\]\\\n]|\\.)*\])
      | (?P<rule>[A-Za-z_][A-Za-z0-9_-]*)
      | (?P<times>\{[ ]*[0-9]+[ ]*(?:,[ ]*[0-9]*[ ]*)?\})
      | (?P<sign>[()|*+?.])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_LETTERS = {"n": "\n", "r": "\r", "t": "\t"}
ROOT = "root"


def is_gbnf(text: str) -> bool:
    """Whether a grammar is in this notation and not in Lark."""
    return "::=" in text and re.search(r"(?m)^\s*(?:%llguidance\b|start\s*:(?!:))", text) is None


def lark_of_gbnf(text: str) -> str:
    """The same grammar in Lark. Raises BadRequestError that names the line at fault."""
    rules: dict[str, list[str]] = {}
    used: dict[str, int] = {}
    body: list[str] | None = None
    at = 0
    while at < len(text):
        line = text.count("\n", 0, at) + 1
        found = _TOKEN.match(text, at)
        if found is None:
            raise BadRequestError(f"the grammar cannot be read at line {line}: {text[at : at + 20]!r}")
        at = found.end()
        if found["blank"]:
            continue
        if found["define"]:
            body = rules.setdefault(found["name"], [])
            body += ["|"] if body else []
        elif body is None:
            raise BadRequestError(f"the grammar cannot be read at line {line}: a rule begins with its name and ::=")
        else:
            if found["rule"]:
                used.setdefault(found["rule"], line)
            body.append(_written(found))
    return _assembled(rules, used)


def _written(found: re.Match[str]) -> str:
    if found["literal"]:
        return json.dumps(_unescaped(found["literal"][1:-1]), ensure_ascii=False)
    if found["characters"]:
        return _characters(found["characters"])
    if found["rule"]:
        return _name(found["rule"])
    if found["sign"] == ".":
        return "/(?s:.)/"
    return found.group().replace(" ", "")


def _assembled(rules: dict[str, list[str]], used: dict[str, int]) -> str:
    if ROOT not in rules:
        raise BadRequestError('the grammar has no rule "root"')
    missing = next((name for name in used if name not in rules), None)
    if missing is not None:
        raise BadRequestError(f'the grammar uses the rule "{missing}" at line {used[missing]}, but does not define it')
    lines = [f"{_name(name)}: {' '.join(_with_empty(body))}" for name, body in rules.items()]
    return "\n".join(["%llguidance {}", f"start: {_name(ROOT)}", *lines, ""])


def _with_empty(body: list[str]) -> list[str]:
    """With "" in every place where nothing stands between two bars."""
    filled: list[str] = []
    for token in [*body, ""]:
        if token in ("|", ")", "") and (not filled or filled[-1] in ("|", "(")):
            filled.append('""')
        filled += [token] if token else []
    return filled


def _name(name: str) -> str:
    """A name that Lark takes for a rule: no capitals, and no two of them the same."""
    return "g_" + "".join(c if c.islower() or c.isdigit() else f"_{ord(c):x}_" for c in name)


def _characters(text: str) -> str:
    """A class of characters, with all that means something in Rust's classes escaped."""
    inner = text[1:-1]
    negated = inner.startswith("^")
    parts: list[str] = []
    at = int(negated)
    while at < len(inner):
        escape = _ESCAPE.match(inner, at)
        character = _unescaped(escape.group()) if escape else inner[at]
        at = escape.end() if escape else at + 1
        is_range = character == "-" and escape is None and parts and at < len(inner)
        parts.append("-" if is_range else f"\\x{{{ord(character):x}}}")
    if not parts:
        return "/(?s:.)/" if negated else '""'
    return f"/[{'^' * negated}{''.join(parts)}]/"


def _unescaped(text: str) -> str:
    def character(found: re.Match[str]) -> str:
        code = found[1] or found[2] or found[3]
        if code is None:
            return _LETTERS.get(found[4], found[4])
        return chr(int(code, 16)) if int(code, 16) <= 0x10FFFF else found.group()

    return _ESCAPE.sub(character, text)
