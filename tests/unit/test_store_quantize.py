"""What may be written anew and in which type; and chat templates, tried in a process before they are kept."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import UTC, datetime

import msgspec
import pytest
from gguf_files import gguf_bytes

from localllm.creating import SUCCESS, CheckRequest, Creation
from localllm.errors import BadRequestError, LocalllmError, TemplateError, UnsupportedError
from localllm.gguf_types import FILE_TYPE_NAMES
from localllm.modelfile import Modelfile
from localllm.pulling import PullStatus
from localllm.store.create import check_template, create
from localllm.store.model import Facts
from localllm.store.processes import lines_from
from localllm.store.quantize import TARGETS, parse_target, refuse_source
from localllm.store.store import Store


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("q4_K_M", "Q4_K_M"),
        ("Q4_K", "Q4_K_M"),
        ("q8_0", "Q8_0"),
        ("fp16", "F16"),
        ("iq4-xs", "IQ4_XS"),
        ("bf16", "BF16"),
    ],
)
def test_a_type_may_be_written_in_any_case(text, name):
    assert name == parse_target(text)


def test_every_type_has_llama_cpps_number():
    assert list(TARGETS) == [FILE_TYPE_NAMES[number] for number, _ in TARGETS.values()]


@pytest.mark.parametrize("text", ["q9_Z", "", "IQ1_S", "unknown"])
def test_an_unknown_type_or_one_that_needs_an_importance_matrix_is_refused_with_those_there_are(text):
    with pytest.raises(BadRequestError, match=f"unknown quantization type '{text}'") as caught:
        parse_target(text)
    assert caught.value.hint.startswith("there are Q4_K_M, Q8_0,")


def is_written_anew(file_type):
    try:
        refuse_source(Facts(file_type=file_type), "Q2_K")
    except UnsupportedError:
        return False
    return True


def test_only_whole_weights_are_written_anew():
    assert {"F32", "F16", "BF16"} == {name for name in FILE_TYPE_NAMES.values() if is_written_anew(name)}


@pytest.mark.parametrize(
    ("file_type", "target", "message"),
    [
        ("Q4_K_M", "Q4_K_M", "the model is Q4_K_M already"),
        ("F16", "F16", "the model is F16 already"),
        ("Q8_0", "Q4_K_M", "quantization is only supported for F16, BF16 and F32 models, and this one is Q8_0"),
        ("unknown", "Q8_0", "quantization is only supported for F16, BF16 and F32 models, and this one is unknown"),
    ],
)
def test_what_is_quantized_or_of_the_type_already_is_refused(file_type, target, message):
    with pytest.raises(UnsupportedError) as caught:
        refuse_source(Facts(file_type=file_type), target)
    assert message == caught.value.message


@pytest.mark.parametrize("template", ["{{ .Prompt }}", "{{ messages[0].content }}", "plain text"])
def test_a_template_that_renders_a_question_is_kept(template):
    asyncio.run(check_template(template))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ .Prompt", "template error: line 1 of the chat template: an action is never closed by }}"),
        ("{% for x in %}", "template error: syntax error in line 1 of the chat template: Expected an expression"),
        ("{{ raise_exception('no') }}", "template error: no"),
        ("{{ range .Messages }}{{ .Body }}{{ end }}", "template error: line 1 of the chat template: there is no field"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_with_its_reason(template, message):
    with pytest.raises(TemplateError) as caught:
        asyncio.run(check_template(template))
    assert caught.value.message.startswith(message)


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def test_a_template_that_never_ends_is_given_up():
    with pytest.raises(TemplateError, match="it is not done with one question after 1 s"):
        asyncio.run(check_template(ENDLESS, seconds=1.0))


def test_a_template_that_never_ends_ends_with_whoever_asked():
    command = [sys.executable, "-m", "localllm.chat.check"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(msgspec.json.encode(CheckRequest(ENDLESS)) + b"\n")
        process.stdin.close()
        assert (1, b"") == (process.wait(60), process.stdout.read())


def test_a_process_that_ends_without_a_word_is_an_error():
    async def talk():
        return [line async for line in lines_from("localllm.version", CheckRequest("x"))]

    with pytest.raises(LocalllmError, match=r"the process of localllm\.version ended without a word \(0\)"):
        asyncio.run(talk())


def test_nothing_is_written_when_the_template_or_the_type_is_wrong(tmp_path):
    store = Store(tmp_path / "models", tmp_path / "none", lambda: datetime(2026, 1, 1, tzinfo=UTC))
    file = tmp_path / "tiny.gguf"
    file.write_bytes(gguf_bytes())

    async def in_store(work, *arguments, **keywords):
        return work(*arguments, **keywords)

    async def made(**changes):
        said = Modelfile(("x",), template=changes.pop("template", None))
        return [event async for event in create(store, in_store, Creation("x", said, files=(str(file),), **changes))]

    with pytest.raises(TemplateError):
        asyncio.run(made(template="{{ .Prompt"))
    with pytest.raises(BadRequestError, match="unknown quantization type"):
        asyncio.run(made(quantization="q9"))
    with pytest.raises(UnsupportedError, match="the model is Q4_K_M already"):
        asyncio.run(made(quantization="q4_K_M"))
    assert () == store.list()
    assert [PullStatus("parsing GGUF"), PullStatus("writing manifest"), SUCCESS] == asyncio.run(made())
    assert ["x:latest"] == [model.name for model in store.list()]
