"""`template-check` as a process: files and names, what is printed, and how it ends with templates that never do."""

from __future__ import annotations

import json

import pytest
from cli_process import cli_environment, run_cli
from scripted_server import LOCALLLM_VERSION, Reply, ScriptedServer

GOOD = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}" + (
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_PROMPT = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "code", "line", "said"),
    [
        (GOOD, 0, "ok       generation prompt       '<|assistant|>'", ""),
        (
            NO_PROMPT,
            1,
            "PROBLEM  generation prompt       is missing: nothing says that the answer begins",
            "1 problem\n",
        ),
        (ENDLESS, 1, "PROBLEM  template  it is not done after 3 s: look for a loop that never ends", "1 problem\n"),
    ],
    ids=["good", "no prompt", "endless"],
)
def test_a_template_in_a_file_is_checked_without_a_daemon(tmp_path, template, code, line, said):
    file = tmp_path / "chat.jinja"
    file.write_text(template)
    seconds = "3s" if template is ENDLESS else "60s"
    environment = cli_environment(tmp_path, "127.0.0.1:9", LOCALLLM_RENDER_TIMEOUT=seconds)
    result = run_cli("template-check", str(file), environment=environment)
    assert (code, said) == (result.returncode, result.stderr)
    assert line in result.stdout.splitlines()


def test_a_named_model_is_checked_with_all_its_templates(tmp_path):
    shown = {"template": GOOD, "model_info": {"tokenizer.chat_template.tool_use": NO_PROMPT}}
    with ScriptedServer(
        {"GET /api/version": Reply(LOCALLLM_VERSION), "POST /api/show": Reply(json.dumps(shown))}
    ) as server:
        result = run_cli("template-check", "guide", "--json", environment=cli_environment(tmp_path, server.address))
    found = {name: {one["subject"]: one["level"] for one in each} for name, each in json.loads(result.stdout).items()}
    assert ("ok", "problem") == (found["default"]["generation prompt"], found["tool_use"]["generation prompt"])
    assert 1 == result.returncode


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    result = run_cli("template-check", "./none.gguf", environment=cli_environment(tmp_path, "127.0.0.1:9"))
    assert (1, "") == (result.returncode, result.stdout)
    assert "there is no file ./none.gguf" in result.stderr
