"""Trains the network on conversations: batches by length, Muon and AdamW, each conversation at most once.

Only what the assistant says is learnt in full; a part of the prompt counts a little. Every conversation
starts at position 0, as at run time. Of many plain questions only the beginning of the answer is read, which
leaves time for more questions. Long chats of up to the declared context are mixed in.

A tool call has to repeat names and values from the prompt. A new network therefore starts with the circuit for that
built in (see induction), and learns to use it in drills: random tokens, said again. They come alone at first, and
then among the conversations, so that the circuit stays general. Drills without the start did not teach it.

Deterministic up to what torch promises: the same seed, thread count, machine and versions give the same
batches in the same order; sums over threads may round differently elsewhere.
"""

import math
import random
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from guide.induction import build_in
from guide.network import Network, Shape
from guide.vocabulary import CONTROL_TOKENS, VISIBLE_TOKENS

PROMPT_WEIGHT = 0.2
PROMPT_SHARE = 6
POOL_CONVERSATIONS = 12_000
FIRST_ANSWER_TOKENS = 12
LONGEST_QUESTION = 90
SPECIAL_TOKENS = len(CONTROL_TOKENS) + len(VISIBLE_TOKENS)


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train; `tokens_per_batch` counts padding.

    `first_drills` come before the samples, and `drill_share` times as many as there are samples among these;
    `repeating_drills` of these hold the same tokens several times.
    The learning rate rises over `warmup_batches`, is level until batch `fall_from`, and falls to zero over the
    `fall_batches` after it, where the run ends; or before, at batch `end`.
    """

    seed: int
    threads: int
    context_tokens: int
    tokens_per_batch: int = 6144
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup_batches: int = 40
    first_drills: int = 0
    drill_share: float = 0.0
    repeating_drills: float = 0.0
    fall_from: int = 1_000_000
    fall_batches: int = 0
    end: int = 1_000_000
    report_every: int = 50


@dataclass(slots=True)
class Report:
    """What happened: one entry of the curve per `report_every` batches."""

    curve: list[dict[str, float]] = field(default_factory=list)
    tokens: int = 0
    batches: int = 0
    seconds: float = 0.0

    def add(self, loss: float, rate: float) -> None:
        """Add the mean loss since the entry before, and print it."""
        self.curve.append({"batch": self.batches, "loss": round(loss, 4), "rate": round(rate, 6)})
        speed = self.tokens / self.seconds
        print(f"batch {self.batches} loss {loss:.4f} rate {rate:.5f} {speed:.0f} tokens/s", flush=True)


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation as token ids, and how much each one counts as a target."""

    ids: np.ndarray
    weights: np.ndarray


