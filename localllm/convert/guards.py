"""What may not happen while a converter reads a model's folder: its code, pickles, networks, other programs.

The converter asks Transformers to trust code that comes with a model. Two walls stand against that. Transformers' own
way to such code is closed, so that a model which Transformers knows itself is read by that; and an audit hook, which
nothing can take away again, looks at every code that Python is about to run, every library it loads, every connection
and program it begins. What was refused is kept: the converter may swallow the exception and fail of something else.
"""

from __future__ import annotations

import importlib
import os
import site
import sys
import sysconfig
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType
from typing import NoReturn

_NETWORK = frozenset(
    f"socket.{name}"
    for name in (
        "connect", "bind", "getaddrinfo", "gethostbyname", "gethostbyaddr", "getnameinfo", "sendto", "sendmsg",
    )
)  # fmt: skip
_PROGRAMS = frozenset(
    ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn")
)
_PICKLES = frozenset(("pickle.find_class",))
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "CUDA_VISIBLE_DEVICES": "",  # the tensors go from file to file; the GPU's memory is the runners'
}


class ForbiddenError(RuntimeError):
    """The converter, or what it calls, was about to do what it may not."""


class Guards:
    """`refused` holds what was refused, in the order it happened."""

    def __init__(self, models: Iterable[Path], allowed: Iterable[Path]) -> None:
        """Code may come from what is installed with this Python and from `allowed`, never from the folders `models`."""
        self.refused: list[str] = []
        self._models = [spelling for model in models for spelling in _spellings(model)]
        paths = [*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages(), *sys.path]
        paths += [sys.prefix, sys.base_prefix, *map(str, allowed)]
        self._roots = [root for path in paths if path for root in _spellings(Path(path))]

    def close_transformers(self) -> None:
        """Let Transformers read a model that names code of its own with the code it has itself, or not at all."""
        dynamic = importlib.import_module("transformers.dynamic_module_utils")

        # By the names of Transformers' own, which it is called by.
        def resolve(
            trust_remote_code: object, model_name: object, has_local_code: bool, has_remote_code: bool, *_: object,
            **__: object,
        ) -> bool:  # fmt: skip
            if has_remote_code and not has_local_code:
                self._refuse("to run a program that came with the model")
            return False

        def never(*_: object, **__: object) -> NoReturn:
            self._refuse("to run a program that came with the model")

        self._replace(dynamic.resolve_trust_remote_code, resolve)
        self._replace(dynamic.get_class_from_dynamic_module, never)
        self._replace(dynamic.get_cached_module_file, never)

    def close_torch(self) -> None:
        """Let torch read no pickles, not even the kind it takes for harmless."""

        def never(*_: object, **__: object) -> NoReturn:
            self._refuse("to read a pickle")

        self._replace(importlib.import_module("torch").load, never)

    def _replace(self, old: object, new: Callable[..., object]) -> None:
        """Wherever a module holds it: others import it by its name."""
        name = getattr(old, "__name__", "")
        for module in list(sys.modules.values()):
            # The dictionary, since asking some of these modules for a name makes them import what it stands for.
            if getattr(module, "__dict__", {}).get(name) is old:
                setattr(module, name, new)

    def watch(self) -> None:
        """From now on, for as long as this process lives."""
        sys.addaudithook(self._on_event)

    def _on_event(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in _NETWORK:
            self._refuse("to use the network")
        elif event in _PROGRAMS:
            self._refuse("to start another program")
        elif event in _PICKLES:
            self._refuse("to read a pickle")
        elif event == "exec":
            code = arguments[0]
            if isinstance(code, CodeType):
                self._refuse_foreign(code.co_filename)
        elif event == "import" and isinstance(arguments[1], str):  # a library in machine code, by its path
            self._refuse_foreign(arguments[1])
        elif event == "ctypes.dlopen" and isinstance(arguments[0], str) and os.sep in arguments[0]:
            self._refuse_foreign(arguments[0])

    def _refuse_foreign(self, file: str) -> None:
        if file.startswith("<"):  # what an installed library has made up itself
            return
        path = os.path.abspath(file)  # noqa: PTH100  # as it is named: what it links to may lie anywhere
        if _is_within(path, self._models) or not _is_within(path, self._roots):
            self._refuse(f"to run {os.path.basename(file)}")  # noqa: PTH119

    def _refuse(self, what: str) -> NoReturn:
        if what not in self.refused:
            self.refused.append(what)
        raise ForbiddenError(f"the conversion was about {what}, which is forbidden")


def _spellings(path: Path) -> tuple[str, ...]:
    return tuple({os.path.abspath(path), os.path.realpath(path)})  # noqa: PTH100


def _is_within(path: str, roots: Iterable[str]) -> bool:
    return any(path == root or path.startswith(root.rstrip(os.sep) + os.sep) for root in roots)
