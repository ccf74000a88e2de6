"""Programs that use other people's clients, and the environments they run in.

Those clients are many and heavy, and none of localllm's business: they live in a virtual environment and a folder of
node's own under .cache/clients, made when they are first needed and anew when their lists change.

    programs/scenario.py, scenario.mjs     what each is asked to do
    programs/NAME_client.py, .mjs          how one library does it; prints one JSON object
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent
PROGRAMS = FOLDER / "programs"
CACHE = FOLDER.parents[1] / ".cache" / "clients"
UV = "uv==0.13.9"
AGENTS = ("openai_agents_client.py", "autogen_client.py")  # their libraries and the others exclude each other
INSTALL_SECONDS = 900
RUN_SECONDS = 240


def python_environment(listed: str = "requirements.txt") -> Path:
    """The `bin` folder of an environment with the Python clients of a list."""
    wanted = FOLDER / listed
    folder = CACHE / f"python-{_mark(wanted.read_bytes() + sys.version.encode())}"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        # pip alone takes a quarter of an hour for these on a busy machine.
        _install([folder / "bin" / "python", "-m", "pip", "install", "--no-compile", UV], folder)
        uv = folder / "bin" / "uv"
        _install([uv, "pip", "install", "--python", folder / "bin" / "python", "--no-deps", "-r", wanted], folder)
        (folder / "done").touch()
    return folder / "bin"


def libraries(listed: str = "requirements_convert.txt") -> Path:
    """A folder with the libraries of a list and all they need, for PYTHONPATH.

    pip resolves them, and where it is told of an index with smaller builds of them, takes those.
    """
    wanted = FOLDER / listed
    folder = CACHE / f"libraries-{_mark(wanted.read_bytes() + sys.version.encode())}"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        command = [sys.executable, "-m", "pip", "install", "--no-compile", "--target", folder / "there", "-r", wanted]
        _install(command, folder)
        (folder / "done").touch()
    return folder / "there"


def node_folder() -> Path:
    """A folder with every JavaScript client, and the programs beside them.

    Skips where there is no node, which localllm needs for nothing else; these tests run only when they are asked for.
    """
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed")
    wanted = FOLDER / "package.json"
    folder = CACHE / f"node-{_mark(wanted.read_bytes())}"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        shutil.copy(wanted, folder)
        _install([npm, "install", "--no-audit", "--no-fund", "--ignore-scripts"], folder)
        (folder / "done").touch()
    for program in PROGRAMS.glob("*.mjs"):  # modules are looked for beside who imports them
        shutil.copy(program, folder)
    return folder


def run_program(name: str, url: str, home: Path) -> dict[str, Any]:
    """What the program `name` says came of its scenario."""
    if name.endswith(".mjs"):
        command = [shutil.which("node") or "node", str(node_folder() / name), url]
    else:
        listed = "requirements_agents.txt" if name in AGENTS else "requirements.txt"
        command = [str(python_environment(listed) / "python"), "-W", "ignore", str(PROGRAMS / name), url]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LLM_USER_PATH": str(home / "llm"),
        "OLLAMA_HOST": url,
        "NO_PROXY": "*",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks the network for prices
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=RUN_SECONDS)
    assert 0 == done.returncode, done.stderr[-4000:]
    said: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return said


def _install(command: list[object], folder: Path) -> None:
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS
    )
    assert 0 == done.returncode, done.stdout[-2000:] + done.stderr[-4000:]


def _mark(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
