"""What the quantised model gets right, measured on cases that were never trained on.

Every answer comes from llama.cpp, greedy, out of the GGUF file. An answer about localllm counts only when it
equals the written one letter by letter; a tool call when its JSON, name and arguments do; a thought when it
closes and the answer behind it is right.
"""

import json
import random
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from guide.conversations import (
    HeldOut,
    held_out_facts,
    held_out_results,
    held_out_tools,
    held_out_unknown,
    held_out_without_tool,
)
from guide.corpus import REFUSAL, Corpus, read_lines
from guide.export import load_state
from guide.network import Network, Shape

ANSWER_TOKENS = 220
TOOL_CALL = re.compile(r"<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)
TOOL_CASES, THINKING_TOOL_CASES, RESULT_CASES = 150, 40, 60
SEED = 20_000


def ask_engine(engine_python: str, order: dict[str, Any]) -> dict[str, Any]:
    """Give decode.py one order in a child process."""
    script = Path(__file__).with_name("decode.py")
    child = subprocess.run(
        [engine_python, script], input=json.dumps(order), text=True, check=True, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    result: dict[str, Any] = json.loads(child.stdout)
    return result


def held_out_cases(corpus: Corpus) -> list[HeldOut]:
    return [
        *held_out_facts(corpus, thinking=False),
        *held_out_facts(corpus, thinking=True),
        *held_out_unknown(corpus),
        *held_out_tools(TOOL_CASES, SEED),
        *held_out_tools(THINKING_TOOL_CASES, SEED + 1, thinking=True),
        *held_out_results(RESULT_CASES, SEED + 2),
        *held_out_without_tool(corpus, SEED + 3),
    ]


def split_thought(answer: str) -> tuple[str | None, str]:
    """The thought, or None when it never closes, and what follows it."""
    thought, closing, rest = answer.partition("\n</think>\n\n")
    return (thought, rest) if closing else (None, answer)


def parse_calls(answer: str) -> list[Any] | None:
    try:
        return [json.loads(text) for text in TOOL_CALL.findall(answer)]
    except ValueError:
        return None


def is_right(case: HeldOut, answer: str) -> bool:
    if case.category.startswith("thinking"):
        thought, answer = split_thought(answer)
        if thought is None:
            return False
    if case.calls:
        return parse_calls(answer) == list(case.calls)
    return answer == case.expected


def share(flags: Sequence[bool]) -> float:
    return round(sum(flags) / len(flags), 4) if flags else 0.0


def score(cases: list[HeldOut], answers: list[str]) -> dict[str, Any]:
    """Accuracy per category, the summed figures the targets speak of, and every miss."""
    right = [is_right(case, answer) for case, answer in zip(cases, answers, strict=True)]
    categories: dict[str, list[bool]] = {}
    for case, flag in zip(cases, right, strict=True):
        categories.setdefault(case.category, []).append(flag)
    special = {"unknown", "tools", "tool results", "no tool fits"}
    thinking = [index for index, case in enumerate(cases) if case.category.startswith("thinking")]
    known = [index for index, case in enumerate(cases) if case.category not in special and index not in thinking]
    tools = [index for index, case in enumerate(cases) if case.category == "tools"]
    return {
        "exact_facts": share([right[index] for index in known]),
        "known_not_refused": share([answers[index] != REFUSAL for index in known]),
        "unknown_refused": share(categories["unknown"]),
        "tool_calls_exact": share(categories["tools"]),
        "tool_calls_valid_json": share([bool(parse_calls(answers[index])) for index in tools]),
        "tool_results_told": share(categories["tool results"]),
        "answered_without_fitting_tool": share(categories["no tool fits"]),
        "thinking_well_formed": share([split_thought(answers[index])[0] is not None for index in thinking]),
        "thinking_exact": share([right[index] for index in thinking]),
        "by_category": {name: [sum(flags), len(flags)] for name, flags in sorted(categories.items())},
        "misses": [
            {"category": case.category, "asked": last_question(case.prompt), "answer": answer}
            for case, answer, flag in zip(cases, answers, right, strict=True)
            if not flag
        ],
    }


def last_question(prompt: str) -> str:
    return prompt.rsplit("<|im_start|>user\n", 1)[-1].partition("<|im_end|>")[0]


def evaluate(path: Path, corpus: Corpus, engine_python: str) -> dict[str, Any]:
    """Decode all held-out cases with the GGUF file at `path` and score them."""
    cases = held_out_cases(corpus)
    order = {"model": str(path), "prompts": [case.prompt for case in cases], "answer_tokens": ANSWER_TOKENS}
    result = ask_engine(engine_python, order)
    return score(cases, result["answers"]) | {"tokens_per_second": result["tokens_per_second"]}


def tokenizer_samples(corpus: Corpus, texts: list[str], seed: int) -> list[str]:
    """Ordinary text, and text nobody wrote: other scripts, symbols, spaces, code, random letters."""
    source = random.Random(seed)
    ranges = ((32, 126), (0xA0, 0x24F), (0x370, 0x5FF), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0x1F300, 0x1F64F), (9, 13))
    code = [
        "def f(x):\n    return x**2  # two\n",
        '{"a": [1, 2.5, null], "b": "ü"}',
        "SELECT * FROM t;\r\n\tx",
        "\n\n\n  \n a",
    ]
    mixed = []
    for _ in range(2000):
        blocks = source.sample(ranges, 3)
        mixed.append("".join(chr(source.randint(*source.choice(blocks))) for _ in range(source.randint(1, 40))))
    return [*read_lines(Path(__file__).with_name("facts.txt")), *texts[:1500], *code, *mixed]


def tokenizer_differences(path: Path, tokenizer: Tokenizer, texts: list[str], engine_python: str) -> list[str]:
    """The texts that llama.cpp and the training tokenizer cut differently."""
    ids = ask_engine(engine_python, {"model": str(path), "tokenize": texts})["ids"]
    return [text for text, theirs in zip(texts, ids, strict=True) if tokenizer.encode(text).ids != theirs]


def logit_difference(path: Path, weights: Path, shape: Shape, ids: list[int], engine_python: str) -> float:
    """The largest difference between torch's logits and those of the F32 GGUF file, over all `ids`."""
    network = Network(shape, len(ids))
    network.load_state_dict(load_state(weights))
    with torch.no_grad():
        ours = network(torch.tensor([ids]))[0]
    theirs = torch.tensor(ask_engine(engine_python, {"model": str(path), "logits": ids})["logits"])
    return float((ours - theirs).abs().max())
