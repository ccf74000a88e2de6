"""JSON Schemas that answers are held to: the keywords of draft 2020-12 one by one, and tools as agents have them.

All are within what can be kept; what cannot is in test_constraint.py. `SCHEMAS` is name to schema.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def obj(properties: Schema, required: str = "*", **more: object) -> Schema:
    """A closed object; `required` names members, or is all of them."""
    names = list(properties) if required == "*" else required.split()
    closed = {"type": "object", "properties": properties, "required": names, "additionalProperties": False}
    return {**closed, **more}


def text(**more: object) -> Schema:
    return {"type": "string", **more}


def number(low: float | None = None, high: float | None = None, **more: object) -> Schema:
    bounds = {"minimum": low, "maximum": high}
    return {"type": "number", **{key: value for key, value in bounds.items() if value is not None}, **more}


def integer(low: int | None = None, high: int | None = None, **more: object) -> Schema:
    return {**number(low, high, **more), "type": "integer"}


def several(items: Schema, low: int = 0, high: int = 3, **more: object) -> Schema:
    return {"type": "array", "items": items, "minItems": low, "maxItems": high, **more}


SHORT, FLAG, DAY = text(maxLength=12), {"type": "boolean"}, text(format="date")
KEYWORDS: dict[str, Schema] = {
    # types
    "any value": {},
    "null": {"type": "null"},
    "boolean": FLAG,
    "a text": text(),
    "an integer": {"type": "integer"},
    "a number": {"type": "number"},
    "an empty list": {"type": "array", "maxItems": 0},
    "an object of no known shape": {"type": "object"},
    "two types": {"type": ["string", "null"], "maxLength": 9},
    "four types": {"type": ["integer", "boolean", "null", "string"], "maxLength": 4, "minimum": 3, "maximum": 4},
    "types with keywords of each": {"type": ["array", "object"], "maxItems": 1, "items": FLAG, "properties": {}},
    # listed values
    "a constant text": {"const": "yes"},
    "a constant with quotes": {"const": 'say "no"\\\n\té 漢'},
    "a constant object": {"const": {"a": [1, None, {"b": False}], "c": 0.5}},
    "a constant list": {"const": [1, "two", [3]]},
    "a constant zero": {"const": 0},
    "one of some texts": {"enum": ["red", "green", "blue", "reddish"]},
    "one of some values": {"enum": [1, 2.5, "x", None, True, [], {"k": "v"}]},
    "one of some numbers": {"type": "integer", "enum": [1, 10, 100]},
    "listed values of one type": {"type": "string", "enum": ["a", "ab", "abc"]},
    # texts
    "a text of a length": text(minLength=2, maxLength=5),
    "an exact length": text(minLength=4, maxLength=4),
    "at least one character": text(minLength=1),
    "a pattern": text(pattern="^[A-Z]{2}-[0-9]{3}$"),
    "a pattern within": text(pattern="[0-9]{4}", maxLength=8),
    "a pattern at the start": text(pattern="^ab"),
    "a pattern at the end": text(pattern="xy$", maxLength=6),
    "a pattern of alternatives": text(pattern="^(cat|dog|bird)s?$"),
    "a pattern with classes": text(pattern=r"^\w+\s\d+$", maxLength=20),
    "a pattern and a length": text(pattern="^[a-z]+$", minLength=3, maxLength=6),
    "a pattern of letters that are not ASCII": text(pattern="^[äöü漢]{1,3}$"),
    "a date": DAY,
    "a time": text(format="time"),
    "a date and a time": text(format="date-time"),
    "a duration": text(format="duration"),
    "an address of mail": text(format="email", maxLength=20),
    "a host": text(format="hostname", maxLength=20),
    "an IPv4 address": text(format="ipv4"),
    "an IPv6 address": text(format="ipv6"),
    "a UUID": text(format="uuid"),
    "a URI": text(format="uri", maxLength=40),
    "a date with a pattern": text(format="date", pattern="^20"),
    # numbers
    "an integer from to": integer(3, 17),
    "a negative integer": integer(-20, -3),
    "an integer about zero": integer(-5, 5),
    "an integer above": integer(exclusiveMinimum=10, exclusiveMaximum=20),
    "an integer without end": integer(1000),
    "a multiple": integer(0, 100, multipleOf=7),
    "a number from to": number(0.25, 0.75),
    "a number about zero": number(-1.5, 2.25),
    "a number above": number(exclusiveMinimum=0, exclusiveMaximum=1),
    "a number of halves": number(multipleOf=0.5),
    "a number that is an integer": number(5, 5),
    "a large number": number(1e6, 2e6),
    # lists
    "a list of texts": several(SHORT),
    "a list of a length": several(integer(0, 9), 2, 4),
    "a list of an exact length": several(FLAG, 3, 3),
    "a list of lists": several(several(integer(0, 9), 1, 2), 1, 2),
    "a list of any": {"type": "array", "maxItems": 2},
    "a pair": {"type": "array", "prefixItems": [SHORT, integer(0, 9)], "items": False, "minItems": 2},
    "a pair and more": {"type": "array", "prefixItems": [FLAG, FLAG], "items": integer(0, 9), "maxItems": 4},
    "the beginning of a list": {"type": "array", "prefixItems": [FLAG, SHORT], "maxItems": 2},
    "a list of listed texts": several({"enum": ["a", "b"]}, 1, 3),
    # objects
    "a closed object": obj({"a": SHORT, "b": integer(0, 9)}),
    "optional members": obj({"a": SHORT, "b": FLAG, "c": integer(0, 9)}, ""),
    "a member in the middle is required": obj({"a": FLAG, "b": FLAG, "c": FLAG}, "b"),
    "an open object": {"type": "object", "properties": {"a": FLAG}, "required": ["a"]},
    "a map": {"type": "object", "additionalProperties": integer(0, 99)},
    "a map of objects": {"type": "object", "additionalProperties": obj({"n": integer(0, 9)})},
    "members and a map": {
        "type": "object",
        "properties": {"id": integer(1, 9)},
        "required": ["id"],
        "additionalProperties": SHORT,
    },
    "a required member without a schema": {"type": "object", "required": ["x"]},
    "names by a pattern": {
        "type": "object",
        "patternProperties": {"^n_": integer(0, 9)},
        "additionalProperties": False,
    },
    "patterns and a map": {"type": "object", "patternProperties": {"^n_": integer(0, 9)}, "additionalProperties": FLAG},
    "at least one member": {"type": "object", "minProperties": 1, "additionalProperties": FLAG},
    "at most two members": {"type": "object", "maxProperties": 2, "additionalProperties": FLAG},
    "an empty object": obj({}),
    "names with signs": obj({"a b": FLAG, 'c"d': FLAG, "e\\f": FLAG, "é": FLAG, "$g": FLAG}),
    "a member that cannot be": {"type": "object", "properties": {"a": False, "b": FLAG}, "required": ["b"]},
    "nested objects": obj({"a": obj({"b": obj({"c": obj({"d": FLAG})})})}),
    # combinations
    "any of two types": {"anyOf": [SHORT, integer(0, 9)]},
    "any of two objects": {"anyOf": [obj({"a": FLAG}), obj({"b": SHORT})]},
    "any of overlapping texts": {"anyOf": [text(minLength=8, maxLength=9), text(maxLength=2)]},
    "one of two types": {"oneOf": [FLAG, integer(0, 9)]},
    "one of by a constant": {"oneOf": [obj({"kind": {"const": "a"}, "n": FLAG}), obj({"kind": {"const": "b"}})]},
    "all of two": {"allOf": [{"type": "object", "properties": {"a": FLAG}}, {"required": ["a"]}]},
    "all of bounds": {"allOf": [{"type": "integer"}, {"minimum": 3}, {"maximum": 5}]},
    "all of and any of": {
        "type": "object",
        "allOf": [{"properties": {"a": FLAG}, "required": ["a"]}],
        "anyOf": [{"properties": {"b": FLAG}, "required": ["b"]}],
    },
    "optional by null": obj({"a": {"anyOf": [SHORT, {"type": "null"}]}}),
    # references
    "a definition": {"$defs": {"d": integer(0, 9)}, "type": "array", "items": {"$ref": "#/$defs/d"}, "maxItems": 3},
    "an older definition": {"definitions": {"d": FLAG}, "$ref": "#/definitions/d"},
    "a reference to a member": obj({"a": SHORT, "b": {"$ref": "#/properties/a"}}),
    "a reference by an anchor": {"$defs": {"x": {"$anchor": "here", "type": "boolean"}}, "$ref": "#here"},
    "a tree": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": obj({"v": integer(0, 9), "left": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "v")
        },
    },
    "a list of itself": {
        "$defs": {"l": {"type": "array", "items": {"$ref": "#/$defs/l"}, "maxItems": 1}},
        "$ref": "#/$defs/l",
    },
    "a reference with company": {"$defs": {"n": {"type": "integer"}}, "$ref": "#/$defs/n", "minimum": 2, "maximum": 4},
    # said, but not asked for
    "annotations": obj(
        {
            "a": {
                "type": "boolean",
                "title": "A",
                "description": "It is.",
                "default": True,
                "examples": [False],
                "deprecated": True,
                "readOnly": False,
                "$comment": "x",
            }
        },
        title="T",
        **{"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "http://x.y/z"},
    ),
    "unknown words": obj({"a": {"type": "boolean", "x-order": 1, "enumNames": ["a"], "ui": {"widget": "box"}}}),
    "an encoded text": text(contentEncoding="base64", contentMediaType="text/plain", maxLength=8),
    "a format of numbers": {"type": "integer", "format": "int32", "minimum": 0, "maximum": 9},
}


def tool(**properties: Schema) -> Schema:
    """Arguments of a tool; those whose names end in _ may be missing."""
    names = {name.removesuffix("_"): schema for name, schema in properties.items()}
    return obj(names, " ".join(name for name in properties if not name.endswith("_")))


PATH = text(description="Absolute path of a file", minLength=1, maxLength=30)
POINT = obj({"lat": number(-90, 90), "lon": number(-180, 180)})
TOOLS: dict[str, Schema] = {
    "read_file": tool(path=PATH, offset_=integer(0), limit_=integer(1, 2000)),
    # The bounds, and the texts of half a million, are those of agents that make schemas of their own types.
    "read_lines": tool(
        path=PATH,
        offset_=integer(0, 2**53 - 1),
        limit_={"type": "integer", "exclusiveMinimum": 0, "maximum": 2**53 - 1},
    ),
    "report_findings": tool(
        findings=several(
            obj({"file": PATH, "line": integer(1 - 2**53, 2**53 - 1), "short": text(maxLength=60)}, "file"), 0, 32
        ),
        level_={"type": "string", "enum": ["low", "medium", "high"]},
    ),
    "run_script": tool(script=text(maxLength=524_288), arguments_={"description": "whatever the script takes"}),
    "write_file": tool(path=PATH, content=text()),
    "edit_file": tool(path=PATH, old_text=text(minLength=1), new_text=text(), replace_all_=FLAG),
    "edit_many": tool(path=PATH, edits=several(obj({"old": text(minLength=1), "new": text()}), 1, 2)),
    "list_directory": tool(path=PATH, ignore_=several(SHORT)),
    "find_files": tool(pattern=text(minLength=1), root_=PATH, most_=integer(1, 500)),
    "search_text": tool(
        pattern=SHORT, glob_=SHORT, case_=FLAG, context_=integer(0, 10), mode_={"enum": ["content", "files", "count"]}
    ),
    "move_file": tool(source=PATH, target=PATH, overwrite_=FLAG),
    "delete_files": tool(paths=several(PATH, 1, 3), confirm={"const": True}),
    "run_command": tool(
        command=text(minLength=1),
        timeout_ms_=integer(1, 600_000),
        background_=FLAG,
        environment_={"type": "object", "additionalProperties": SHORT},
    ),
    "run_python": tool(code=text(), packages_=several(text(pattern="^[a-z][a-z0-9_-]*$", maxLength=20))),
    "apply_patch": tool(patch=text(minLength=1), dry_run_=FLAG),
    "todo_list": tool(
        items=several(
            obj({"text": SHORT, "state": {"enum": ["open", "doing", "done"]}, "priority": integer(1, 5)}), 1, 3
        )
    ),
    "ask_user": tool(question=text(minLength=3), options_=several(obj({"label": SHORT, "text": SHORT}), 2, 4)),
    "delegate": tool(task=text(), agent={"enum": ["explore", "plan", "review"]}, budget_=integer(1, 99)),
    "web_search": tool(
        query=text(minLength=2), allowed_=several(text(format="hostname", maxLength=20)), recent_days_=integer(1, 365)
    ),
    "fetch_page": tool(url=text(format="uri", maxLength=40), as_={"enum": ["text", "markdown", "html"]}),
    "http_request": tool(
        method={"enum": ["GET", "POST", "PUT", "DELETE"]},
        url=text(format="uri", maxLength=40),
        headers_={"type": "object", "additionalProperties": SHORT},
        body_={"anyOf": [SHORT, {"type": "object", "additionalProperties": integer(0, 9)}]},
    ),
    "screenshot": tool(area_=obj({"x": integer(0), "y": integer(0), "width": integer(1), "height": integer(1)})),
    "click": tool(
        target={
            "oneOf": [
                obj({"by": {"const": "text"}, "text": SHORT}),
                obj({"by": {"const": "place"}, "x": integer(0, 9999), "y": integer(0, 9999)}),
            ]
        }
    ),
    "press_keys": tool(keys=several({"enum": ["ctrl", "shift", "alt", "enter", "tab", "a", "b"]}, 1, 3)),
    "query_database": tool(
        sql=text(minLength=6),
        parameters_=several({"type": ["string", "number", "null"], "maxLength": 9}),
        limit_=integer(1, 1000),
    ),
    "insert_rows": tool(
        table=text(pattern="^[a-z_]+$", maxLength=20),
        rows=several({"type": "object", "additionalProperties": {"type": ["string", "integer"], "maxLength": 9}}, 1, 2),
    ),
    "create_event": tool(
        title=SHORT,
        start=text(format="date-time"),
        end=text(format="date-time"),
        guests_=several(text(format="email", maxLength=20), 0, 2),
        repeats_={"enum": ["daily", "weekly", None]},
    ),
    "find_events": tool(day_from=DAY, day_to=DAY, calendar_=SHORT),
    "send_mail": tool(
        to=several(text(format="email", maxLength=20), 1, 2),
        subject=text(maxLength=40),
        body=text(),
        attachments_=several(obj({"name": SHORT, "path": PATH}), 0, 1),
    ),
    "send_message": tool(
        channel=text(pattern="^#[a-z-]+$", maxLength=20),
        text=text(minLength=1, maxLength=60),
        thread_=text(pattern=r"^\d{4,8}\.\d{3}$"),
    ),
    "create_ticket": tool(
        title=SHORT,
        kind={"enum": ["bug", "task", "story"]},
        points_={"enum": [1, 2, 3, 5, 8]},
        labels_=several(SHORT),
        parent_={"anyOf": [text(pattern="^[A-Z]+-[0-9]+$", maxLength=9), {"type": "null"}]},
    ),
    "open_pull_request": tool(title=SHORT, base=SHORT, head=SHORT, draft_=FLAG, reviewers_=several(SHORT, 0, 2)),
    "review_lines": tool(
        comments=several(
            obj(
                {"path": PATH, "line": integer(1), "side": {"enum": ["left", "right"]}, "text": SHORT}, "path line text"
            ),
            1,
            2,
        )
    ),
    "get_weather": tool(place=SHORT, days=integer(1, 14), unit_={"enum": ["celsius", "fahrenheit"]}),
    "route": tool(start=POINT, end=POINT, via_=several(POINT, 0, 1), mode={"enum": ["car", "foot", "bike"]}),
    "geocode": tool(address=obj({"street": SHORT, "city": SHORT, "zip": text(pattern="^[0-9]{5}$")}, "city")),
    "convert_currency": tool(
        amount=number(exclusiveMinimum=0), source=text(pattern="^[A-Z]{3}$"), target=text(pattern="^[A-Z]{3}$")
    ),
    "stock_prices": tool(
        symbols=several(text(pattern="^[A-Z]{1,5}$"), 1, 3), since_=DAY, step_={"enum": ["1m", "1h", "1d"]}
    ),
    "place_order": tool(
        lines=several(obj({"sku": text(pattern="^[A-Z0-9]{4,8}$"), "count": integer(1, 99)}), 1, 2),
        ship_to=obj({"name": SHORT, "country": text(minLength=2, maxLength=2)}),
        gift_=FLAG,
    ),
    "refund": tool(
        order=text(format="uuid"), amount_=number(0.5, 999.5, multipleOf=0.5), reason={"enum": ["damaged", "late"]}
    ),
    "book_flight": tool(
        origin=text(pattern="^[A-Z]{3}$"),
        destination=text(pattern="^[A-Z]{3}$"),
        day=DAY,
        passengers=obj({"adults": integer(1, 9), "children": integer(0, 9)}, "adults"),
        cabin_={"enum": ["economy", "business"]},
    ),
    "set_lights": tool(room=SHORT, on=FLAG, brightness_=integer(0, 100), colour_=text(pattern="^#[0-9a-f]{6}$")),
    "set_thermostat": tool(celsius=number(5, 30, multipleOf=0.5), until_=text(format="time")),
    "start_timer": tool(seconds=integer(1, 86_400), label_=SHORT),
    "play_music": tool(
        what={"anyOf": [obj({"song": SHORT}), obj({"artist": SHORT}), obj({"list": SHORT})]}, loud_=number(0, 1)
    ),
    "deploy": tool(
        service=text(pattern="^[a-z]([a-z0-9-]*[a-z0-9])?$", maxLength=20),
        version=text(pattern=r"^v\d+\.\d+\.\d+$"),
        replicas_=integer(1, 20),
        region={"enum": ["eu", "us", "ap"]},
    ),
    "scale": tool(target=obj({"kind": {"const": "deployment"}, "name": SHORT}), replicas=integer(0, 50)),
    "read_logs": tool(
        service=SHORT, since=text(format="date-time"), levels_=several({"enum": ["info", "warn", "error"]}, 1, 3)
    ),
    "create_host": tool(
        name=text(format="hostname", maxLength=20),
        address={"anyOf": [text(format="ipv4"), text(format="ipv6")]},
        ports=several(integer(1, 65_535), 1, 3),
    ),
    "firewall_rule": tool(
        allow=FLAG, protocol={"enum": ["tcp", "udp"]}, port={"anyOf": [integer(1, 65_535), {"const": "any"}]}
    ),
    "translate": tool(text=text(), to=text(pattern="^[a-z]{2}(-[A-Z]{2})?$"), formal_={"type": ["boolean", "null"]}),
    "summarise": tool(source=obj({"url": text(format="uri", maxLength=40)}), words_=integer(10, 500)),
    "classify": tool(label={"enum": ["spam", "ham"]}, confidence=number(0, 1), reasons_=several(SHORT)),
    "extract_invoice": tool(
        number=SHORT,
        issued=DAY,
        total=number(0),
        currency={"enum": ["EUR", "USD"]},
        lines=several(obj({"what": SHORT, "count": integer(1), "each": number(0)}), 1, 2),
        vat_id_={"anyOf": [text(pattern="^[A-Z]{2}[0-9]{8}$"), {"type": "null"}]},
    ),
    "extract_people": tool(
        people=several(
            obj({"name": SHORT, "born": {"anyOf": [DAY, {"type": "null"}]}, "roles": several(SHORT, 0, 2)}), 1, 2
        )
    ),
    "grade": tool(score=integer(1, 10), passes=FLAG, notes=several(SHORT, 1, 2)),
    "plan_steps": tool(
        goal=SHORT,
        steps=several(obj({"n": integer(1, 99), "do": SHORT, "after_step": several(integer(1, 99), 0, 2)}), 1, 2),
    ),
    "chart": tool(
        kind={"enum": ["bar", "line"]},
        series=several(obj({"name": SHORT, "values": several(number(0, 99), 1, 3)}), 1, 2),
    ),
    "memory_store": tool(
        key=text(pattern="^[a-z/]+$", maxLength=15), value={"type": ["string", "number", "boolean"], "maxLength": 9}
    ),
    "call_function": tool(
        name=SHORT,
        arguments={"type": "object", "additionalProperties": {"type": ["string", "integer"], "maxLength": 9}},
    ),
    "no_arguments": obj({}),
    "final_answer": tool(answer=text(), sources_=several(text(format="uri", maxLength=40), 0, 2), sure=number(0, 1)),
    "comment_tree": {
        "$defs": {
            "c": obj(
                {"text": SHORT, "replies": {"type": "array", "items": {"$ref": "#/$defs/c"}, "maxItems": 1}}, "text"
            )
        },
        "type": "object",
        "properties": {"root": {"$ref": "#/$defs/c"}},
        "required": ["root"],
        "additionalProperties": False,
    },
}

SCHEMAS: dict[str, Schema] = {**KEYWORDS, **{f"tool {name}": schema for name, schema in TOOLS.items()}}
