"""The process that tries a chat template: one CheckRequest in on stdin, one CheckEvent out, each a line of JSON.

    python -m localllm.chat.check

A template is a stranger's program, so it is run where it may hang: whoever asked kills this process then, and the end
of stdin ends it when nobody is left to do that.
"""

from __future__ import annotations

from datetime import datetime

from localllm.chat.lint import lint
from localllm.chat.templates import open_template
from localllm.creating import Checked, CheckEvent, CheckRequest
from localllm.errand import read_request, tell
from localllm.errors import TemplateError
from localllm.failures import failed_from
from localllm.generation import Message


def check(request: CheckRequest) -> CheckEvent:
    """Whether the template can be read, and renders one question; or all there is to say of it."""
    if request.thorough:
        return Checked(lint(request.template, today=datetime.now))
    try:
        template = open_template(request.template, bos_token="<s>", eos_token="</s>", today=datetime.now)
        template.render([Message("user", "probe")])
    except TemplateError as error:
        return failed_from(error)
    return Checked()


def main() -> None:
    """Serve one request."""
    tell(check(read_request(CheckRequest)))


if __name__ == "__main__":
    main()
