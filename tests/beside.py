"""A normal client beside whatever a test does to a daemon: it streams one answer after the other, without a pause.

    with streaming_beside(daemon):
        … an attack …

At the end of the block at least one answer has begun and come to its end since the block began, and none has failed.
Where connections are closed for want of room, one that has asked nothing yet may be among them, as HTTP allows: there
the client `asks_again` what nobody answered with a single byte, as HTTP's clients do.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from daemon_process import Daemon, chat_body, lines_of

MOST_SECONDS = 60.0
MOST_TRIES = 3


class _Client:
    def __init__(self, url: str, tries: int) -> None:
        self._url = url
        self._tries = tries
        self.ended = 0
        self.failures: list[str] = []
        self.is_over = False
        self.changed = threading.Condition()

    def run(self) -> None:
        # A connection for each answer: one that waited between two would be among those that may be closed.
        headers = {"connection": "close"}
        with httpx.Client(base_url=self._url, timeout=30, trust_env=False, headers=headers) as http:
            while not self.is_over:
                failure = self._answer(http, self._tries)
                with self.changed:
                    self.ended += 1
                    if failure:
                        self.failures.append(failure)
                    self.changed.notify_all()

    def _answer(self, http: httpx.Client, tries: int) -> str:
        """What was wrong with one streamed answer, "" for nothing."""
        has_begun = False
        try:
            with http.stream("POST", "/api/chat", json=chat_body("How do I pull a model?")) as response:
                has_begun = True
                if response.status_code != 200:
                    return f"{response.status_code} {response.read()!r}"
                lines = list(lines_of(response))
        except httpx.HTTPError as error:
            is_closed = isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError) and not has_begun
            return self._answer(http, tries - 1) if is_closed and tries > 1 else repr(error)
        text = "".join(line["message"]["content"] for line in lines if "message" in line)
        return "" if lines[-1].get("done") and "localllm pull" in text else repr(lines[-1])

    def wait_for_more(self, count: int) -> bool:
        with self.changed:
            goal = self.ended + count
            return self.changed.wait_for(lambda: self.ended >= goal, MOST_SECONDS)


@contextmanager
def streaming_beside(daemon: Daemon, *, asks_again: bool = False) -> Iterator[None]:
    client = _Client(daemon.url, MOST_TRIES if asks_again else 1)
    thread = threading.Thread(target=client.run)
    thread.start()
    try:
        assert client.wait_for_more(1), "the normal stream did not even begin"
        yield
        assert client.wait_for_more(2), "the normal stream came to a halt"
        assert [] == client.failures
    finally:
        client.is_over = True
        thread.join()
