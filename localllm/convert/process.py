"""The process that converts: one ConvertRequest in on stdin, ConvertEvents out, a line of JSON each.

    python -m localllm.convert.process

It runs the converter's script as its command line would, between guards. What the script prints is nobody's; its
warnings are told, and whatever ends it. The end of stdin ends this process and removes what it has written.
"""

from __future__ import annotations

import importlib
import logging
import os
import runpy
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import msgspec

from localllm.convert.guards import ENVIRONMENT, Guards
from localllm.convert.reasons import of_exception, of_exit, of_refusal
from localllm.creating import BytesWritten, Converted, ConverterSaid, ConvertEvent, ConvertRequest
from localllm.errand import read_request

_LOOK_SECONDS = 0.25
_MOST_WARNINGS = 8
_MOST_WARNING_TEXT = 300


class Voice(logging.Handler):
    """The way out, which is stdout as it was: what is printed from now on goes where errors go.

    As a handler of logs it tells the converter's warnings, the first few of them.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._descriptor = os.dup(1)
        os.dup2(2, 1)
        self.errors: list[str] = []
        self._told: list[str] = []

    def tell(self, event: ConvertEvent) -> None:
        """One line, in one piece."""
        os.write(self._descriptor, msgspec.json.encode(event) + b"\n")

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().strip()
        if not text or text.startswith("**"):  # frames and banners, which stand around what ends the script
            return
        if record.levelno >= logging.ERROR:  # the script gives up, and this is why
            self.errors.append(text)
        elif text not in self._told and len(self._told) < _MOST_WARNINGS:
            self._told.append(text)
            self.tell(ConverterSaid(text[:_MOST_WARNING_TEXT]))


def convert(request: ConvertRequest, voice: Voice, guards: Guards) -> None:
    """Run the script to its end, which may be an exception of any kind."""
    for name in request.libraries:
        importlib.import_module(name)
    if "transformers" in request.libraries:
        guards.close_transformers()
    if "torch" in request.libraries:
        guards.close_torch()
    guards.watch()
    logging.basicConfig(level=logging.INFO, handlers=[voice], force=True)
    _watch_target(Path(request.target), voice.tell)
    script = Path(request.converter) / request.script
    sys.path[:0] = [request.converter, str(script.parent / "gguf-py")]
    sys.argv = [str(script), "--outfile", request.target, *request.arguments]
    runpy.run_path(str(script), run_name="__main__")


def _watch_target(target: Path, tell: Callable[[ConvertEvent], None]) -> None:
    def look() -> None:
        told = 0
        while True:
            with suppress(OSError):
                if (size := target.stat().st_size) != told:
                    told = size
                    tell(BytesWritten(size))
            time.sleep(_LOOK_SECONDS)

    threading.Thread(target=look, daemon=True).start()


def _place(trace: TracebackType | None, converter: str) -> str:
    """The last line of the converter's own that an exception went through."""
    frames = [frame for frame in traceback.extract_tb(trace) if frame.filename.startswith(converter)]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""


def main() -> None:
    """Serve one request."""
    request = read_request(ConvertRequest, lambda request: Path(request.target).unlink(missing_ok=True))
    os.environ.update(ENVIRONMENT)
    sys.dont_write_bytecode = True  # what was fetched stays as it was checked
    with suppress(OSError):  # whatever needs memory most, the system ends this process first, not one that answers
        Path("/proc/self/oom_score_adj").write_text("1000")
    voice = Voice()
    guards = Guards(map(Path, request.folders), (Path(request.converter), Path(__file__).parents[1]))

    def on_exception(_: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        refused = guards.refused
        voice.tell(of_refusal(refused) if refused else of_exception(error, _place(trace, request.converter)))

    # No handler around the converter: it may raise anything, and whatever nobody caught comes to this hook.
    sys.excepthook = on_exception
    try:
        convert(request, voice, guards)
    except SystemExit as ended:
        if ended.code not in (None, 0):
            voice.tell(of_refusal(guards.refused) if guards.refused else of_exit(ended.code, voice.errors))
            return
    voice.tell(Converted())


if __name__ == "__main__":
    main()
