"""Words that are one token each, so that a prompt of N words has N tokens, and an answer of them reads back as it was.

    python words.py VOCABULARY.gguf        prints {word: token}; the child, which alone loads llama.cpp

The words come from the vocabulary that the benchmarks' model has. A model with another tokenizer can be measured with
them too: its own counts are then the ones to read.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

WORD = re.compile(r" [a-z]{3,8}")
# Merges that were learnt early: words a reader knows, and enough of them that no two prompts begin alike by chance.
MOST_TOKEN = 30_000


def ensure_words() -> dict[str, int]:
    """Each word, with the space before it, and its token."""
    from bench.inputs import CACHE, ensure_vocabulary

    target = CACHE / "words-qwen2.json"
    if not target.exists():
        command = [sys.executable, str(Path(__file__).resolve()), str(ensure_vocabulary("qwen2"))]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        draft = target.with_suffix(".partial")
        draft.write_bytes(done.stdout)
        draft.replace(target)
    return dict(json.loads(target.read_text(encoding="utf-8")))


def read_words(vocabulary: Path) -> dict[str, int]:
    """In the child: the tokens that are words, and that their own text gives back."""
    import llama_cpp.llama_cpp as native

    native.llama_backend_init()
    parameters = native.llama_model_default_params()
    parameters.vocab_only = True
    model = native.llama_model_load_from_file(str(vocabulary).encode(), parameters)
    tokens = native.llama_model_get_vocab(model)
    found = {}
    room = (native.llama_token * 8)()
    for token in range(min(native.llama_vocab_n_tokens(tokens), MOST_TOKEN)):
        text = native.llama_vocab_get_text(tokens, token).decode(errors="replace").replace("Ġ", " ")
        if WORD.fullmatch(text):
            data = text.encode()
            count = native.llama_tokenize(tokens, data, len(data), room, len(room), False, False)
            if count == 1 and room[0] == token:
                found[text] = token
    native.llama_model_free(model)
    return found


if __name__ == "__main__":
    print(json.dumps(read_words(Path(sys.argv[1]))))
