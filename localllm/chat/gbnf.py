"""llama.cpp's notation of grammars (GBNF) as llguidance's dialect of Lark.

The two differ in little: names of rules, characters' escapes, and that GBNF reads letter by letter where Lark's lexer
takes the longest word there is. So every rule stays a rule, and characters and literals become terminals; but so do
texts between two quotes that cannot have that quote in them. Letter by letter they would cost fifty times as much.
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
    terminals: list[str] = []
    lines = [f"{_name(name)}: {' '.join(_with_quoted(_with_empty(body), terminals))}" for name, body in rules.items()]
    quoted = [f"Q{index}: {text}" for index, text in enumerate(terminals)]
    return "\n".join(["%llguidance {}", f"start: {_name(ROOT)}", *lines, *quoted, ""])


def _with_quoted(body: list[str], terminals: list[str]) -> list[str]:
    """With each text between two equal quotes as one terminal."""
    written: list[str] = []
    at = 0
    while at < len(body):
        end = _quoted_end(body, at)
        if end:
            written.append(f"Q{len(terminals)}")
            terminals.append(" ".join(body[at:end]))
        else:
            written.append(body[at])
        at = end or at + 1
    return written


def _quoted_end(body: list[str], start: int) -> int:
    """Where a quoted text that begins at `start` ends; 0 if none does."""
    quote = json.loads(body[start]) if body[start].startswith('"') else ""
    if len(quote) != 1 or start + 1 >= len(body):
        return 0
    at, depth, is_first = start + 1, 0, True
    while at < len(body):
        token = body[at]
        if token.startswith("g_") or (is_first and depth < 2 and _may_begin_with(token, quote)):
            return 0
        depth += {"(": 1, ")": -1}.get(token, 0)
        is_first = token in ("(", "|") and depth == 1
        at += 1
        if depth == 0:
            break
    repeats = at < len(body) and body[at][0] in "*+{"
    return at + 2 if repeats and body[at + 1 : at + 2] == [body[start]] else 0


def _may_begin_with(token: str, quote: str) -> bool:
    if token.startswith('"'):
        return not json.loads(token) or json.loads(token).startswith(quote)
    if token.startswith("/["):
        return (
            re.match(re.sub(r"\\x\{([0-9a-f]+)\}", lambda code: re.escape(chr(int(code[1], 16))), token[1:-1]), quote)
            is not None
        )
    return token != "("


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
