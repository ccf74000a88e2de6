"""What is said, by whom and in which order: at once where that costs less, in a thread of its own where it overlaps."""

import threading
import time

import pytest

from localllm.generation import ContentDelta
from localllm.runner.speaker import Speaker, Spoken


class Listener:
    """Takes frames as the daemon does, and can be slow to take one."""

    def __init__(self):
        self.texts, self.threads = [], []
        self.may_take = threading.Event()
        self.may_take.set()

    def __call__(self, frame):
        self.may_take.wait(10)
        self.threads.append(threading.current_thread().name)
        self.texts.append("".join(event.text for _, event in frame.events))


def step(*texts):
    return [Spoken(number, event=ContentDelta(text)) for number, text in enumerate(texts)]


def started(*, overlaps):
    listener = Listener()
    speaker = Speaker(listener, overlaps=overlaps)
    speaker.start()
    return speaker, listener


def wait_until_it_heard(listener, count):
    end = time.monotonic() + 10
    while len(listener.texts) < count and time.monotonic() < end:
        time.sleep(0.001)


def test_one_request_alone_is_told_at_once_where_the_cores_compute():
    speaker, listener = started(overlaps=False)
    speaker.say(step("a"))
    assert (["a"], ["MainThread"]) == (listener.texts, listener.threads)


@pytest.mark.parametrize(("overlaps", "texts"), [(False, ("a", "b")), (True, ("a",)), (True, ("a", "b"))])
def test_several_and_those_of_a_gpu_are_told_while_the_engine_goes_on(overlaps, texts):
    speaker, listener = started(overlaps=overlaps)
    listener.may_take.clear()
    speaker.say(step(*texts))  # returns, though nobody takes it
    assert [] == listener.texts
    listener.may_take.set()
    wait_until_it_heard(listener, 1)
    assert (["".join(texts)], ["speaker"]) == (listener.texts, listener.threads)


def test_one_that_comes_behind_several_waits_for_them():
    speaker, listener = started(overlaps=False)
    listener.may_take.clear()
    speaker.say(step("a", "b"))
    speaker.say(step("c"))
    listener.may_take.set()
    wait_until_it_heard(listener, 2)
    assert ["ab", "c"] == listener.texts
    while speaker.is_behind:
        time.sleep(0.001)
    speaker.say(step("d"))
    assert (["ab", "c", "d"], ["speaker", "speaker", "MainThread"]) == (listener.texts, listener.threads)


def test_nothing_to_say_says_nothing():
    speaker, listener = started(overlaps=False)
    speaker.say([])
    assert [] == listener.texts
