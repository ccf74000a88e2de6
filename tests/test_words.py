"""What the documents say, held against the code: README's tables, the maps of the packages, the scripts.

A table that is out of date fails with the text it should have: paste that.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import localllm
from localllm.cli.commands import COMMANDS
from localllm.config import HOME, MODELS, SETTINGS, Setting
from localllm.scheduler.state import Counts
from localllm.server.app import ROUTES
from localllm.server.metrics import Metrics, page
from localllm.version import __version__

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def table_under(heading: str, text: str) -> str:
    """The rows of the first table after a heading, without its two header lines."""
    _, found, rest = text.partition(f"\n{heading}\n")
    assert found, f"README has no heading {heading!r}"
    lines = rest.split("\n#")[0].splitlines()
    rows = [line for line in lines if line.startswith("|")]
    return "\n".join(rows[2:])


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def setting_row(setting: Setting) -> str:
    return row(
        code(setting.variable), code(setting.ollama or ""), code(setting.default), setting.accepts, setting.purpose
    )


def test_readme_lists_the_commands_that_exist() -> None:
    rows = [
        row(", ".join([code(f"localllm {command.verb}"), *map(code, command.aliases)]), command.help)
        for command in COMMANDS
    ]
    assert "\n".join(rows) == table_under("### Commands", README)


def test_readme_lists_the_variables_that_exist() -> None:
    assert "\n".join(map(setting_row, (HOME, MODELS, *SETTINGS))) == table_under("### Settings", README)


def test_readme_lists_the_routes_that_exist() -> None:
    rows = [row(", ".join(map(code, entry.method.split("|"))), code(entry.path), entry.purpose) for entry in ROUTES]
    assert "\n".join(rows) == table_under("### Routes", README)


def test_readme_lists_the_metrics_that_exist() -> None:
    text = page(Metrics(), (), (), Counts(), {}, {}).decode()
    families = [one for one in text_string_to_metric_families(text) if not one.name.endswith("_created")]
    names = [f"{one.name}_total" if one.type == "counter" else one.name for one in families]
    rows = [row(code(name), one.type, one.documentation) for name, one in zip(names, families, strict=True)]
    assert "\n".join(rows) == table_under("### Metrics", README)


def test_a_table_is_read_to_its_end_and_no_further() -> None:
    text = "# A\n### T\nwords\n\n| h |\n|---|\n| 1 |\n| 2 |\n\nmore\n### U\n| h |\n|---|\n| 3 |\n"
    assert "| 1 |\n| 2 |" == table_under("### T", text)


def test_the_map_names_what_is_there_and_nothing_else() -> None:
    package = ROOT / "localllm"
    there = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").is_file()}
    there |= {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    assert there == set(re.findall(r"^    (\w+(?:/|\.py))\s", localllm.__doc__ or "", re.MULTILINE))


@pytest.mark.parametrize(
    "package", sorted(path.parent for path in ROOT.glob("localllm/**/*/__init__.py")), ids=lambda path: path.name
)
def test_the_docstring_of_a_package_names_each_of_its_modules(package: Path) -> None:
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""
    modules = {path.stem for path in package.glob("*.py") if path.stem != "__init__"}
    assert set() == modules - set(re.findall(r"\w+", docstring))


def test_readme_draws_the_packages_that_are_there() -> None:
    drawn = set(
        re.findall(r"^  (\w+/|\w+\.py)\s", README.partition("\nlocalllm/\n")[2].partition("```")[0], re.MULTILINE)
    )
    assert drawn == set(re.findall(r"^    (\w+(?:/|\.py))\s", localllm.__doc__ or "", re.MULTILINE))


def test_every_script_that_readme_names_can_be_run() -> None:
    named = sorted(set(re.findall(r"\bscripts/[\w/.]*\w", README)))
    assert "scripts/quickstart" in named
    assert [] == [name for name in named if not os.access(ROOT / name, os.X_OK)]


def test_the_first_command_of_readme_is_quickstart_and_the_second_is_test() -> None:
    commands = re.findall(r"^(scripts/\w+)", README, re.MULTILINE)
    assert ["scripts/quickstart", "scripts/test"] == commands[:2]


def test_the_changelog_tells_of_this_version() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