def weigh(ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """1 for what the assistant wrote up to its <|im_end|>; PROMPT_WEIGHT for every sixth token of the prompt.

    A <think> that the template opened belongs to the prompt. Tokens of weight 0 cost no output layer.
    """
    start, end = tokenizer.token_to_id("<|im_start|>"), tokenizer.token_to_id("<|im_end|>")
    assistant, think = tokenizer.token_to_id("assistant"), tokenizer.token_to_id("<think>")
    weights = np.zeros(len(ids), dtype=np.float32)
    weights[len(ids) % PROMPT_SHARE :: PROMPT_SHARE] = PROMPT_WEIGHT
    openings = np.flatnonzero((ids[:-1] == start) & (ids[1:] == assistant))
    for opening in openings:
        first = opening + 3
        if first < len(ids) and ids[first] == think:
            first += 2
        last = first + int(np.argmax(ids[first:] == end))
        weights[first : last + 1] = 1.0
    return weights


def shorten(sample: Sample) -> Sample:
    """The sample without most of its answer, when it is one question without tools; else the sample itself.

    Which fact is asked for shows in the first tokens of the answer. The rest of an answer is soon known by heart,
    and the time that it takes is better spent on further questions.
    """
    first = int(np.argmax(sample.weights == 1.0))
    end = first + FIRST_ANSWER_TOKENS
    if first > LONGEST_QUESTION or end >= len(sample.ids) or not (sample.weights[first:-1] == 1.0).all():
        return sample
    return Sample(sample.ids[:end], sample.weights[:end])


def encode(
    texts: list[str], tokenizer: Tokenizer, context_tokens: int, seed: int, shortened_share: float
) -> list[Sample]:
    """The texts as samples, a share of them shortened; a part at a time, because encodings are large."""
    samples, source = [], random.Random(seed)
    for at in range(0, len(texts), POOL_CONVERSATIONS):
        for encoding in tokenizer.encode_batch_fast(texts[at : at + POOL_CONVERSATIONS]):
            ids = np.array(encoding.ids, dtype=np.int64)
            if len(ids) <= context_tokens:
                sample = Sample(ids, weigh(ids, tokenizer))
                samples.append(shorten(sample) if source.random() < shortened_share else sample)
    return samples


def drill(tokens: int, source: np.random.Generator, repeating: float = 0.0) -> Sample:
    """A few random tokens, said two or three times among others; only the repetitions count.

    `tokens` is how many there are to choose from. A share `repeating` of the drills chooses from very few: what comes
    next then follows only from several tokens before, as in a name with the same syllable twice.
    """
    if repeating and source.random() < repeating:
        few = source.integers(0, tokens, source.integers(3, 9))
        phrase = few[source.integers(0, len(few), source.integers(4, 17))]
    else:
        phrase = source.integers(0, tokens, source.integers(2, 33))
    parts, weights = [phrase], [np.zeros(len(phrase), dtype=np.float32)]
    for _ in range(source.integers(1, 4)):
        between = source.integers(0, tokens, source.integers(0, 40))
        parts += [between, phrase]
        # Nobody can know where a phrase begins again; from its second token on it is known.
        repeated = np.ones(len(phrase), dtype=np.float32)
        repeated[0] = 0.0
        weights += [np.zeros(len(between), dtype=np.float32), repeated]
    return Sample(np.concatenate(parts), np.concatenate(weights))


def with_drills(samples: list[Sample], plan: Plan, tokens: int, source: np.random.Generator) -> list[Sample]:
    """The samples in their order, and spread among them `drill_share` times as many drills."""
    count = int(len(samples) * plan.drill_share)
    drills = [drill(tokens, source, plan.repeating_drills) for _ in range(count)]
    places = np.concatenate([np.arange(len(samples)), source.uniform(0, len(samples), len(drills))])
    both = samples + drills
    return [both[index] for index in places.argsort(kind="stable")]


def pack(samples: list[Sample], tokens_per_batch: int) -> list[list[Sample]]:
    """Batches of samples of like length, so that little of a batch is padding."""
    batches: list[list[Sample]] = []
    batch: list[Sample] = []
    for sample in sorted(samples, key=lambda sample: len(sample.ids)):
        if batch and (len(batch) + 1) * len(sample.ids) > tokens_per_batch:
            batches.append(batch)
            batch = []
        batch.append(sample)
    return [*batches, batch]


def plan_batches(samples: list[Sample], plan: Plan, tokens: int) -> list[list[Sample]]:
    """All batches in training order: drills alone, then pools in order, shuffled within, so late samples stay late.

    `tokens` is how many there are to choose from in drills.
    """
    source, chance = random.Random(plan.seed), np.random.default_rng(plan.seed)
    first = [drill(tokens, chance) for _ in range(plan.first_drills)]
    mixed = with_drills(samples, plan, tokens, chance)
    pools = [first] if first else []
    pools += [mixed[at : at + POOL_CONVERSATIONS] for at in range(0, len(mixed), POOL_CONVERSATIONS)]
    batches = []
    for pool in pools:
        packed = pack(pool, plan.tokens_per_batch)
        source.shuffle(packed)
        batches += packed
    return batches


def to_tensors(batch: list[Sample]) -> tuple[Tensor, Tensor]:
    """Ids and weights of shape (B, T), padded with token 0 of weight 0.

    T - 1 is a multiple of 16: few different shapes keep torch from preparing its kernels over and over.
    """
    longest = math.ceil((max(len(sample.ids) for sample in batch) - 1) / 16) * 16 + 1
    ids = np.zeros((len(batch), longest), dtype=np.int64)
    weights = np.zeros((len(batch), longest), dtype=np.float32)
    for row, sample in enumerate(batch):
        ids[row, : len(sample.ids)] = sample.ids
        weights[row, : len(sample.ids)] = sample.weights
    return torch.from_numpy(ids), torch.from_numpy(weights)


def optimisers(network: Network, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks; AdamW for the embedding and the norms."""
    blocks = {id(weight) for weight in network.blocks.parameters() if weight.ndim == 2}
    matrices = [weight for weight in network.parameters() if id(weight) in blocks]
    rest = [weight for weight in network.parameters() if id(weight) not in blocks]
    return [
        torch.optim.Muon(
            matrices, lr=plan.learning_rate, weight_decay=plan.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=plan.learning_rate, weight_decay=0.0, betas=(0.9, 0.98), fused=True),
    ]


def learning_rate_share(index: int, plan: Plan) -> float:
    """A short rise, a level, then a straight fall to zero."""
    if index < plan.warmup_batches:
        return (index + 0.5) / plan.warmup_batches
    if index < plan.fall_from:
        return 1.0
    return 1.0 - (index - plan.fall_from + 0.5) / plan.fall_batches


def fall_now(plan: Plan, order: Path, index: int) -> Plan:
    """The plan with its fall beginning at this batch, once `order` names the number of batches it is to take.

    How fast a shared machine is shows only while it trains. The report names the batch, and with it in the plan
    another run does the same without an order.
    """
    if index >= plan.fall_from or not order.exists():
        return plan
    fall_batches = int(order.read_text(encoding="ascii"))
    order.unlink()
    return replace(plan, fall_from=index, fall_batches=fall_batches)


def batch_loss(network: Network, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted mean of the cross-entropy, and the mean over answer tokens alone."""
    wanted = weights[:, 1:] > 0
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(ids[:, :-1], wanted, torch.bfloat16)
    targets, weights = ids[:, 1:][wanted], weights[:, 1:][wanted]
    losses = functional.cross_entropy(logits.float(), targets, reduction="none")
    answers = (weights == 1.0).float()
    answer_loss = (losses.detach() * answers).sum() / answers.sum()
    return (losses * weights).sum() / weights.sum(), answer_loss


def set_rate(engines: list[torch.optim.Optimizer], rate: float) -> None:
    for engine in engines:
        for group in engine.param_groups:
            group["lr"] = rate


def step(network: Network, engines: list[torch.optim.Optimizer], batch: list[Sample]) -> float:
    """Train on one batch; returns its answer loss."""
    ids, weights = to_tensors(batch)
    loss, answer_loss = batch_loss(network, ids, weights)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    for engine in engines:
        engine.step()
        engine.zero_grad(set_to_none=True)
    return float(answer_loss)


def train(
    shape: Shape, samples: list[Sample], plan: Plan, checkpoint: Path, start: dict[str, Tensor] | None
) -> tuple[Network, Plan, Report]:
    """Train until the fall of the learning rate ends; prints and reports the loss, and saves the weights then.

    `start` holds the weights to go on from; None starts from random ones with the circuit that repeats built in.
    The plan that is returned is the one that was carried out.
    """
    torch.manual_seed(plan.seed)
    torch.set_num_threads(plan.threads)
    network, report = Network(shape, plan.context_tokens), Report()
    if start is None:
        build_in(network, plan.seed)
    else:
        network.load_state_dict(start)
    engines = optimisers(network, plan)
    batches = plan_batches(samples, plan, shape.vocabulary_size - SPECIAL_TOKENS)
    started, recent = time.monotonic(), []
    for index, batch in enumerate(batches):
        plan = fall_now(plan, checkpoint.with_name("fall"), index)
        rate = plan.learning_rate * learning_rate_share(index, plan)
        set_rate(engines, rate)
        recent.append(step(network, engines, batch))
        report.tokens += sum(len(sample.ids) for sample in batch)
        if not math.isfinite(recent[-1]):
            raise FloatingPointError(f"the loss is {recent[-1]} at batch {index}; lower the learning rate")
        last = index + 1 == min(len(batches), plan.fall_from + plan.fall_batches, plan.end)
        if last or (index + 1) % plan.report_every == 0:
            report.batches, report.seconds = index + 1, round(time.monotonic() - started, 1)
            report.add(sum(recent) / len(recent), rate)
            torch.save(network.state_dict(), checkpoint)
            recent = []
        if last:
            break
    return network, plan, report
