"""Find the daemon, start one when none runs, and make sure that what answers is localllm.

    look ──▶ ours          use it (another version: a warning)
         ──▶ another       DaemonError that says who holds the address
         ──▶ nothing ──▶ not this machine: DaemonError
                         this machine:     lock ─▶ look again ─▶ `localllm serve --idle-exit` ─▶ look until it answers

The lock lets one of several CLIs start the daemon while the others wait and then find it running. The daemon is a
session of its own: it outlives the terminal. What it says goes to <state_dir>/daemon.log.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from localllm.cli.output import Screen, Spinner
from localllm.client import Client
from localllm.config import Settings, parse_address
from localllm.errors import (
    AccessDeniedError,
    DaemonAbsentError,
    DaemonError,
    LocalllmError,
    ShuttingDownError,
    UnauthorizedError,
    UntrustedError,
)
from localllm.tls import client_context
from localllm.version import __version__

START_SECONDS = 20.0
_POLL_SECONDS = 0.05
_LOG_LIMIT_BYTES = 4 * 2**20
_LOG_LINES = 10
# -P: `-m` would otherwise look for modules in the folder the user happens to stand in.
_SERVE = (sys.executable, "-P", "-m", "localllm", "serve", "--idle-exit")


def connect(settings: Settings, screen: Screen, serve: Sequence[str] = _SERVE) -> Client:
    """A client of a daemon that is known to be localllm; if none runs, the command `serve` starts one.

    Raises DaemonError. The caller closes the client.
    """
    client = client_of(settings, _teller(screen))
    with ExitStack() as unless_connected:
        unless_connected.callback(client.close)  # also on Ctrl-C: the client has no other owner yet
        version = find_daemon(client, settings)
        if version is None:
            version = _start(client, settings, screen, serve)
        unless_connected.pop_all()
    if version != __version__:
        screen.warn(
            f"the daemon is localllm {version}, this command is {__version__}",
            hint="end that daemon and the next command starts one of this version",
        )
    return client


def _teller(screen: Screen) -> Callable[[str], None]:
    """Says once that of a model's Modelfile DRAFT had no effect; what a request asked in vain has its own words."""
    unsaid = {"DRAFT"}

    def tell(name: str) -> None:
        if name in unsaid:
            # Imported here: few models have one.
            from localllm.modelfile import DRAFT_OF_BEFORE

            unsaid.remove(name)
            screen.warn(f"DRAFT in the model's Modelfile has no effect: {DRAFT_OF_BEFORE}")

    return tell


def client_of(settings: Settings, hear_ignored: Callable[[str], None] | None = None) -> Client:
    """A client of whatever is at the configured address. Raises ConfigError for a certificate that cannot be read."""
    address = settings.address
    tls = client_context(settings.tls_ca, settings.tls_cert) if address.is_tls else None
    return Client(address.url, settings.api_key or None, tls=tls, hear_ignored=hear_ignored)


def is_on_this_machine(settings: Settings) -> bool:
    """Whether the CLI and the daemon see the same files."""
    return parse_address(settings.address.url).is_loopback


def find_daemon(client: Client, settings: Settings) -> str | None:
    """The version of the localllm at the address, None if nothing listens. DaemonError: another program does."""
    place = f"{settings.address.host}:{settings.address.port}"
    hint = "set LOCALLLM_HOST to another address, or stop that program"
    try:
        version = client.version()
    except DaemonAbsentError:
        return None
    except (UnauthorizedError, AccessDeniedError, ShuttingDownError):  # only a localllm says these
        raise
    except UntrustedError:  # it may well be one
        raise
    except LocalllmError as error:
        raise DaemonError(f"{place} is used by another program ({error})", hint=hint) from error
    if version.localllm is None:
        who = f"Ollama {version.version}" if version.version else "another program"
        raise DaemonError(f"{place} is used by {who}, not by localllm", hint=hint)
    return version.localllm


def _start(client: Client, settings: Settings, screen: Screen, serve: Sequence[str]) -> str:
    if not is_on_this_machine(settings):
        raise DaemonError(
            f"nothing answers at {settings.address.url}",
            hint="start `localllm serve` on that machine, or unset LOCALLLM_HOST to use this one",
        )
    try:
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with Spinner(screen, "starting the daemon"), _one_starter_at_a_time(settings.state_dir / "daemon.lock"):
            return find_daemon(client, settings) or _start_and_wait(client, settings, serve)
    except OSError as error:
        raise DaemonError(
            f"the daemon cannot be started: {error.filename or settings.state_dir}: {error.strerror or error}",
            hint=f"its log and its lock lie in {settings.state_dir}: check its permissions and the disk, or set "
            "LOCALLLM_HOME to another folder",
        ) from error


def _start_and_wait(client: Client, settings: Settings, serve: Sequence[str]) -> str:
    log = settings.state_dir / "daemon.log"
    log_start = _prepare_log(log)
    child = _spawn(serve, log)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        exit_code = child.poll()
        if version := find_daemon(client, settings):
            return version
        if exit_code is not None:
            raise _failure(f"the daemon ended while it started (exit code {exit_code})", log, log_start)
        time.sleep(_POLL_SECONDS)
    child.terminate()
    raise _failure(f"the daemon did not answer within {START_SECONDS:.0f} s", log, log_start)


def _spawn(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)


def _prepare_log(log: Path) -> int:
    """Make room in the log; return where this start's lines will begin."""
    try:
        size_bytes = log.stat().st_size
    except FileNotFoundError:  # the first start
        return 0
    if size_bytes < _LOG_LIMIT_BYTES:
        return size_bytes
    log.replace(log.with_suffix(".log.1"))
    return 0


def _failure(message: str, log: Path, log_start: int) -> DaemonError:
    with log.open("rb") as file:
        file.seek(log_start)
        lines = file.read().decode("utf-8", "replace").splitlines()[-_LOG_LINES:]
    said = "".join(f"\n  {line}" for line in lines)
    return DaemonError(message + said, hint=f"the whole log is {log}; `localllm serve` runs it in the foreground")


@contextmanager
def _one_starter_at_a_time(lock: Path) -> Iterator[None]:
    if sys.platform == "win32":  # no flock there: both start one, the one that gets the port stays
        yield
        return
    import fcntl  # does not exist on Windows

    # The kernel drops the lock with the process, so a CLI that dies leaves nothing stale behind.
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
