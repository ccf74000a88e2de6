"""A Modelfile laid over what it is FROM. Pure; where a Modelfile says nothing, the base speaks."""

from __future__ import annotations

import msgspec

from localllm.generation import merge_options
from localllm.load_options import merge_load_options
from localllm.modelfile import Modelfile
from localllm.store.manifest import Manifest
from localllm.store.names import same_name


def layered(base: Manifest, said: Modelfile) -> Manifest:
    """`base` with what `said` says: parameters one by one, SYSTEM, TEMPLATE and MESSAGEs whole, licences added.

    An empty SYSTEM takes the base's away, an empty TEMPLATE goes back to the file's own.
    """
    licenses = [base.license] if base.license else []
    licenses += [text for text in said.licenses if text not in licenses]
    return msgspec.structs.replace(
        base,
        options=merge_options(said.options, base.options),
        load=merge_load_options(said.load, base.load),
        system=base.system if said.system is None else said.system or None,
        template=base.template if said.template is None else said.template or None,
        license="\n\n".join(licenses) or None,
        messages=said.messages or base.messages,
        parent=_parent(base, said.bases[0]),
        requires=said.requires or base.requires,
        draft=said.draft or base.draft,
    )


def _parent(base: Manifest, said: str) -> str | None:
    """What a model was made FROM; of one made anew from itself what it was made FROM before."""
    return base.parent if same_name(said, base.name) else said


def with_settings(manifest: Manifest, said: Modelfile) -> Manifest:
    """`manifest` with the settings of the catalogue alone, whatever it had."""
    return msgspec.structs.replace(
        manifest,
        options=said.options,
        load=said.load,
        system=said.system,
        template=said.template,
        license="\n\n".join(said.licenses) or None,
        messages=said.messages,
    )


def with_file_of(manifest: Manifest, base: Manifest) -> Manifest:
    """`manifest` on the file, of one part, that `base` has."""
    return msgspec.structs.replace(
        manifest,
        file=base.file,
        size_bytes=base.size_bytes,
        modified_ns=base.modified_ns,
        facts=base.facts,
        parts=(),
        source=None,
        digests=(),
    )


def has_file_of(manifest: Manifest, base: Manifest) -> bool:
    """Whether both have the same file in the same state."""
    mine = (manifest.file, manifest.size_bytes, manifest.modified_ns)
    return mine == (base.file, base.size_bytes, base.modified_ns)
