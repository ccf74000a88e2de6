"""The process that tries a chat template: one CheckRequest in on stdin, one CheckEvent out, each a line of JSON.

    python -m localllm.chat.check

A template is a stranger's program, so it is run where it may hang: whoever asked kills this process then.
"""

from __future__ import annotations

import sys
from datetime import datetime

import msgspec

from localllm.chat.templates import open_template
from localllm.creating import Checked, CheckEvent, CheckRequest
from localllm.errors import TemplateError
from localllm.generation import Message, failed_from


def check(request: CheckRequest) -> CheckEvent:
    """Whether the template can be read, and renders one question."""
    try:
        template = open_template(request.template, bos_token="<s>", eos_token="</s>", today=datetime.now)
        template.render([Message("user", "probe")])
    except TemplateError as error:
        return failed_from(error)
    return Checked()


def main() -> None:
    """Serve one request."""
    request = msgspec.json.decode(sys.stdin.buffer.readline(), type=CheckRequest)
    sys.stdout.buffer.write(msgspec.json.encode(check(request)) + b"\n")


if __name__ == "__main__":
    main()
