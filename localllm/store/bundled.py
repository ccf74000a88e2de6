"""Models that come with localllm: a folder with a Modelfile and the GGUF it names, and no manifest.

<bundled_dir>/
└── guide/                 the short name, in lower case
    ├── Modelfile          FROM ./guide.gguf, a file in this folder
    └── guide.gguf
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from localllm import modelfile
from localllm.errors import ModelFileError
from localllm.store.headers import Headers
from localllm.store.manifest import SCHEMA, Manifest
from localllm.store.model import facts_from
from localllm.store.names import Name

_MODELFILE = "Modelfile"


def bundled_dir() -> Path:
    """`modelfiles` inside the package, where the wheel has it, or beside the package, as in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "modelfiles"
    return inside if inside.is_dir() else package.parent / "modelfiles"


def probe_model() -> Path:
    """The smallest model that comes with localllm: what the engine is tried with. It may be missing in a checkout."""
    return bundled_dir() / "guide" / "guide.gguf"


def bundled_names(folder: Path) -> Iterator[Name]:
    """The names of all bundled models; none when there is no such folder."""
    if folder.is_dir():
        for path in sorted(folder.glob(f"*/{_MODELFILE}")):
            yield Name(path.parent.name)


def bundled_modelfile(folder: Path, name: Name) -> Path | None:
    """Where the Modelfile of the bundled model of that name would be; None when none can be called so."""
    if not name.is_local or name.tag.lower() != "latest":
        return None
    return folder / name.model.lower() / _MODELFILE


def bundled_manifest(path: Path, headers: Headers) -> Manifest | None:
    """The manifest that the bundled model with the Modelfile at `path` would have; None when there is none.

    Raises ModelFileError for a broken GGUF and modelfile.ModelfileError for a broken Modelfile.
    """
    home = path.parent
    try:
        said = modelfile.parse(modelfile.decode(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}") from error
    file = home / said.bases[0]
    if file.parent != home:
        raise ModelFileError(f"{path}: FROM must name a file beside it, such as ./model.gguf")
    seen, header = headers.read(file)
    return Manifest(
        schema=SCHEMA,
        name=str(Name(home.name)),
        file=str(file),
        size_bytes=seen.size_bytes,
        modified_ns=seen.modified_ns,
        created_at=datetime.fromtimestamp(seen.modified_ns // 10**9, UTC),
        facts=facts_from(header),
        options=said.options,
        load=said.load,
        system=said.system,
        template=said.template,
        license="\n\n".join(said.licenses) or None,
        messages=said.messages,
    )
