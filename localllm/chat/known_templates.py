"""Chat templates for files without one, told apart by the tokens that only one family's vocabulary has.

Each is the plain form: turns, system text, the prompt. None of them tells a model of tools.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from localllm.chat.template import DEFAULT_TEMPLATE

_PROMPT = "{% if add_generation_prompt %}"


@dataclass(frozen=True, slots=True)
class KnownTemplate:
    """A family's template, and the tokens that its vocabulary has."""

    name: str
    tokens: tuple[str, ...]
    source: str


def _turns(turn: str, prompt: str, *, before: str = "") -> str:
    """A template of turns that are all alike; `m` is a message."""
    return f"{before}{{% for m in messages %}}{turn}{{% endfor %}}{_PROMPT}{prompt}{{% endif %}}"


_NAMED = "{% set role = 'model' if m.role == 'assistant' else m.role %}"
_UPPER = "{% set role = 'CHATBOT' if m.role == 'assistant' else m.role | upper %}"

KNOWN_TEMPLATES = (
    KnownTemplate(
        "Llama 3",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        _turns(
            "{{ '<|start_header_id|>' ~ m.role ~ '<|end_header_id|>\n\n' ~ m.content | trim ~ '<|eot_id|>' }}",
            "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}",
            before="{{ bos_token }}",
        ),
    ),
    KnownTemplate("ChatML", ("<|im_start|>", "<|im_end|>"), DEFAULT_TEMPLATE),
    KnownTemplate(
        "Gemma",
        ("<start_of_turn>", "<end_of_turn>"),
        _turns(
            "{% if m.role == 'system' %}{{ raise_exception('Gemma has no system role') }}{% endif %}"
            + _NAMED
            + "{{ '<start_of_turn>' ~ role ~ '\n' ~ m.content | trim ~ '<end_of_turn>\n' }}",
            "{{ '<start_of_turn>model\n' }}",
            before="{{ bos_token }}",
        ),
    ),
    KnownTemplate(
        "Granite",
        ("<|start_of_role|>", "<|end_of_role|>"),
        _turns(
            "{{ '<|start_of_role|>' ~ m.role ~ '<|end_of_role|>' ~ m.content ~ '<|end_of_text|>\n' }}",
            "{{ '<|start_of_role|>assistant<|end_of_role|>' }}",
        ),
    ),
    KnownTemplate(
        "Command R",
        ("<|START_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        _turns(
            _UPPER + "{{ '<|START_OF_TURN_TOKEN|><|' ~ role ~ '_TOKEN|>' ~ m.content ~ '<|END_OF_TURN_TOKEN|>' }}",
            "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}",
            before="{{ bos_token }}",
        ),
    ),
    KnownTemplate(
        "DeepSeek",
        ("<｜User｜>", "<｜Assistant｜>"),
        _turns(
            "{% if m.role == 'user' %}{{ '<｜User｜>' ~ m.content }}{% elif m.role == 'assistant' %}"
            "{{ '<｜Assistant｜>' ~ m.content ~ eos_token }}{% else %}{{ m.content }}{% endif %}",
            "<｜Assistant｜>",
            before="{{ bos_token }}",
        ),
    ),
    KnownTemplate(
        "GLM",
        ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>"),
        _turns("{{ '<|' ~ m.role ~ '|>\n' ~ m.content }}", "{{ '<|assistant|>\n' }}", before="[gMASK]<sop>"),
    ),
    KnownTemplate(
        "Phi",
        ("<|user|>", "<|assistant|>", "<|end|>"),
        _turns("{{ '<|' ~ m.role ~ '|>\n' ~ m.content ~ '<|end|>\n' }}", "{{ '<|assistant|>\n' }}"),
    ),
    KnownTemplate(
        "Mistral",
        ("[INST]", "[/INST]"),
        _turns(
            "{% if m.role == 'system' %}{{ raise_exception('Mistral has no system role') }}"
            "{% elif m.role == 'assistant' %}{{ m.content ~ eos_token }}"
            "{% else %}{{ '[INST]' ~ m.content ~ '[/INST]' }}{% endif %}",
            "",
            before="{{ bos_token }}",
        ),
    ),
)


def known_template(knows: Callable[[str], bool]) -> KnownTemplate | None:
    """The first family all of whose tokens are single tokens of a vocabulary: `knows` says which are."""
    return next((known for known in KNOWN_TEMPLATES if all(map(knows, known.tokens))), None)
