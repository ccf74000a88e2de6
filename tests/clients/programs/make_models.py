"""Small models in safetensors with real tokenizers, and what Transformers makes of them.

    python make_models.py FOLDER TEXT_FILE

Writes FOLDER/NAME/ for each kind, and prints one JSON object: by name the tokens of a text, the same with those that
follow when the likeliest is taken each time, and the logarithm of the probability of each of these but the first.
"""

import json
import sys
from pathlib import Path

import sentencepiece
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCABULARY = 600
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


def main() -> None:
    folder, text = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    trained = sentencepiece_model(folder, text)
    torch.manual_seed(7)
    kinds = {
        "llama": LlamaForCausalLM(LlamaConfig(**SHAPE)).to(torch.bfloat16),
        "llama-fast": LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)).to(torch.float16),
        "qwen3": Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=32)).to(torch.bfloat16),
        "qwen3-whole": Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16)),
    }
    expected = {}
    for name, model in kinds.items():
        made = folder / name
        model.save_pretrained(made, max_shard_size="200KB" if name == "qwen3" else "5GB")
        (made / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
        (made / "generation_config.json").write_text(json.dumps(SAMPLING))
        (made / "tokenizer.model").write_bytes(trained)
        tokenizer = AutoTokenizer.from_pretrained(made)
        if name == "llama-fast":
            (made / "tokenizer.model").unlink()
            tokenizer_json(trained).save(str(made / "tokenizer.json"))
        tokens = sentencepiece.SentencePieceProcessor(model_proto=trained).encode(PROMPT, add_bos=True)
        assert tokens == tokenizer.encode(PROMPT)
        reference = AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32)
        whole, logprobs = continued(reference, tokens, 24)
        expected[name] = {"prompt": PROMPT, "tokens": tokens, "whole": whole, "logprobs": logprobs}
    sys.stdout.write(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
