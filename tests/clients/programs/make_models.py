"""Small models in safetensors with real tokenizers, and what Transformers makes of them.

    python make_models.py FOLDER TEXT_FILE

Writes FOLDER/NAME/ for each kind, FOLDER/adapter/ with an adapter of the first as PEFT saves it, and prints one JSON
object: by name the tokens of a text, the same with those that follow when the likeliest is taken each time, and the
logarithm of the probability of each of these but the first.
"""

import base64
import importlib.util
import json
import sys
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

VOCABULARY = 600
RANK, ALPHA = 4, 6
PROMPT = "The model is pulled first, and then it answers: 42 tokens, é and all."
TEMPLATE = "{% for message in messages %}<s>{{ message.role }}: {{ message.content }}</s>{% endfor %}"
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,  # enough for answers that are not one token for ever
}
TOKENIZER = {
    "tokenizer_class": "LlamaTokenizer",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "add_bos_token": True,
    "add_eos_token": False,
    "chat_template": TEMPLATE,
}
QWEN_TOKENIZER = {
    "tokenizer_class": "Qwen2Tokenizer",
    "bos_token": None,
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
    "unk_token": None,
    "chat_template": TEMPLATE,
}
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SAMPLING = {"temperature": 0.25, "top_k": 7, "top_p": 0.5, "do_sample": True, "bos_token_id": 1, "eos_token_id": [2]}


def sentencepiece_model(folder: Path, text: Path) -> bytes:
    """A tokenizer as Llama 2 has it, trained on a text."""
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "trained"), vocab_size=VOCABULARY, model_type="bpe",
        byte_fallback=True, character_coverage=0.999, minloglevel=2,
    )  # fmt: skip
    return (folder / "trained.model").read_bytes()


def tokenizer_json(trained: bytes) -> Tokenizer:
    """The same tokenizer as a fast one, with merges."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=trained)
    vocabulary = {pieces.id_to_piece(token): token for token in range(pieces.vocab_size())}
    merges = []
    for piece, token in vocabulary.items():
        if pieces.is_byte(token) or pieces.is_control(token) or pieces.is_unknown(token):
            continue
        parts = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        merges += [(token, pair) for pair in parts if pair[0] in vocabulary and pair[1] in vocabulary]
    ordered = [pair for _, pair in sorted(merges, key=lambda one: one[0])]
    tokenizer = Tokenizer(models.BPE(vocabulary, ordered, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def qwen_tokenizer() -> Tokenizer:
    """Qwen's own, made of the vocabulary that a client of its makers' service brings."""
    file = Path(importlib.util.find_spec("dashscope").origin).parent / "resources" / "qwen.tiktoken"
    lines = [line.split() for line in file.read_bytes().splitlines()]
    ranks = {base64.b64decode(piece): int(rank) for piece, rank in lines}
    spelled = bytes_to_unicode()

    def text_of(piece: bytes) -> str:
        return "".join(spelled[byte] for byte in piece)

    merges = [tuple(map(text_of, halves_of(piece, ranks))) for piece in ranks if len(piece) > 1]
    tokenizer = Tokenizer(models.BPE({text_of(piece): rank for piece, rank in ranks.items()}, merges))
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN_WORDS), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    return tokenizer


def halves_of(piece: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The two tokens that are merged to this one: what is left when all earlier merges are done."""
    parts = [bytes([byte]) for byte in piece]
    while len(parts) > 2:
        pairs = [(ranks.get(parts[i] + parts[i + 1], len(ranks)), i) for i in range(len(parts) - 1)]
        _, i = min(pairs)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def continued(model, tokens: list[int], count: int) -> tuple[list[int], list[float]]:
    """`tokens` and the likeliest ones after them; and the logarithm of the probability of each but the first.

    Computed in 32 bits.
    """
    whole = list(tokens)
    with torch.inference_mode():
        for _ in range(count):
            whole.append(int(model(torch.tensor([whole])).logits[0, -1].argmax()))
        scores = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return whole, [float(scores[place, token]) for place, token in enumerate(whole[1:])]


def kinds() -> dict[str, PreTrainedModel]:
    """The models, by name."""
    torch.manual_seed(7)
    # Qwen 3.5: its rotation takes a quarter of a head, in three sections that add up to 32.
    mixed = {**SHAPE, "num_hidden_layers": 4, "head_dim": 256, "vocab_size": 151936, "tie_word_embeddings": True}
    heads = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "mtp_num_hidden_layers": 1}
    return {
        "llama": LlamaForCausalLM(LlamaConfig(**SHAPE)).to(torch.bfloat16),
        "llama-fast": LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)).to(torch.float16),
        "qwen3": Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=32)).to(torch.bfloat16),
        "qwen3-whole": Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16)),
        "qwen35": Qwen3_5ForCausalLM(Qwen3_5TextConfig(**mixed, **heads)).to(torch.bfloat16),
    }


def trained_adapter(folder: Path, model: PreTrainedModel) -> None:
    """Write a random adapter of `model` into a folder, and merge it into the model."""
    tensors, names = {}, ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    for name, module in model.named_modules():
        if name.endswith(names):
            one = torch.randn(RANK, module.in_features) * 0.1
            other = torch.randn(module.out_features, RANK) * 0.1
            tensors[f"base_model.model.{name}.lora_A.weight"] = one
            tensors[f"base_model.model.{name}.lora_B.weight"] = other
            module.weight.data += other @ one * (ALPHA / RANK)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": names, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(said))


def give_tokenizer(made: Path, name: str, trained: bytes) -> None:
    """Write the tokenizer of the model `name` into its folder."""
    (made / "tokenizer_config.json").write_text(json.dumps(QWEN_TOKENIZER if name == "qwen35" else TOKENIZER))
    if name == "qwen35":
        qwen_tokenizer().save(str(made / "tokenizer.json"))
    elif name == "llama-fast":
        tokenizer_json(trained).save(str(made / "tokenizer.json"))
    else:
        (made / "tokenizer.model").write_bytes(trained)


def main() -> None:
    folder, text = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    trained = sentencepiece_model(folder, text)
    expected = {}
    for name, model in kinds().items():
        made = folder / name
        model.save_pretrained(made, max_shard_size="200KB" if name == "qwen3" else "5GB")
        (made / "generation_config.json").write_text(json.dumps(SAMPLING))
        give_tokenizer(made, name, trained)
        if name == "qwen35":
            tokens = AutoTokenizer.from_pretrained(made).encode(PROMPT)
        else:
            tokens = sentencepiece.SentencePieceProcessor(model_proto=trained).encode(PROMPT, add_bos=True)
        reference = AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32)
        whole, logprobs = continued(reference, tokens, 24)
        expected[name] = {"prompt": PROMPT, "tokens": tokens, "whole": whole, "logprobs": logprobs}
    changed = AutoModelForCausalLM.from_pretrained(folder / "llama", dtype=torch.float32)
    trained_adapter(folder / "adapter", changed)
    whole, logprobs = continued(changed, expected["llama"]["tokens"], 24)
    expected["adapter"] = {**expected["llama"], "whole": whole, "logprobs": logprobs}
    sys.stdout.write(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
