"""Mixes facts, small talk, refusals, tools and thinking into conversations, and keeps the held-out cases.

A conversation is text in two kinds of parts, prompt and answer, alternating; only answers are learnt.
Everything is drawn from one `random.Random`, so a seed and a count give the same text on every machine.
"""

import math
import random
from dataclasses import dataclass
from typing import Any

from guide.corpus import DEFAULT_MODEL, REFUSAL, REFUSAL_THOUGHT, Corpus, Fact, expand, plain, variants
from guide.phrasing import HELD_OUT_MODEL_NAMES, invented_model_name, invented_word, model_name, reword
from guide.template import Message, call_text, render_prompt
from guide.tool_results import draw_result
from guide.tools import Case, ask_again, draw_case, draw_varied_case, other_tools

END = "<|im_end|>\n"
# Categories with many facts that are much alike.
FAVOURED = ("commands", "settings", "chat")
SYSTEMS = (
    "You are a helpful assistant.", "You are a helpful assistant.", "You are guide.", "Answer briefly.", "Be brief.",
    "You are a friendly assistant.", "You are terse.", "You are a helpful AI assistant.", "You answer questions.",
    "You are guide, the assistant of localllm.", "Be helpful and honest.", "You are an expert.", "Reply in English.",
)  # fmt: skip
SYSTEM_FORMS = (
    "You are {w}, a helpful assistant.", "You are a {w} assistant. Answer the user's questions.", "Act as {w}.",
    "You are an expert in {w}. Be precise.", "The user's name is {w}. Be polite.", "Today is {w}. Answer in one line.",
    "You work for {w}. Never talk about {w2}.", "Use {w} and {w2} in your work. Answer shortly and clearly.",
    "You are a coding agent in the project {w}. Follow the rules of {w2}. Think before you act.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question, its answer, and the thought that leads to the answer."""

    question: str
    answer: str
    thought: str


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One measured prompt: `expected` is the whole answer; a tool case also has its calls."""

    category: str
    prompt: str
    expected: str
    calls: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Shares:
    """How often things are drawn: tools and thinking among all, small talk and unknown subjects among exchanges, names
    that are invented.

    `varied_tools` of the requests with tools have values that are harder to repeat, `without_fitting` have no tool that
    fits; `without_tools` of the refusals answer requests that only a tool could fulfil; a fact of FAVOURED categories
    is drawn `favour` times as often as another.
    """

    tools: float
    thinking: float = 0.26
    small_talk: float = 0.08
    invented_names: float = 0.0
    varied_tools: float = 0.0
    without_fitting: float = 0.2
    favour: float = 1.0
    unknown: float = 0.2
    without_tools: float = 0.0


class Mixer:
    """Draws conversations; owns the weights of all patterns and the set of held-out questions."""

    def __init__(self, corpus: Corpus, source: random.Random, shares: Shares) -> None:
        self.corpus = corpus
        self.source = source
        self.shares = shares
        self.held_out = {plain(question) for fact in corpus.facts + corpus.small_talk for question in fact.held_out}
        self.held_out |= {plain(question) for question in corpus.unknown_held_out}
        self.weights = {fact.name: [self.weight(p) for p in fact.patterns] for fact in corpus.facts + corpus.small_talk}
        self.unknown_weights = [self.weight(pattern) for pattern in corpus.unknown]

    def weight(self, pattern: str) -> float:
        """Rich patterns more often than poor ones, but far from in proportion."""
        return math.pow(min(variants(pattern, self.corpus.macros), 4000), 0.4)

    def draw(self, pattern: str, *, short: bool) -> str:
        """One reworded question from a pattern; drawn again when it is one that is held out."""
        while True:
            question = reword(expand(pattern, self.corpus.macros, self.source), self.source, short=short)
            question = question.replace("{M}", "{m}")
            if plain(question) not in self.held_out:
                return question

    def name(self) -> str:
        """The model that a question is about."""
        if self.shares.invented_names and self.source.random() < self.shares.invented_names:
            return invented_model_name(self.source)
        return model_name(self.source)

    def fact(self) -> Fact:
        if self.shares.favour == 1.0:
            return self.source.choice(self.corpus.facts)
        weights = [self.shares.favour if fact.category in FAVOURED else 1.0 for fact in self.corpus.facts]
        return self.source.choices(self.corpus.facts, weights)[0]

    def case(self) -> Case:
        varied = self.shares.varied_tools and self.source.random() < self.shares.varied_tools
        return draw_varied_case(self.source) if varied else draw_case(self.source)

    def fact_exchange(self, fact: Fact) -> Exchange:
        pattern = self.source.choices(fact.patterns, self.weights[fact.name])[0]
        question = self.draw(pattern, short=fact.category == "small talk")
        name = self.name()
        asked = name if "{m}" in question else DEFAULT_MODEL
        return Exchange(question.replace("{m}", name), fact.answer.replace("{m}", asked), fact.thought)

    def refusal(self) -> Exchange:
        if self.shares.without_tools and self.source.random() < self.shares.without_tools:
            return Exchange(self.case().question, REFUSAL, REFUSAL_THOUGHT)
        pattern = self.source.choices(self.corpus.unknown, self.unknown_weights)[0]
        return Exchange(self.draw(pattern, short=False), REFUSAL, REFUSAL_THOUGHT)

    def exchange(self) -> Exchange:
        kind = self.source.random()
        known = 1.0 - self.shares.unknown
        if kind < known - self.shares.small_talk:
            return self.fact_exchange(self.fact())
        if kind < known:
            return self.fact_exchange(self.source.choice(self.corpus.small_talk))
        return self.refusal()

    def opening(self, chance: float = 0.3) -> list[Message]:
        """A system message, or none, which is the common case."""
        if self.source.random() > chance:
            return []
        text = self.source.choice(SYSTEMS)
        if self.source.random() < 0.4:
            form = self.source.choice(SYSTEM_FORMS)
            text = form.format(w=invented_word(self.source).capitalize(), w2=invented_word(self.source))
        return [{"role": "system", "content": text}]

    def chat(self, turns: int) -> str:
        """Several exchanges one after another; the last one may think."""
        messages = self.opening()
        for _ in range(turns - 1):
            exchange = self.exchange()
            messages.append({"role": "user", "content": exchange.question})
            messages.append({"role": "assistant", "content": exchange.answer})
        last = self.exchange()
        messages.append({"role": "user", "content": last.question})
        return self.finish(messages, None, last.answer, last.thought)

    def finish(self, messages: list[Message], tools: list[Any] | None, answer: str, thought: str) -> str:
        thinking = self.source.random() < self.shares.thinking
        prompt = render_prompt(messages, tools, thinking=thinking)
        return prompt + (f"{thought}\n</think>\n\n" if thinking else "") + answer + END

    def tool_chat(self) -> str:
        """Requests with tools: calls, some with their results told, or an ordinary answer when no tool fits."""
        kind = self.source.random()
        messages = self.opening(0.25)
        if kind < self.shares.without_fitting:
            exchange = self.exchange()
            tools = other_tools(self.source, None, self.source.choice((1, 1, 1, 2)))
            messages.append({"role": "user", "content": exchange.question})
            return self.finish(messages, tools, exchange.answer, exchange.thought)
        if kind < 0.26:
            earlier = self.exchange()
            messages.append({"role": "user", "content": earlier.question})
            messages.append({"role": "assistant", "content": earlier.answer})
        case = self.case()
        if len(case.calls) == 1:
            # One list of tools is long; asked several times it is read once.
            for _ in range(self.source.choice((0, 1, 1, 2, 2))):
                answer = self.call_and_result(messages, case)
                messages.append({"role": "assistant", "content": answer})
                case = ask_again(case, self.source)
        if kind < 0.65 or len(case.calls) > 1:
            messages.append({"role": "user", "content": case.question})
            return self.finish(messages, case.tools, call_text(case.calls), case.thought)
        answer = self.call_and_result(messages, case)
        remaining = case.tools if self.source.random() < 0.8 else None
        return self.finish(messages, remaining, answer, "The tool has answered. I tell the user the result.")

    def call_and_result(self, messages: list[Message], case: Case) -> str:
        """Add a request, its call and what the tool returned; returns the answer that tells it."""
        result, answer = draw_result(case, self.source)
        messages.append({"role": "user", "content": case.question})
        messages.append({"role": "assistant", "content": "", "tool_calls": [{"function": call} for call in case.calls]})
        messages.append({"role": "tool", "content": result})
        return answer

    def conversation(self) -> str:
        kind = self.source.random()
        if kind < 0.96 - self.shares.tools:
            return self.chat(1)
        if kind < 1.0 - self.shares.tools:
            return self.chat(self.source.randint(2, 4))
        return self.tool_chat()


def draw_training_texts(mixer: Mixer, count: int, long_count: int) -> list[str]:
    """`count` conversations, and spread over all but the first of them `long_count` chats of many turns.

    The long chats teach positions up to the declared context.
    """
    texts = [mixer.conversation() for _ in range(count)]
    long_chats = [mixer.chat(mixer.source.randint(8, 42)) for _ in range(long_count)]
    late = texts[count // 8 :] + long_chats
    mixer.source.shuffle(late)
    return texts[: count // 8] + late


def held_out_facts(corpus: Corpus, *, thinking: bool) -> list[HeldOut]:
    cases = []
    for fact in corpus.facts + corpus.small_talk:
        for index, question in enumerate(fact.held_out):
            name = HELD_OUT_MODEL_NAMES[index % len(HELD_OUT_MODEL_NAMES)]
            answer = fact.answer.replace("{m}", name if "{m}" in question else DEFAULT_MODEL)
            messages: list[Message] = [{"role": "user", "content": question.replace("{m}", name)}]
            category = f"thinking: {fact.category}" if thinking else fact.category
            cases.append(HeldOut(category, render_prompt(messages, thinking=thinking), answer))
    return cases


def held_out_unknown(corpus: Corpus) -> list[HeldOut]:
    prompts = [render_prompt([{"role": "user", "content": question}]) for question in corpus.unknown_held_out]
    return [HeldOut("unknown", prompt, REFUSAL) for prompt in prompts]


def held_out_tools(count: int, seed: int, *, thinking: bool = False) -> list[HeldOut]:
    source = random.Random(seed)
    cases = []
    for _ in range(count):
        case = draw_case(source, held_out=True)
        prompt = render_prompt([{"role": "user", "content": case.question}], case.tools, thinking=thinking)
        category = "tools" if not thinking else "thinking: tools"
        cases.append(HeldOut(category, prompt, call_text(case.calls), tuple(case.calls)))
    return cases


def held_out_results(count: int, seed: int) -> list[HeldOut]:
    source = random.Random(seed)
    cases = []
    for _ in range(count):
        case = draw_case(source, held_out=True)
        result, answer = draw_result(case, source)
        messages: list[Message] = [
            {"role": "user", "content": case.question},
            {"role": "assistant", "content": "", "tool_calls": [{"function": call} for call in case.calls]},
            {"role": "tool", "content": result},
        ]
        cases.append(HeldOut("tool results", render_prompt(messages, case.tools), answer))
    return cases


def held_out_without_tool(corpus: Corpus, seed: int) -> list[HeldOut]:
    """Questions about localllm while tools are on offer that do not fit."""
    source = random.Random(seed)
    cases = []
    for fact in corpus.facts[::3]:
        tools = other_tools(source, None, source.choice((1, 2)))
        question = fact.held_out[-1].replace("{m}", HELD_OUT_MODEL_NAMES[0])
        answer = fact.answer.replace("{m}", HELD_OUT_MODEL_NAMES[0] if "{m}" in fact.held_out[-1] else DEFAULT_MODEL)
        prompt = render_prompt([{"role": "user", "content": question}], tools)
        cases.append(HeldOut("no tool fits", prompt, answer))
    return cases
