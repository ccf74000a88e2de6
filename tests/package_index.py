"""A package index on loopback with one archive, as PyPI serves it, and a stand-in for the converter in that archive.

    with package_index(archive()) as index:
        place = ConverterPlace(release_of(index.archive), str(cache), index.url)

The stand-in does what its model's config.json says under "stand_in"; see CONVERTER.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from hub_server import Handler
from loopback_servers import serving

from localllm.creating import ConverterRelease

ARCHIVE = "stand_in-1.0.tar.gz"
PROJECT = "stand-in"
ROOT = "stand_in-1.0/vendor"
CONVERTER = """
import argparse, json, logging, os, pickle, shutil, socket, subprocess, sys, time
from pathlib import Path
import beside  # a part of the converter, from its own folder

parser = argparse.ArgumentParser()
parser.add_argument("--outfile", type=Path)
parser.add_argument("--outtype")
parser.add_argument("model", type=Path)
said = parser.parse_args()
model, target = said.model, said.outfile
logger = logging.getLogger("stand-in")

def copy():
    print("what a library prints is no event")
    os.write(1, b"nor is this\\n")
    logger.info("nobody is told of this")
    logger.warning("the type is %s", said.outtype)
    shutil.copyfile(model / "made.data", target)

def slow():
    target.write_bytes((model / "made.data").read_bytes()[:100])
    (model / "begun").write_text(str(os.getpid()))
    time.sleep(600)

def unsupported():
    logger.error("Model %s is not supported", "NopeForCausalLM")
    sys.exit(1)

def load(path):
    import importlib.util
    spec = importlib.util.spec_from_file_location("theirs", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))

def code():
    load(model / "theirs.py")

def code_elsewhere():
    copied = target.parent / "copied.py"
    shutil.copyfile(model / "theirs.py", copied)
    try:
        load(copied)
    finally:
        copied.unlink()

def swallowed():
    try:
        load(model / "theirs.py")
    except Exception:
        pass
    raise ValueError("there is no tokenizer then")

def network():
    socket.create_connection(("127.0.0.1", int((model / "port").read_text())))

def program():
    subprocess.run([sys.executable, str(model / "theirs.py")])

def unpickle():
    pickle.loads((model / "theirs.pickle").read_bytes())

def trusting():
    from transformers import AutoTokenizer
    AutoTokenizer.from_pretrained(model, trust_remote_code=True)
    copy()

def abort():
    os.abort()

def killed():
    os.kill(os.getpid(), 9)

def full():
    with open("/dev/full", "wb") as file:
        file.write(b"x" * 100000)

def memory():
    raise MemoryError

def strange():
    class Strange(Exception):
        pass
    raise Strange("a tokenizer\\nof no kind")

def untold():
    raise KeyError("num_attention_heads")

def garbage():
    target.write_bytes(b"GGUF and nothing else")

globals()[json.loads((model / "config.json").read_text())["stand_in"]]()
"""
ADAPTER_CONVERTER = """
import argparse, logging, shutil
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--outfile", type=Path)
parser.add_argument("--outtype")
parser.add_argument("--base", type=Path)
parser.add_argument("lora", type=Path)
said = parser.parse_args()
logging.getLogger("stand-in").warning("%s of %s", said.outtype, (said.base / "config.json").read_text())
shutil.copyfile(said.lora / "made.data", said.outfile)
"""
FILES = {"convert.py": CONVERTER, "convert_lora.py": ADAPTER_CONVERTER, "beside.py": "", "lib/inner.py": "x = 1\n"}
WANTED = r"(convert|convert_lora|beside)\.py|lib/\w+\.py"


def archive(files: Mapping[str, str] | None = None) -> bytes:
    """A source archive with the stand-in, or these files, and with members that must never be unpacked."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name, text in (files or FILES).items():
            _add(tar, f"{ROOT}/{name}", text)
        for name in ("../beside.py", "../../../lib/evil.py", "lib/../../x.py", "other.py", "lib/a/b.py", "lib/x.so"):
            _add(tar, f"{ROOT}/{name}", "evil")
        for name in ("/lib/evil.py", "beside.py", f"{ROOT}-else/convert.py"):
            _add(tar, name, "evil")
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            member = tarfile.TarInfo(f"{ROOT}/lib/link{kind.decode()}.py")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    return data.getvalue()


def _add(tar: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(text.encode())
    tar.addfile(member, io.BytesIO(text.encode()))


def release_of(data: bytes, libraries: tuple[str, ...] = ()) -> ConverterRelease:
    """What is pinned of an archive."""
    digest = hashlib.sha256(data).hexdigest()
    return ConverterRelease(
        project=PROJECT,
        archive=ARCHIVE,
        size_bytes=len(data),
        sha256=digest,
        root=ROOT,
        wanted=WANTED,
        script="convert.py",
        adapter_script="convert_lora.py",
        libraries=libraries,
        packages=("torch>=2.6", "a<b"),
    )


@dataclass
class PackageIndex:
    """What runs. `is_json` says which of the two kinds of page it has; `faults` are statuses it answers first."""

    archive: bytes
    is_json: bool = True
    faults: list[int] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)
    url: str = ""
    requests: list[str] = field(default_factory=list)
    logins: list[str | None] = field(default_factory=list)


@contextmanager
def package_index(data: bytes, **changes: object) -> Iterator[PackageIndex]:
    """Serve until the block ends."""
    index = PackageIndex(data, **changes)  # type: ignore[arg-type]
    with serving(type("_IndexHandler", (_IndexHandler,), {"index": index})) as (url,):
        index.url = f"{url}/simple"
        yield index


class _IndexHandler(Handler):
    index: PackageIndex

    def do_GET(self) -> None:  # noqa: N802 - http.server's name
        index, path = self.index, urlsplit(self.path).path
        index.requests.append(path)
        index.logins.append(self.headers.get("Authorization"))
        if index.faults:
            self.answer(index.faults.pop(0))
        elif path == f"/simple/{PROJECT}/":
            self._page()
        elif path == f"/files/{ARCHIVE}":
            data = index.archive[: index.cut.pop(0)] if index.cut else index.archive
            self.answer(200, {"Content-Type": "application/gzip"}, data)
        else:
            self.answer(404)

    def _page(self) -> None:
        names = ["stand_in-0.9.tar.gz", ARCHIVE]
        if self.index.is_json:
            files = [{"filename": name, "url": f"../../files/{name}", "hashes": {}} for name in names]
            body = json.dumps({"meta": {"api-version": "1.1"}, "name": PROJECT, "files": files})
            self.answer(200, {"Content-Type": "application/vnd.pypi.simple.v1+json"}, body.encode())
        else:
            links = [
                f'<a href="../../files/{name}#sha256=00" data-requires-python="&gt;=3">{name}</a>' for name in names
            ]
            self.answer(
                200, {"Content-Type": "text/html"}, f"<!DOCTYPE html><body>{'<br>'.join(links)}</body>".encode()
            )
