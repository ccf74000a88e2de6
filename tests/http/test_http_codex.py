"""The Codex CLI itself, if it is installed, against the application with a scripted model."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

CODEX = shutil.which("codex")


@pytest.mark.clients
@pytest.mark.skipif(CODEX is None, reason="the Codex CLI is not installed (npm install -g @openai/codex)")
@pytest.mark.parametrize("call", ["tool", "pieces"])
def test_codex_asks_for_a_tool_and_goes_on_with_what_came_of_it(server, tmp_path, call):
    provider = f'{{name="here",base_url="{server.url}/v1",wire_api="responses",stream_max_retries=0}}'
    settings = {"model_provider": '"here"', "model_providers.here": provider}
    command = [str(CODEX), "exec", "--skip-git-repo-check", "-m", "guide"]
    command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    home = tmp_path / "codex"
    home.mkdir()
    done = subprocess.run(
        [*command, call],
        cwd=tmp_path,
        env={**os.environ, "CODEX_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (0, "once") == (done.returncode, done.stdout.strip()), done.stderr
    first, second = server.scheduler.requests
    assert "exec_command" in [tool.name for tool in first.tools]
    assert "tool" == second.messages[-1].role
    assert "call_1" == second.messages[-1].tool_call_id
    assert first.messages == second.messages[: len(first.messages)]
