"""Trains the network on conversations: batches by length, Muon and AdamW, one pass over the data.

Only what the assistant says is learnt in full; a part of the prompt counts a little. Every conversation
starts at position 0, as at run time, and is never cut. The last part of the run is mixed with long chats of
up to the declared context. The first part is mixed with drills: random tokens, said again. A tool call has to
repeat names and values from the prompt, and without drills so small a model takes very long to learn that.

Deterministic up to what torch promises: the same seed, thread count, machine and versions give the same
batches in the same order; sums over threads may round differently elsewhere.
"""

import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from guide.network import Network, Shape
from guide.vocabulary import CONTROL_TOKENS, VISIBLE_TOKENS

PROMPT_WEIGHT = 0.2
PROMPT_SHARE = 6
POOL_CONVERSATIONS = 12_000
DRILL_SHARE_OF_RUN = 0.5
SPECIAL_TOKENS = len(CONTROL_TOKENS) + len(VISIBLE_TOKENS)


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train; `tokens_per_batch` counts padding."""

    seed: int
    threads: int
    context_tokens: int
    tokens_per_batch: int = 6144
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup_share: float = 0.03
    drills: int = 9000
    report_every: int = 50


@dataclass(slots=True)
class Report:
    """What happened: one entry of the curve per `report_every` batches."""

    curve: list[dict[str, float]] = field(default_factory=list)
    tokens: int = 0
    batches: int = 0
    seconds: float = 0.0


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


def encode(texts: list[str], tokenizer: Tokenizer, context_tokens: int) -> list[Sample]:
    samples = []
    for encoding in tokenizer.encode_batch_fast(texts):
        ids = np.array(encoding.ids, dtype=np.int64)
        if len(ids) <= context_tokens:
            samples.append(Sample(ids, weigh(ids, tokenizer)))
    return samples


def drill(tokens: int, source: np.random.Generator) -> Sample:
    """A few random tokens, said two or three times among others; only the repetitions count.

    `tokens` is how many there are to choose from.
    """
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


def with_drills(samples: list[Sample], plan: Plan, tokens: int) -> list[Sample]:
    """The samples with `plan.drills` drills spread over the first part of the run."""
    source = np.random.default_rng(plan.seed)
    early = samples[: int(len(samples) * DRILL_SHARE_OF_RUN)]
    mixed = early + [drill(tokens, source) for _ in range(plan.drills)]
    return [mixed[index] for index in source.permutation(len(mixed))] + samples[len(early) :]


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


def plan_batches(samples: list[Sample], plan: Plan) -> list[list[Sample]]:
    """All batches in training order: pools in order, shuffled within, so late samples stay late."""
    source = random.Random(plan.seed)
    batches = []
    for at in range(0, len(samples), POOL_CONVERSATIONS):
        pool = pack(samples[at : at + POOL_CONVERSATIONS], plan.tokens_per_batch)
        source.shuffle(pool)
        batches += pool
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


def learning_rate_share(progress: float, warmup_share: float) -> float:
    """A short rise, a level, then a straight fall to zero over the second half."""
    if progress < warmup_share:
        return progress / warmup_share
    return min(1.0, (1.0 - progress) / 0.55)


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


def steps(
    network: Network, batches: list[list[Sample]], plan: Plan, report: Report
) -> Iterator[tuple[int, float, float]]:
    """Train one batch at a time; yields the batch's index, its answer loss and the learning rate."""
    engines = optimisers(network, plan)
    for index, batch in enumerate(batches):
        rate = plan.learning_rate * learning_rate_share((index + 0.5) / len(batches), plan.warmup_share)
        for engine in engines:
            for group in engine.param_groups:
                group["lr"] = rate
        ids, weights = to_tensors(batch)
        loss, answer_loss = batch_loss(network, ids, weights)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for engine in engines:
            engine.step()
            engine.zero_grad(set_to_none=True)
        report.tokens += sum(len(sample.ids) for sample in batch)
        yield index, float(answer_loss), rate


def train(
    shape: Shape, samples: list[Sample], plan: Plan, checkpoint: Path, start: dict[str, Tensor] | None = None
) -> tuple[Network, Report]:
    """One pass over the samples; prints and reports the loss of answer tokens, and saves the weights then.

    `start` holds the weights to go on from; None starts from random ones.
    """
    torch.manual_seed(plan.seed)
    torch.set_num_threads(plan.threads)
    network, report = Network(shape, plan.context_tokens), Report()
    if start is not None:
        network.load_state_dict(start)
    batches = plan_batches(with_drills(samples, plan, shape.vocabulary_size - SPECIAL_TOKENS), plan)
    started, recent = time.monotonic(), []
    for index, answer_loss, rate in steps(network, batches, plan, report):
        recent.append(answer_loss)
        if not math.isfinite(answer_loss):
            raise FloatingPointError(f"the loss is {answer_loss} at batch {index}; lower the learning rate")
        if len(recent) == plan.report_every or index == len(batches) - 1:
            seconds = time.monotonic() - started
            loss = sum(recent) / len(recent)
            report.curve.append({"batch": index + 1, "loss": round(loss, 4), "rate": round(rate, 6)})
            print(f"{index + 1}/{len(batches)} loss {loss:.4f} {report.tokens / seconds:.0f} tokens/s", flush=True)
            torch.save(network.state_dict(), checkpoint)
            recent = []
    report.batches, report.seconds = len(batches), round(time.monotonic() - started, 1)
    return network, report
