"""What each layer of a model remembers of a sequence: keys and values per cell, a window of them, a recurrent state.

One entry per layer, from the header's numbers, by the rules of the llama.cpp that pyproject.toml names: which layers
have a cache of their own, which share one, which keep a state instead, and how wide each is. Numbers that no model can
have are refused, because all that follows multiplies them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from localllm.errors import ModelFileError
from localllm.gguf import Header
from localllm.gguf_numbers import MAX_LAYERS
from localllm.placement.shape import CELL_STEP, ContextShape, row_bytes
from localllm.placement.windows import windows_of

_ATTENDING = re.compile(r"blk\.(\d+)\.attn_output\.weight")
MAX_ELEMENTS = 2**24  # of keys, values or a state in one layer; far above any model, far below what overflows a plan
_STATE_BYTES = 4

# fmt: off
ENCODERS = frozenset([
    "bert", "jina-bert-v2", "jina-bert-v3", "nomic-bert", "nomic-bert-moe", "neo-bert", "eurobert", "modern-bert",
    "gemma-embedding",
])
NO_MEMORY = ENCODERS | {"wavtokenizer-dec", "dream", "llada", "llada-moe", "rnd1"}
RECURRENT = frozenset(["mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"])
# A layer without heads of keys is recurrent.
_HEADLESS_RECURRENT = frozenset([
    "jamba", "plamo2", "granitehybrid", "lfm2", "lfm2moe", "kimi-linear", "kimi-k3", "bailingmoe3", "glm5-next",
    "nemotron_h", "nemotron_h_moe",
])
# fmt: on
_WIND = frozenset(["rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"])
_SHORT_CONVOLUTIONS = frozenset(["lfm2", "lfm2moe"])
_DELTA_ATTENTION = frozenset(["kimi-linear", "kimi-k3", "bailingmoe3", "glm5-next"])
_UNGROUPED_STATES = frozenset(["mamba", "jamba"])
# Every so many layers one attends, the others are recurrent; what holds when the header does not say.
_ATTENTION_EVERY = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4, "qwen4exp": 4, "minimax-01": 8}
_ROLLBACK = frozenset(
    "kimi-k3 qwen35 qwen35moe qwen4exp deepseek4 glm5-next nemotron_h nemotron_h_moe lfm2 lfm2moe bailingmoe3".split()
)
_INDEXED = frozenset(["deepseek32", "glm-dsa", "hy_v4", "dots3note", "minimax-m3", "qwen4exp", "glm5-next"])


@dataclass(frozen=True, slots=True)
class CellCache:
    """One cache of a layer: elements per cell, and how many cells. `window_tokens` 0 is all of the context, a
    `cells_ratio` of 4 keeps one cell for four tokens. `per_sequence`: each sequence has one, even in a unified pool.
    `turned_elements` are those of a value where values are kept turned, for attention in several passes."""

    key_elements: int
    value_elements: int
    window_tokens: int = 0
    cells_ratio: int = 1
    per_sequence: bool = False
    turned_elements: int = 0


@dataclass(frozen=True, slots=True)
class LayerMemory:
    """What one layer keeps: caches (none when it shares another layer's), and the elements of a recurrent state per
    sequence, which always have 32 bits. `rolls_back`: a state is kept for each step that can be taken back."""

    caches: tuple[CellCache, ...] = ()
    state_elements: int = 0
    rolls_back: bool = False

    @property
    def key_elements(self) -> int:
        """Of one token in all caches; what attention reads for it."""
        return sum(cache.key_elements for cache in self.caches)

    @property
    def value_elements(self) -> int:
        return sum(cache.value_elements for cache in self.caches)


def memory_bytes(memory: LayerMemory, shape: ContextShape) -> int:
    """Bytes of one layer in a context of this shape."""
    states = max(shape.sequences, 1) * (1 + shape.rollback_states * memory.rolls_back)
    caches = sum(_cache_bytes(cache, shape) for cache in memory.caches)
    return caches + states * memory.state_elements * _STATE_BYTES


def _cache_bytes(cache: CellCache, shape: ContextShape) -> int:
    values = cache.value_elements if shape.flash_attention else max(cache.turned_elements, cache.value_elements)
    per_cell = row_bytes(shape.k_type, cache.key_elements) + row_bytes(shape.v_type, values)
    streams = shape.sequences if cache.per_sequence else shape.streams
    return stream_cells(cache, shape) * streams * per_cell


def stream_cells(cache: CellCache, shape: ContextShape) -> int:
    """Cells of one stream of a cache."""
    cells = shape.stream_cells
    if cache.cells_ratio > 1:
        return _padded(-(-cells // cache.cells_ratio))
    if not cache.window_tokens or shape.keeps_whole_window:
        return cells
    sequences = shape.sequences if shape.is_unified and not cache.per_sequence else 1
    return _padded(min(cells, cache.window_tokens * sequences + shape.batch_tokens))


def _padded(cells: int) -> int:
    return -(-cells // CELL_STEP) * CELL_STEP


def memory_of(header: Header) -> tuple[LayerMemory, ...]:
    """The memory of every layer. Raises ModelFileError for counts that no model can have."""
    facts = _Facts(header)
    memories = [facts.layer(layer) for layer in range(facts.layers)]
    # Turned, the values of every layer take the room of the widest.
    widest = max((cache.value_elements for memory in memories for cache in memory.caches[:1]), default=0)
    return tuple(_turned(memory, widest) for memory in memories)


def _turned(memory: LayerMemory, widest: int) -> LayerMemory:
    first = memory.caches[:1]
    if not first or first[0].value_elements in (0, widest):
        return memory
    return replace(memory, caches=(replace(first[0], turned_elements=widest), *memory.caches[1:]))


class _Facts:
    """The numbers of one header that decide what its layers keep, read and checked once."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.architecture = header.architecture
        self.layers = header.block_count
        if not 0 < self.layers <= MAX_LAYERS:  # weights.py says so too, of a header that nobody asked about before
            raise ModelFileError(f"{self.architecture or 'a model'} with {self.layers} layers", hint=_DAMAGED)
        self.trunk = self.layers - min(self._number("nextn_predict_layers"), self.layers)
        self.heads = self._per_layer("attention.head_count", 0)
        self.kv_heads = self._per_layer("attention.head_count_kv", None) or self.heads
        self.feed_forward = self._per_layer("feed_forward_length", 0)
        share = header.embedding_length // self.heads[0] if self.heads[0] else 0
        self.key_length = self._number("attention.key_length") or share
        self.value_length = self._number("attention.value_length") or share
        if self.architecture in ("kimi-k3", "glm5-next"):
            self.value_length = self._number("attention.kv_lora_rank")
        self.key_length_windowed = self._number("attention.key_length_swa") or self.key_length
        self.value_length_windowed = self._number("attention.value_length_swa") or self.value_length
        self.keeps_latents = bool(
            self._number("attention.key_length_mla") and self._number("attention.value_length_mla")
        )
        self.windows = windows_of(header, self.trunk)
        self._check_heads()
        self.state = self._state_elements()
        self.indexed = self._indexed_layers()

    def _check_heads(self) -> None:
        """Attention without heads would keep nothing and divide by it."""
        for tensor in self.header.tensors:
            found = _ATTENDING.fullmatch(tensor.name)
            if found and int(found[1]) < self.layers and not self.heads[int(found[1])]:
                raise ModelFileError(f"layer {found[1]} attends, but has 0 heads", hint=_DAMAGED)

    def layer(self, layer: int) -> LayerMemory:
        if self.architecture in NO_MEMORY or (layer >= self.trunk and self.trunk):
            return LayerMemory()
        if self.architecture == "deepseek4":
            return self._compressed(layer)
        caches = self._caches(layer) if self._attends(layer) else ()
        state = self.state if self._is_recurrent(layer) else 0
        if state and layer in self._numbers("ple.layers"):
            state += self._history_elements()
        return LayerMemory(caches, state, rolls_back=self.architecture in _ROLLBACK)

    def _caches(self, layer: int) -> tuple[CellCache, ...]:
        if layer >= self._first_shared_layer():
            return ()
        window = self.windows[layer]
        key, value = (
            (self.key_length_windowed, self.value_length_windowed) if window else (self.key_length, self.value_length)
        )
        heads = self.kv_heads[layer]
        values = 0 if self.keeps_latents else self._checked(heads * value, layer)
        caches = [CellCache(self._checked(heads * key, layer), values, window)]
        if layer in self.indexed:
            size = self._number("attention.indexer.key_length")
            size *= 3 if self.architecture == "glm5-next" and self._number("attention.indexer.kpool") else 1
            keeps_values = not self.keeps_latents and self.architecture != "qwen4exp"
            caches.append(CellCache(size, value if keeps_values else 0))
        return tuple(cache for cache in caches if cache.key_elements or cache.value_elements)

    def _compressed(self, layer: int) -> LayerMemory:
        """DeepSeek 4: a window of keys, and beside it one key for several tokens, with the state that makes it."""
        key, index = self.key_length, self._number("attention.indexer.key_length")
        ratios = self._numbers("attention.compress_ratios")
        ratio = ratios[layer] if layer < len(ratios) else 0
        width = self._checked(self.kv_heads[layer] * key, layer)
        caches = [CellCache(width, 0, self.windows[layer], per_sequence=True)]
        state = 0
        if ratio == _FINE_RATIO:
            caches.append(CellCache(width, 0, cells_ratio=ratio, per_sequence=True))
            caches.append(CellCache(index, 0, cells_ratio=ratio, per_sequence=True))
            state = 2 * (2 * ratio) * (2 * key + 2 * index)
        elif ratio == _COARSE_RATIO:
            caches.append(CellCache(width, 0, cells_ratio=ratio, per_sequence=True))
            state = 2 * ratio * key
        return LayerMemory(tuple(caches), state, rolls_back=True)

    def _first_shared_layer(self) -> int:
        """From here on layers use the caches of earlier ones."""
        if self.architecture == "gemma3n":
            return 20
        if self.architecture == "gemma4":
            return self.layers - self._number("attention.shared_kv_layers")
        return self.layers

    def _attends(self, layer: int) -> bool:
        if self.architecture in RECURRENT:
            return False
        if self.architecture in ("nemotron_h", "nemotron_h_moe") and self.feed_forward[layer]:
            return False
        return self.architecture == "falcon-h1" or not self._is_recurrent(layer)

    def _is_recurrent(self, layer: int) -> bool:
        if self.architecture in RECURRENT or self.architecture == "falcon-h1":
            return True
        if self.architecture in ("nemotron_h", "nemotron_h_moe") and self.feed_forward[layer]:
            return False
        if self.architecture in _HEADLESS_RECURRENT:
            return self.kv_heads[layer] == 0
        every = _ATTENTION_EVERY.get(self.architecture)
        if every is None:
            return False
        flags = self._numbers("attention.recurrent_layers")
        if flags:
            return layer < len(flags) and bool(flags[layer])
        return (layer + 1) % (self._number("full_attention_interval") or every) != 0

    def _state_elements(self) -> int:
        """Of the last inputs that a convolution looks back at, and of the state itself."""
        width, heads = self.header.embedding_length, self.heads[0]
        kernel = self._number("ssm.conv_kernel")
        if self.architecture in _WIND:
            elements = ((self._number("token_shift_count") or 2) + self._number("wkv.head_size")) * width
        elif self.architecture in _SHORT_CONVOLUTIONS:
            elements = width * max(self._number("shortconv.l_cache") - 1, 0)
        elif self.architecture in _DELTA_ATTENTION:
            head = self._number("kda.head_dim")
            elements = 3 * (kernel - 1 if kernel else 3) * heads * head + head * head * heads
        elif self.architecture == "minimax-01":
            elements = self.key_length * self.key_length * heads
        else:
            inner, size = self._number("ssm.inner_size"), self._number("ssm.state_size")
            groups = 0 if self.architecture in _UNGROUPED_STATES else self._number("ssm.group_count")
            elements = max(kernel - 1, 0) * (inner + 2 * groups * size) + inner * size
        return self._checked(elements, 0)

    def _history_elements(self) -> int:
        """Qwen 4's memory of the last words, beside the state of one layer."""
        kernel, size = self._number("ple.conv_kernel"), self._number("ple.ngram_size")
        return max(kernel - 1, 0) * size * self._number("hyper_connection.count") * self.header.embedding_length

    def _indexed_layers(self) -> frozenset[int]:
        """Layers with an index of keys, by which the few cells are found that they look at."""
        if self.architecture not in _INDEXED or not self._number("attention.indexer.key_length"):
            return frozenset()
        if self.architecture == "hy_v4" and not self._number("attention.indexer.top_k"):
            return frozenset()
        if self.architecture == "minimax-m3":
            return frozenset(range(self._number("leading_dense_block_count"), self.layers))
        if self.architecture in ("deepseek32", "qwen4exp"):
            return frozenset(range(self.trunk))
        flags = self._numbers("attention.indexer.types")
        if not flags:
            return frozenset(range(self.trunk)) if self.architecture != "glm-dsa" else self._glm_indexed()
        return frozenset(layer for layer in range(self.trunk) if layer < len(flags) and flags[layer])

    def _glm_indexed(self) -> frozenset[int]:
        """Without a word about it: all layers before version 5.2, whose context is longer; from then on some."""
        if self.header.context_length < 2**20:
            return frozenset(range(self.trunk))
        return frozenset(layer for layer in range(self.trunk) if layer < 3 or layer % 4 == 2)

    def _number(self, suffix: str) -> int:
        value = self.header.architecture_integer(suffix)
        if value > MAX_ELEMENTS and suffix != "context_length":
            raise ModelFileError(f"{self.architecture}.{suffix} is {value}, which no model has", hint=_DAMAGED)
        return value

    def _numbers(self, suffix: str) -> tuple[int, ...]:
        value = self.header.metadata.get(f"{self.architecture}.{suffix}")
        if isinstance(value, tuple):
            return tuple(item for item in value if isinstance(item, int))
        return (int(value),) * self.layers if isinstance(value, int) else ()

    def _per_layer(self, suffix: str, default: int | None) -> tuple[int, ...]:
        values = self._numbers(suffix)
        if values:
            return tuple(max(0, item) for item in values[: self.layers]) + (0,) * (self.layers - len(values))
        return () if default is None else (default,) * self.layers

    def _checked(self, elements: int, layer: int) -> int:
        if elements > MAX_ELEMENTS:
            raise ModelFileError(f"layer {layer} would keep {elements} elements, which no model does", hint=_DAMAGED)
        return elements


_FINE_RATIO, _COARSE_RATIO = 4, 128
_DAMAGED = "the file is damaged: fetch it again, or from someone else"
