"""Shapes of base models: how many parameters each matrix has, without loading anything.

Of the built-in base, of a folder with a config.json, of a model that was downloaded before, or of the dense Qwen2.5 and
Qwen3 models in the table below. Neither torch nor transformers is imported.
"""

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from gaokao.config import ALL_LINEAR, BUILTIN_TINY
from gaokao.errors import UserError, first_line, shown


class Shape(NamedTuple):
    """Of a dense decoder as Qwen2 and Qwen3 build it; the names of config.json stand beside each number."""

    hidden: int
    """hidden_size"""
    intermediate: int
    """intermediate_size, of the three matrices of the feed-forward part"""
    layers: int
    """num_hidden_layers"""
    heads: int
    """num_attention_heads"""
    key_value_heads: int
    """num_key_value_heads"""
    vocabulary: int
    """vocab_size"""
    tied: bool
    """tie_word_embeddings: the output head is the embedding matrix"""
    head_size: int = 0
    """head_dim; 0 for hidden / heads"""
    biases: bool = True
    """of the query, key and value projections"""
    head_norms: bool = False
    """RMSNorm of the queries and keys of each head, as Qwen3 has them"""

    @property
    def head_width(self) -> int:
        """Numbers that a head has for each token."""
        return self.head_size or self.hidden // self.heads

    @property
    def query_width(self) -> int:
        """Numbers that all heads of a layer have for each token."""
        return self.heads * self.head_width

    @property
    def key_width(self) -> int:
        """Numbers of the keys of a layer for each token, and of its values."""
        return self.key_value_heads * self.head_width

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """The linear layers of one decoder layer: name -> numbers in and out. These are quantized, and LoRA's all-linear."""
        return {
            "q_proj": (self.hidden, self.query_width),
            "k_proj": (self.hidden, self.key_width),
            "v_proj": (self.hidden, self.key_width),
            "o_proj": (self.query_width, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def linear_parameters(self) -> int:
        """Of the linear layers of all decoder layers, without biases."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linear.values())

    @property
    def head_parameters(self) -> int:
        """Of the embedding matrix, and so of the output head."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """Of the whole model, each counted once."""
        biases = (self.query_width + 2 * self.key_width) * self.biases
        norms = 2 * self.hidden + 2 * self.head_width * self.head_norms
        return (
            self.linear_parameters
            + self.layers * (biases + norms)
            + self.hidden
            + self.head_parameters * (1 if self.tied else 2)
        )

    def targets(self, modules: str | list[str]) -> dict[str, tuple[int, int]]:
        """The linear layers that `lora.target_modules` names, in each decoder layer."""
        if modules == ALL_LINEAR:
            return self.linear
        return {name: sizes for name, sizes in self.linear.items() if name in modules}

    def lora_parameters(self, r: int, modules: str | list[str]) -> int:
        """Of an adapter: A has r x in numbers and B out x r (arXiv:2106.09685)."""
        return self.layers * sum(r * (inputs + outputs) for inputs, outputs in self.targets(modules).values())


# hidden, intermediate, layers, heads, key-value heads, vocabulary, tied; then head size, biases, head norms.
# From config.json of Qwen/<name> on huggingface.co; the -Instruct and -Base models have the shape of their name.
TABLE = {
    "Qwen2.5-0.5B": Shape(896, 4864, 24, 14, 2, 151936, True),
    "Qwen2.5-1.5B": Shape(1536, 8960, 28, 12, 2, 151936, True),
    "Qwen2.5-3B": Shape(2048, 11008, 36, 16, 2, 151936, True),
    "Qwen2.5-7B": Shape(3584, 18944, 28, 28, 4, 152064, False),
    "Qwen2.5-14B": Shape(5120, 13824, 48, 40, 8, 152064, False),
    "Qwen2.5-32B": Shape(5120, 27648, 64, 40, 8, 152064, False),
    "Qwen2.5-72B": Shape(8192, 29568, 80, 64, 8, 152064, False),
    "Qwen3-0.6B": Shape(1024, 3072, 28, 16, 8, 151936, True, 128, False, True),
    "Qwen3-1.7B": Shape(2048, 6144, 28, 16, 8, 151936, True, 128, False, True),
    "Qwen3-4B": Shape(2560, 9728, 36, 32, 8, 151936, True, 128, False, True),
    "Qwen3-8B": Shape(4096, 12288, 36, 32, 8, 151936, False, 128, False, True),
    "Qwen3-14B": Shape(5120, 17408, 40, 40, 8, 151936, False, 128, False, True),
    "Qwen3-32B": Shape(5120, 25600, 64, 64, 8, 151936, False, 128, False, True),
}
# That of `tiny.Recipe`.
TINY = Shape(256, 1024, 4, 4, 2, 4096, False)
# Types of config.json whose layers are as `Shape` has them, and the keys that must be there.
KNOWN_TYPES = ("qwen2", "qwen3")
KEYS = {
    "hidden": "hidden_size", "intermediate": "intermediate_size", "layers": "num_hidden_layers",
    "heads": "num_attention_heads", "key_value_heads": "num_key_value_heads", "vocabulary": "vocab_size",
}  # fmt: skip


class Found(NamedTuple):
    """The shape of a base, and where it was found."""

    shape: Shape
    source: str
    folder: Path | None
    """Of the base, where it lies on this disk."""


def find_shape(base: str, revision: str | None = None) -> Found:
    """The shape of what `model.base` names.

    Args:
        base: hub name, local folder, or `builtin:tiny`.
        revision: of the hub; `None` for its default.

    Raises:
        UserError: nothing on this disk and no row of the table says it, or a config.json is of another kind.
    """
    if base == BUILTIN_TINY:
        return Found(TINY, "the built-in base", None)
    folder = Path(os.path.expanduser(base))
    folder_there = folder if os.path.isdir(folder) else downloaded(base, revision)
    if folder_there and os.path.isfile(folder_there / "config.json"):
        return Found(from_config(folder_there / "config.json"), f"{folder_there / 'config.json'}", folder_there)
    # A mirror keeps the name behind its own.
    match = re.fullmatch(r"(Qwen2\.5-[\d.]+B|Qwen3-[\d.]+B)(?:-Instruct(?:-\d+)?|-Base)?", base.rpartition("/")[2])
    if match and match[1] in TABLE:
        return Found(TABLE[match[1]], f"table of shapes, from config.json of Qwen/{match[1]}", None)
    raise UserError(
        f"model.base = {base}: its shape is not known: there is no config.json of it on this disk, and the table has "
        f"{', '.join(TABLE)} (with or without -Instruct or -Base). Set model.base to one of them, to {BUILTIN_TINY}, or to "
        "a folder that holds the config.json of the model (its weights are not needed for a forecast)"
    )


def downloaded(base: str, revision: str | None) -> Path | None:
    """Where the hub's client keeps a model that was downloaded before; `None` where it has not been."""
    if base.startswith((".", "/", "~")) or base.count("/") != 1:
        return None
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        file = huggingface_hub.try_to_load_from_cache(base, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(file).parent if isinstance(file, str) else None


def from_config(file: Path) -> Shape:
    """The shape that a config.json states.

    Raises:
        UserError: it cannot be read, is of another architecture, or numbers are missing.
    """
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read ({first_line(error)}); copy or download it again") from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in KNOWN_TYPES:
        raise UserError(
            f"{file}: model_type is {json.dumps(kind)}; a forecast is made for {' and '.join(KNOWN_TYPES)} only, whose layers "
            "are dense and alike; set model.base to a model of that kind"
        )
    values = {name: config.get(key) for name, key in KEYS.items()}
    faults = [f"{KEYS[name]} = {shown(value)}" for name, value in values.items() if not _is_count(value)]
    if faults:
        raise UserError(f"{file}: must be whole numbers above 0: {', '.join(faults)}; copy or download it again")
    head_size = config.get("head_dim")
    return Shape(
        **values,
        tied=bool(config.get("tie_word_embeddings", False)),
        # What Qwen3 has where its file does not say.
        head_size=head_size if _is_count(head_size) else 128 if kind == "qwen3" else 0,
        biases=kind == "qwen2",
        head_norms=kind == "qwen3",
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
