"""The alternatives of a JSON Schema, where a notation has a way of writing of its own for each kind of value."""

from __future__ import annotations

from localllm.chat.json_schema import Schema, kinds_of, resolved
from localllm.chat.notation import STANDARD_KEYWORDS, are_disjoint
from localllm.errors import BadRequestError


def branches_of(node: object, root: Schema) -> list[Schema]:
    """A schema as alternatives of which none has alternatives itself. Raises BadRequestError."""
    schema = resolved(node, root)
    key = next((key for key in ("anyOf", "oneOf") if key in schema), None)
    options = schema.get(key) if key else None
    if not isinstance(options, list) or any(name in STANDARD_KEYWORDS and name != key for name in schema):
        return [schema]
    if key == "oneOf" and not are_disjoint([resolved(option, root) for option in options]):
        raise BadRequestError('"oneOf" of schemas that overlap cannot be kept in this model\'s notation')
    return [branch for option in options for branch in branches_of(option, root)]


def has_any_text(branch: Schema) -> bool:
    """Whether a branch allows every text there is."""
    says_more = any(name in STANDARD_KEYWORDS and name != "type" for name in branch)
    return "string" in kinds_of(branch) and not says_more
