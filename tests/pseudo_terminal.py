"""Run `localllm` on a pseudo-terminal, as a person at a keyboard does."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time

from cli_process import LOCALLLM

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")


class Terminal:
    """A program on a pseudo-terminal: type, and wait for what it shows."""

    def __init__(self, *arguments: str, environment: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        # PROMPT_TOOLKIT_NO_CPR: nobody here answers the question where the cursor is.
        environment = {**environment, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "COLUMNS": "80", "LINES": "24"}
        self.process = subprocess.Popen(
            [*LOCALLLM, *arguments],
            env=environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_own_terminal,
        )
        os.close(slave)
        self.shown = ""
        self.raw = ""
        self._seen = 0

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def enter(self, line: str) -> None:
        """Type a line and Enter once the prompt is there: before it, the terminal makes another key of Enter."""
        self.wait_for("Send a message (/? for help)")
        self.type(f"{line}\r")

    def wait_for(self, text: str, seconds: float = 15) -> None:
        """Read until `text` is shown after what was waited for before."""
        deadline = time.monotonic() + seconds
        while text not in self.shown[self._seen :]:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.shown[self._seen :]!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                self._read()
        self._seen = self.shown.index(text, self._seen) + len(text)

    def end(self, seconds: float = 15) -> int:
        """The exit code, once the program ended."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it still runs: {self.shown[self._seen :]!r}"
            if select.select([self._master], [], [], 0.05)[0]:
                self._read()
        while select.select([self._master], [], [], 0.05)[0] and self._read():
            pass
        return self.process.returncode

    def _read(self) -> bool:
        try:
            text = os.read(self._master, 65536).decode("utf-8", "replace")
        except OSError:  # Linux says EIO once the other side is closed
            return False
        self.raw += text
        self.shown += _ESCAPES.sub("", text)
        return bool(text)


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
