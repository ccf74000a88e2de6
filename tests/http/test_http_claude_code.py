"""Claude Code itself, if it is installed, against the application with a scripted model."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CLAUDE = shutil.which("claude")
pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(
        CLAUDE is None, reason="Claude Code is not installed (npm install -g @anthropic-ai/claude-code)"
    ),
]


def ask(url: str, home: Path, model: str, *more: str) -> subprocess.CompletedProcess[str]:
    """What it says to one question, with nothing of the person's own around it."""
    names = ("ANTHROPIC_MODEL", "ANTHROPIC_SMALL_FAST_MODEL", "ANTHROPIC_DEFAULT_HAIKU_MODEL",
             "ANTHROPIC_DEFAULT_SONNET_MODEL", "ANTHROPIC_DEFAULT_OPUS_MODEL")  # fmt: skip
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PWD": str(home),
        "CLAUDE_CONFIG_DIR": str(home / "claude"),
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_AUTH_TOKEN": "unused",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_AUTOUPDATER": "1",
        "NO_PROXY": "*",
        **dict.fromkeys(names, model),
    }
    return subprocess.run(
        [str(CLAUDE), "-p", *more, "How do I pull a model?"],
        cwd=home,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_claude_code_shows_the_answer_and_its_tools_are_understood(server, tmp_path):
    done = ask(server.url, tmp_path, "guide")
    assert (0, "once") == (done.returncode, done.stdout.strip()), done.stderr
    (request,) = server.scheduler.requests
    assert {"Bash", "Read", "Edit"} <= {tool.name for tool in request.tools}
    assert "x-anthropic-billing-header" not in (request.messages or ())[0].content
    assert "How do I pull a model?" in "".join(message.content for message in request.messages or ())


def test_claude_code_says_that_there_is_no_such_model(server, tmp_path):
    done = ask(server.url, tmp_path, "nosuch")
    assert 1 == done.returncode
    assert "nosuch" in done.stdout
    assert [] == server.scheduler.requests
