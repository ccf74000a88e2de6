"""The byte-level BPE vocabulary: how it is trained, and text to token ids.

At run time the pieces are GPT-2's (`tokenizer.ggml.pre` = "gpt-2"). Training is stricter: it splits spaces
and digits off, so a name has the same tokens after a space as after a quotation mark, which is what lets a
small model copy it into JSON. Afterwards merges of a space with the commonest words of ordinary sentences and
with the commonest punctuation are added at the lowest rank, to shorten text. Every merge joins two tokens inside
one GPT-2 piece.
"""

import json
import re
from collections import Counter
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VISIBLE_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
SPACE = "Ġ"
VOCABULARY_SIZE = 2816
SPACED_WORDS = 600
SPACED_MARKS = 24
SPACED_MARK = re.compile(r"(?<= )[!-/:-@\[-`{-~]+")
STRICT_PIECES = r" |\p{L}+|\p{N}|[^\s\p{L}\p{N}]+|\s"


def learn_merges(texts: list[str], merge_count: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Train on strict pieces; returns the vocabulary (bytes and merges) and the merges by rank."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(STRICT_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + merge_count, initial_alphabet=alphabet, show_progress=False, min_frequency=2
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def spaced_words(texts: list[str], vocabulary: dict[str, int], count: int) -> list[str]:
    """The commonest words that follow a space and are one token already."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word in text.replace("\n", " ").split(" ") if word.isalpha() and word in vocabulary)
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return [word for word, _ in ranked[:count]]


def spaced_marks(texts: list[str], vocabulary: dict[str, int], count: int) -> list[str]:
    """The commonest punctuation that follows a space and is one token already."""
    counts = Counter(mark for text in texts for mark in SPACED_MARK.findall(text) if mark in vocabulary)
    return sorted(counts, key=lambda mark: (-counts[mark], mark))[:count]


def train_vocabulary(texts: list[str], sentences: list[str], path: Path) -> Tokenizer:
    """Train on all texts; give spaced tokens to the commonest words of `sentences`; write and return it."""
    special = [*CONTROL_TOKENS, *VISIBLE_TOKENS]
    spaced_count = SPACED_WORDS + SPACED_MARKS
    vocabulary, merges = learn_merges(texts, VOCABULARY_SIZE - 256 - spaced_count - len(special))
    spaced = [
        *spaced_marks(texts, vocabulary, SPACED_MARKS),
        *spaced_words(sentences, vocabulary, SPACED_WORDS),
    ]
    for piece in spaced:
        vocabulary[SPACE + piece] = len(vocabulary)
        merges.append((SPACE, piece))
    return build_tokenizer(vocabulary, merges, path)


def build_tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]], path: Path) -> Tokenizer:
    """The tokenizer of these tokens and merges, with the special tokens behind them; writes and returns it."""
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in VISIBLE_TOKENS])
    tokenizer.save(str(path))
    return tokenizer


def load_vocabulary(path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(path))


def tokens_by_id(tokenizer: Tokenizer) -> list[str]:
    by_id = {index: token for token, index in tokenizer.get_vocab(with_added_tokens=True).items()}
    return [by_id[index] for index in range(len(by_id))]


def merges_of(tokenizer: Tokenizer) -> list[str]:
    """The merges by rank, each as "left right", which is how GGUF holds them."""
    return [f"{left} {right}" for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]
