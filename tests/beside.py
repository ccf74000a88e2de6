"""A normal client beside whatever a test does to a daemon: it streams one answer after the other, without a pause.

    with streaming_beside(daemon):
        … an attack …

At the end of the block at least one answer has begun and come to its end since the block began, and none has failed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from daemon_process import Daemon, chat_body, lines_of

MOST_SECONDS = 60.0


class _Client:
    def __init__(self, url: str) -> None:
        self._url = url
        self.ended = 0
        self.failures: list[str] = []
        self.is_over = False
        self.changed = threading.Condition()

    def run(self) -> None:
        # A connection for each answer: one that waited between two would be among those that may be closed.
        headers = {"connection": "close"}
        with httpx.Client(base_url=self._url, timeout=30, trust_env=False, headers=headers) as http:
            while not self.is_over:
                failure = self._answer(http)
                with self.changed:
                    self.ended += 1
                    if failure:
                        self.failures.append(failure)
                    self.changed.notify_all()

    @staticmethod
    def _answer(http: httpx.Client) -> str:
        """What was wrong with one streamed answer, "" for nothing."""
        try:
            with http.stream("POST", "/api/chat", json=chat_body("How do I pull a model?")) as response:
                if response.status_code != 200:
                    return f"{response.status_code} {response.read()!r}"
                lines = list(lines_of(response))
        except httpx.HTTPError as error:
            return repr(error)
        text = "".join(line["message"]["content"] for line in lines if "message" in line)
        return "" if lines[-1].get("done") and "localllm pull" in text else repr(lines[-1])

    def wait_for_more(self, count: int) -> bool:
        with self.changed:
            goal = self.ended + count
            return self.changed.wait_for(lambda: self.ended >= goal, MOST_SECONDS)


@contextmanager
def streaming_beside(daemon: Daemon) -> Iterator[None]:
    client = _Client(daemon.url)
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
