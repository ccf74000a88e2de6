"""scripts/install: which flags an engine is compiled with, and when it must be compiled again."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import install
import pytest
from install import Build, Installation, Machine

ROOT = Path(__file__).resolve().parent.parent.parent
MACHINE = Machine("A CPU", ("avx2", "avx512f", "fma"), "g++ 12.2.0", is_gcc=True, cuda=False)
BUILD = Build(("avx2", "fma"), "A CPU", "CMAKE_ARGS='-DGGML_RPC=ON'", "0.3.36", cuda=False)


def test_gcc_is_told_to_keep_the_stores_that_it_would_drop() -> None:
    expected = {
        "CMAKE_ARGS": "-DGGML_RPC=ON",
        "CFLAGS": "-fno-dse -fno-tree-dse",
        "CXXFLAGS": "-fno-dse -fno-tree-dse",
    }
    assert expected == install.build_environment(MACHINE, {})


def test_another_compiler_gets_no_flags_of_gcc() -> None:
    assert {"CMAKE_ARGS": "-DGGML_RPC=ON"} == install.build_environment(replace(MACHINE, is_gcc=False), {})


def test_cuda_is_compiled_in_where_a_gpu_can_use_it() -> None:
    assert "-DGGML_RPC=ON -DGGML_CUDA=on" == install.build_environment(replace(MACHINE, cuda=True), {})["CMAKE_ARGS"]


def test_what_the_user_set_comes_last_and_wins() -> None:
    own = {"CMAKE_ARGS": "-DGGML_NATIVE=off", "CXXFLAGS": "-O1", "CFLAGS": ""}
    built = install.build_environment(MACHINE, own)
    assert "-DGGML_RPC=ON -DGGML_NATIVE=off" == built["CMAKE_ARGS"]
    assert "-fno-dse -fno-tree-dse -O1" == built["CXXFLAGS"]
    assert "-fno-dse -fno-tree-dse" == built["CFLAGS"]


@pytest.mark.parametrize(
    ("installed", "build", "machine", "reason"),
    [
        ("0.3.36", BUILD, MACHINE, None),
        ("0.3.36", replace(BUILD, cuda=True), replace(MACHINE, cuda=True), None),
        ("0.3.36", replace(BUILD, cuda=True), MACHINE, None),
        (None, None, MACHINE, "the engine is not installed yet"),
        ("0.3.35", BUILD, MACHINE, "the engine is version 0.3.35, and localllm needs 0.3.36"),
        ("0.3.36", None, MACHINE, "it is not known which CPU the installed engine was compiled for"),
        (
            "0.3.36",
            replace(BUILD, engine_version="0.3.35"),
            MACHINE,
            "it is not known which CPU the installed engine was compiled for",
        ),
        (
            "0.3.36",
            replace(BUILD, cpu_features=("amx_int8", "amx_tile", "avx2")),
            MACHINE,
            "the engine was compiled for a CPU with amx_int8, amx_tile, which this one lacks",
        ),
        (
            "0.3.36",
            BUILD,
            replace(MACHINE, cuda=True),
            "a CUDA GPU is there, and the engine was compiled without CUDA",
        ),
    ],
)
def test_the_engine_is_compiled_again_only_when_it_would_not_fit(
    installed: str | None, build: Build | None, machine: Machine, reason: str | None
) -> None:
    assert reason == install.rebuild_reason(installed, build, machine, "0.3.36")


def test_a_kept_wheel_serves_only_the_same_flags_cpu_and_compiler() -> None:
    others = [
        install.wheel_key(replace(BUILD, flags="CMAKE_ARGS=''"), "g++ 12.2.0"),
        install.wheel_key(replace(BUILD, cpu_features=("avx2",)), "g++ 12.2.0"),
        install.wheel_key(BUILD, "g++ 14.1.0"),
    ]
    assert install.wheel_key(BUILD, "g++ 12.2.0") == install.wheel_key(replace(BUILD), "g++ 12.2.0")
    assert install.wheel_key(BUILD, "g++ 12.2.0") not in others
    assert 3 == len(set(others))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu sse2 avx2 fma amx_int8\n\nprocessor\t: 1\n",
            ("AMD EPYC", ("amx_int8", "avx2", "fma")),
        ),
        (
            "processor: 0\nFeatures\t: fp asimd asimddp i8mm\n",
            (install.platform.machine(), ("asimd", "asimddp", "i8mm")),
        ),
        ("", (install.platform.machine(), ())),
    ],
)
def test_the_cpu_is_known_by_the_features_that_matter(text: str, expected: tuple[str, tuple[str, ...]]) -> None:
    assert expected == install.parse_cpu_information(text)


def test_the_record_of_a_build_is_read_back_and_a_broken_one_is_unknown(tmp_path: Path) -> None:
    installation = Installation(tmp_path)
    installation.venv.mkdir()
    assert installation.build() is None
    install.write_json(installation.build_file, asdict(BUILD))
    assert BUILD == installation.build()
    for broken in ('{"cpu_features": ["avx2"]}', "[]", '{"cpu_fea', '{"cpu_features": null}'):
        installation.build_file.write_text(broken, encoding="utf-8")
        assert installation.build() is None


def test_the_installed_engine_is_found_without_starting_python(tmp_path: Path) -> None:
    installation = Installation(tmp_path)
    assert installation.installed_engine() is None
    (installation.venv / "lib/python3.12/site-packages/llama_cpp_python-0.3.36.dist-info").mkdir(parents=True)
    assert "0.3.36" == installation.installed_engine()


def test_the_pin_is_read_from_pyproject() -> None:
    assert install.ENGINE == "llama-cpp-python"
    assert Installation(ROOT).pin().count(".") == 2


def test_progress_is_the_last_step_that_ninja_named() -> None:
    assert "" == install.progress("Building wheel\n")
    assert ", step 17 of 280" == install.progress("[1/280] Building C\n  [17/280] Building CXX\nnoise [3/4]\n")


@pytest.mark.parametrize(
    ("tail", "word"),
    [
        ("c++: fatal error: Killed signal terminated program cc1plus", "memory"),
        ("ERROR: No matching distribution found for llama-cpp-python==0.3.36", "package index"),
        ("mmq.cpp:12: error: no member named x", "compiler's first error"),
    ],
)
def test_a_failed_compile_says_what_to_do(tail: str, word: str) -> None:
    assert word in install.failure_hint(tail)


def test_without_a_compiler_the_missing_package_is_named() -> None:
    with pytest.raises(install.SetupError, match=r"no C\+\+ compiler") as caught:
        install._require_compiler(replace(MACHINE, compiler=""))
    assert "build-essential" in caught.value.hint


def test_setup_says_which_python_it_needs_when_only_an_old_one_is_there(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit 0\nexit 1\n', encoding="utf-8")
    old.chmod(0o755)
    for name in ("bash", "dirname", "env"):
        (tmp_path / name).symlink_to(Path("/usr/bin") / name)
    done = subprocess.run(
        [ROOT / "scripts" / "setup"], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert 1 == done.returncode
    assert "" == done.stdout
    assert "localllm needs Python 3.11 or newer, and this is: Python 3.9.2" in done.stderr


def test_scripts_stop_at_the_first_error_and_can_be_run() -> None:
    scripts = [path for path in (ROOT / "scripts").glob("**/[!.]*") if path.is_file() and _is_program(path)]
    assert {"setup", "quickstart", "test", "check", "fmt", "decode"} <= {path.name for path in scripts}
    for script in (*scripts, ROOT / ".ci" / "run"):
        text = script.read_text(encoding="utf-8")
        assert "bash" not in text.splitlines()[0] or "\nset -euo pipefail\n" in text, script
        assert os.access(script, os.X_OK), script


def _is_program(path: Path) -> bool:
    return path.read_bytes().startswith(b"#!")


def test_a_stamp_is_written_whole(tmp_path: Path) -> None:
    install.write_json(tmp_path / "a.json", {"test": True})
    assert {"test": True} == json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert ["a.json"] == [path.name for path in tmp_path.iterdir()]
