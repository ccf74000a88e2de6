"""The console entry: `--version` at once, every other word through cli/commands, every error as a sentence.

Exit codes: 0 done, 1 error, 2 wrong usage, 130 Ctrl-C. Only this module turns exceptions into words and exit codes.
It imports next to nothing: `--version` should cost what Python itself costs.
"""

from __future__ import annotations

import os
import sys

from localllm.version import __version__


def main() -> int:
    """Run the command line of this process and return its exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] in (["--version"], ["-v"]):
        sys.stdout.write(f"localllm {__version__}\n")
        return 0
    try:
        from localllm.cli.commands import run_command  # imported here: see above

        return run_command(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `localllm list | head -1`: the reader has what it wanted
        _discard_stdout()
        return 0
    except Exception as error:  # noqa: BLE001 - the last line of the program: a sentence, not a traceback
        return _report(error)


def _discard_stdout() -> None:
    # Python flushes stdout once more at exit; on the broken pipe that would print a second error.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(error: Exception) -> int:
    from localllm.cli.output import error_text  # imported here: only a failure needs them
    from localllm.errors import LocalllmError

    debug = os.environ.get("LOCALLLM_LOG_LEVEL", "").upper() == "DEBUG"
    if debug:
        import traceback

        traceback.print_exception(error)
    if not isinstance(error, LocalllmError):
        error = LocalllmError(
            f"unexpected {type(error).__name__}: {error}",
            hint="the same command with LOCALLLM_LOG_LEVEL=DEBUG shows where; please report it",
        )
    sys.stderr.write(error_text(error) + "\n")
    return 1
