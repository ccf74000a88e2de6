"""A model as the rest of localllm sees it: what it is called, which file holds it, and what that file can do.

Pure data. `Facts` is the part of a GGUF header that is asked for often; a manifest keeps it, so that finding or listing
models opens no GGUF. Whoever needs the whole header (the tensor table, all metadata) asks `Store.header(model)`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from localllm.generation import Message, Options
from localllm.gguf import Header
from localllm.load_options import LoadOptions
from localllm.template_syntax import go_capabilities, is_go

_TOOLS = re.compile(r"tools|tool_call")
_THINKING = re.compile(
    r"</?think>|</?thought>|thought process:|enable_thinking|reasoning_content|reasoning_effort|<\|channel\|>analysis"
    r"|\[/?THINK\]"
    r"|<\|think\|>|<\|inner_prefix\|>|\[BEGIN FINAL RESPONSE\]|<\|END_THINKING\|>|<channel\|>"
)
_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)


_LOADED_AS_USUAL = LoadOptions()


class Facts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a GGUF header says, in short. 0 is "the file does not say"; tokens and counts are whole numbers."""

    architecture: str = ""
    name: str | None = None
    size_label: str | None = None
    file_type: str = "unknown"
    parameter_count: int = 0
    context_length: int = 0
    embedding_length: int = 0
    block_count: int = 0
    tokenizer_model: str | None = None
    chat_template: str | None = None
    tool_template: str | None = None
    is_embedding_model: bool = False
    can_fill_in_the_middle: bool = False


def facts_from(header: Header) -> Facts:
    """The short form of a header."""
    known = {name: getattr(header, name) for name in Facts.__struct_fields__ if name != "tool_template"}
    return Facts(**known, tool_template=header.text("tokenizer.chat_template.tool_use"))


@dataclass(frozen=True, slots=True)
class Model:
    """One registered or bundled model.

    `key` is the identity of what must be loaded: two models with one key can share a runner. `digest` is the hex sha256
    of the manifest's bytes. `template` is the Modelfile's override, `chat_template` what is in force. `parts` are the
    files after the first of a model in several. `parent` is what it was made FROM, `requires` an Ollama version.
    `projector` came with the model, to read images; no engine here uses it yet. `adapters` change the weights.
    `draft_model` guesses for it; `draft` is what its Modelfile named as one.
    """

    name: str
    key: str
    file: Path
    size_bytes: int
    digest: str
    modified_at: datetime
    options: Options
    system: str | None
    template: str | None
    license: str | None
    messages: tuple[Message, ...]
    facts: Facts
    capabilities: tuple[str, ...]
    modelfile: str
    is_bundled: bool = False
    parts: tuple[Path, ...] = ()
    projector: Path | None = None
    load: LoadOptions = _LOADED_AS_USUAL
    parent: str | None = None
    requires: str | None = None
    adapters: tuple[Path, ...] = ()
    draft: str | None = None
    draft_model: Path | None = None

    @property
    def family(self) -> str:
        """The architecture, "llama"."""
        return self.facts.architecture

    @property
    def parameter_size(self) -> str:
        """The number of parameters for people, "6.1M"."""
        return format_parameter_count(self.facts.parameter_count)

    @property
    def quantization_level(self) -> str:
        """The file type, "Q4_K_M"."""
        return self.facts.file_type

    @property
    def ignores_draft(self) -> bool:
        """Whether DRAFT named something that has no effect: it did before there were draft models."""
        return self.draft is not None and self.draft_model is None

    @property
    def context_length(self) -> int:
        """Tokens the model was trained on at once; 0 when the file does not say."""
        return self.facts.context_length

    @property
    def embedding_length(self) -> int:
        return self.facts.embedding_length

    @property
    def chat_template(self) -> str | None:
        """The Modelfile's TEMPLATE, or else the file's own."""
        return self.template if self.template is not None else self.facts.chat_template


def format_parameter_count(count: int) -> str:
    """6144000 → "6.1M", 8030261248 → "8.0B", 999 → "999"."""
    for size, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)


def capabilities_of(facts: Facts, template: str | None) -> tuple[str, ...]:
    """What a model can do, in Ollama's words, as far as its header and the template in force show."""
    if facts.is_embedding_model:
        return ("embedding",)
    text = template or ""
    if is_go(text):
        return ("completion", *go_capabilities(text))
    shown = _COMMENT.sub("", text)
    found = {
        "tools": _TOOLS.search(shown) is not None or (bool(facts.tool_template) and text == facts.chat_template),
        "thinking": _THINKING.search(shown) is not None,
        "insert": facts.can_fill_in_the_middle,
    }
    return ("completion", *(name for name, there in found.items() if there))
