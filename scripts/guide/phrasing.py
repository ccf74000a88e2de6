"""Other ways to put one question: in another frame, with other words, polite, lower-case, hurried, mistyped.

The same changes are made to questions the model knows and to those it must refuse, so that a polite word,
a rare word or a typing error never tells the two apart.
"""

import random
import re

from guide.wording import (
    CLOSERS,
    DOUBLING,
    DROPPED,
    HEDGES,
    HOW,
    HOW_FRAMES,
    OPENERS,
    SYNONYMS,
    WHAT,
    WHAT_FRAMES,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz"
# A name in backticks, a path, an option and the word after `localllm` are not words to play with.
BY_LENGTH = sorted(SYNONYMS, key=lambda word: (-len(word), word))
SYNONYM = re.compile(rf"(?<![\w/`.:_-])(?<!localllm )(?:{'|'.join(map(re.escape, BY_LENGTH))})(?![\w/`:_-]|\.\w)")
ASKS_HOW = re.compile(rf"^(?:{HOW}) (?P<rest>[a-z][^.?!]*)[.?!]*$", re.IGNORECASE)
ASKS_WHAT = re.compile(rf"^(?:{WHAT}) (?P<rest>\S+(?: [^\s?!,]+){{0,5}})[.?!]*$", re.IGNORECASE)


def gerund(verb: str) -> str:
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")):
        return verb[:-1] + "ing"
    return verb + (verb[-1] if verb in DOUBLING else "") + "ing"


def with_frame(text: str, source: random.Random) -> str:
    """The same request in another frame, when it has one of the two frames that are understood here."""
    if match := ASKS_HOW.match(text):
        verb, space, rest = match["rest"].partition(" ")
        framed = source.choice(HOW_FRAMES).format(do=match["rest"], doing=gerund(verb) + space + rest)
    elif match := ASKS_WHAT.match(text):
        framed = source.choice(WHAT_FRAMES).format(it=match["rest"])
    else:
        return text
    return framed[:1].upper() + framed[1:] if source.random() < 0.7 else framed


def with_hedge(text: str, source: random.Random) -> str:
    """A word such as "actually" after the subject."""
    return re.sub(r"\b(do|can|should|does|would) (I|one|you|we|it)\b", rf"\1 \2 {source.choice(HEDGES)}", text, count=1)


def mistype(word: str, source: random.Random) -> str:
    """Swap, drop, double or replace one letter inside a word."""
    at = source.randrange(1, len(word) - 1)
    match source.randrange(4):
        case 0:
            return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        case 1:
            return word[:at] + word[at + 1 :]
        case 2:
            return word[:at] + word[at] + word[at:]
        case _:
            return word[:at] + source.choice(LETTERS) + word[at + 1 :]


def with_typing_error(text: str, source: random.Random) -> str:
    words = text.split(" ")
    candidates = [index for index, word in enumerate(words) if word.isalpha() and word.islower() and len(word) > 3]
    if candidates:
        index = source.choice(candidates)
        words[index] = mistype(words[index], source)
    return " ".join(words)


def with_synonym(text: str, source: random.Random) -> str:
    """One word, or phrase, replaced by another that means nearly the same."""
    matches = list(SYNONYM.finditer(text))
    if not matches:
        return text
    match = source.choice(matches)
    other = source.choice(SYNONYMS[match[0]])
    return text[: match.start()] + other + text[match.end() :]


def without_small_word(text: str, source: random.Random) -> str:
    words = text.split(" ")
    candidates = [index for index, word in enumerate(words) if word.lower() in DROPPED]
    if candidates and len(words) > 3:
        del words[source.choice(candidates)]
    return " ".join(words)


def with_opener(text: str, source: random.Random) -> str:
    first_word = text.split(" ")[0]
    keeps_case = first_word == "I" or not first_word[1:].islower()
    return f"{source.choice(OPENERS)} {text if keeps_case else text[0].lower() + text[1:]}"


def with_closer(text: str, source: random.Random) -> str:
    closer = source.choice(CLOSERS)
    if closer[0] == " " and closer[1].isupper():
        return text + closer
    return text.rstrip("?.!") + closer + ("?" if text.endswith("?") and not closer.endswith("?") else "")


CHANGES = (
    (0.25, with_frame), (0.05, with_hedge), (0.32, with_synonym), (0.2, with_synonym), (0.1, with_synonym),
    (0.06, without_small_word), (0.03, without_small_word), (0.14, with_typing_error), (0.16, with_opener),
    (0.1, with_closer),
)  # fmt: skip


def reword(text: str, source: random.Random, *, short: bool = False) -> str:
    """One variant of a question; `short` texts (greetings, keywords) change only in case and punctuation."""
    if not short:
        for chance, change in CHANGES:
            if source.random() < chance:
                text = change(text, source)
    if source.random() < 0.25:
        text = text.rstrip("?.!") or text
    elif source.random() < 0.06:
        text += source.choice(("?", "!", ".", "??", " ?", "...", "\n"))
    case = source.random()
    if case < 0.2:
        text = text.lower()
    elif case < 0.3:
        text = text[:1].lower() + text[1:]
    elif case < 0.31:
        text = text.upper()
    return text


MODEL_NAMES = (
    "llama3.2", "llama3.2:1b", "llama3.1", "llama3.1:8b", "llama3", "llama2", "qwen3", "qwen3:0.6b", "qwen3:8b",
    "qwen2.5", "qwen2.5-coder", "qwen2.5:7b", "gemma3", "gemma3:4b", "gemma2", "gemma", "phi4", "phi3", "phi4-mini",
    "mistral", "mistral-nemo", "mistral-small", "deepseek-r1", "deepseek-r1:8b", "deepseek-v3", "smollm2", "codellama",
    "tinyllama", "granite3.3", "olmo2", "command-r", "starcoder2", "gpt-oss", "gpt-oss:20b", "nomic-embed-text",
    "llava", "mixtral", "falcon3", "yi", "solar", "devstral", "vicuna", "orca-mini", "hf.co/unsloth/Qwen3-8B",
    "hf.co/bartowski/gemma-3-GGUF", "Llama-3.2", "Qwen3", "Mistral-7B", "hf.co/owner/repo",
)  # fmt: skip
HELD_OUT_MODEL_NAMES = ("stablelm2", "zephyr:7b", "exaone3.5", "nemotron-mini", "glm4:9b")
SYLLABLES = ("ba", "be", "bo", "ca", "co", "da", "de", "do", "fa", "fi", "ga", "go", "ha", "jo", "ka", "ki", "la", "le",
             "lo", "lu", "ma", "mi", "mo", "na", "ne", "no", "pa", "pe", "ra", "re", "ri", "ro", "sa", "se", "so", "ta",
             "te", "ti", "to", "tu", "va", "ve", "vi", "wa", "xi", "ya", "yo", "za", "ze", "zo", "chi", "sha", "tri",
             "bra", "cle", "dor", "fen", "gar", "hel", "kan", "lin", "mar", "nor", "pol", "qui", "ros", "san", "tor",
             "ul", "ver", "wil", "zan", "berg", "ville", "ton", "stad", "burg")  # fmt: skip


def invented_word(source: random.Random) -> str:
    """A pronounceable word that means nothing; it teaches copying."""
    return "".join(source.choice(SYLLABLES) for _ in range(source.randint(2, 4)))


def repeating_word(source: random.Random) -> str:
    """A word of which a part occurs twice, so that what comes next does not follow from the syllable before."""
    parts = [source.choice(SYLLABLES) for _ in range(source.randint(2, 3))]
    parts.insert(source.randint(1, len(parts)), source.choice(parts))
    return "".join(parts)


def model_name(source: random.Random) -> str:
    if source.random() < 0.55:
        return source.choice(MODEL_NAMES)
    tail = source.choice(("", "", f"{source.randint(1, 9)}", f":{source.randint(1, 70)}b", f"-{source.randint(1, 9)}b",
                          f"{source.randint(1, 4)}.{source.randint(1, 5)}", "-mini", "-coder"))  # fmt: skip
    return invented_word(source) + tail


def spelled_word(source: random.Random) -> str:
    """A word of letters as they come, which has few syllables in common with others."""
    return "".join(source.choice("aeiouaeiobcdfghjklmnprstvwxyz") for _ in range(source.randint(3, 9)))


def invented_model_name(source: random.Random) -> str:
    """The name of a model that does not exist, in any of the shapes that names have: word, version, kind, tag."""
    name = source.choice((invented_word, spelled_word))(source)
    version = source.choice(("", "", f"{source.randint(1, 9)}", f"{source.randint(1, 9)}.{source.randint(1, 9)}",
                             f"-{source.randint(1, 4)}", "lm", f"lm{source.randint(2, 5)}"))  # fmt: skip
    kind = source.choice(
        ("", "", "", "", "-mini", "-coder", "-instruct", "-chat", "-vision", f"-{spelled_word(source)}")
    )
    tag = source.choice(("", "", f":{source.randint(1, 99)}b", f":{source.randint(1, 14)}.{source.randint(1, 9)}b",
                         f":{source.randint(1, 9)}b", ":latest", f":{source.randint(100, 900)}m"))  # fmt: skip
    return name + version + kind + tag
