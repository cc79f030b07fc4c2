"""What makes a decoding step cheap: a KV cache that grows in place, and products in the order that a CPU is quick at."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

# Room for so many tokens is made at once.
BLOCK = 64
# Rows up to which a product is skinny; with more of them both orders are equally quick.
SKINNY_ROWS = 128


class RoomyLayer(DynamicLayer):
    """A layer of the cache with room for tokens to come: transformers' own is copied whole for every new token."""

    keys: torch.Tensor
    values: torch.Tensor
    _room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write behind what is there.

        Args:
            key_states: [rows, heads, new tokens, head size].
            value_states: likewise.
            args: of other kinds of layers, not used.
            kwargs: likewise.

        Returns:
            Keys and values of all tokens, as views of the room.
        """
        if torch.compiler.is_compiling():
            # The compiler cannot trace a room and views of it side by side; it has the copy in a kernel of its own.
            self._room = None
            super().update(key_states, value_states)
            return self.keys, self.values
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if self._room is None or self._room[0].shape[-2] < after:
            # Before the first token the layer's own tensors have no shape.
            old = (self.keys, self.values) if before else (key_states[:, :, :0], value_states[:, :, :0])
            self._room = (make_room([old[0]], after, before), make_room([old[1]], after, before))
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, before:after] = states
        self.hold(*self._room, after)
        return self.keys, self.values

    def hold(self, keys: torch.Tensor, values: torch.Tensor, length: int) -> None:
        """Take these rooms, of which so many tokens are there."""
        self._room = (keys, values)
        self.keys, self.values = keys[:, :, :length], values[:, :, :length]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row so many times; the room is made anew with the next token."""
        self._room = None
        super().batch_repeat_interleave(repeats)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Only these rows; the room is made anew with the next token."""
        self._room = None
        super().batch_select_indices(indices)


def make_room(parts: Sequence[torch.Tensor], width: int, shared: int) -> torch.Tensor:
    """Keys or values of some rows with room for `width` tokens and a block more.

    Args:
        parts: [rows, heads, tokens, head size] of each; the tokens differ.
        width: tokens of a row, at least those of every part.
        shared: tokens of every part that stay at the beginning; the others end at `width`, with zeros between.

    Returns:
        [all rows, heads, width + BLOCK, head size].
    """
    _, heads, _, size = parts[0].shape
    room = parts[0].new_zeros(sum(map(len, parts)), heads, width + BLOCK, size)
    start = 0
    for part in parts:
        rows = room[start : start + len(part)]
        rows[:, :, :shared] = part[:, :, :shared]
        rows[:, :, width - (part.shape[2] - shared) : width] = part[:, :, shared:]
        start += len(part)
    return room


def join(caches: Sequence[DynamicCache], shared: int) -> DynamicCache:
    """The rows of several caches as one; each of the caches is emptied.

    Args:
        caches: of any number of tokens; their layers all grow in place.
        shared: tokens at the beginning that stay there; shorter rows get their padding, zeros to be masked, behind them.
    """
    whole, *others = caches
    if not others:
        return whole
    for layers in zip(*(cache.layers for cache in caches), strict=True):
        for layer in layers:
            assert isinstance(layer, RoomyLayer)
        width = max(layer.get_seq_length() for layer in layers)
        keys = make_room([layer.keys for layer in layers], width, shared)
        layers[0].hold(keys, make_room([layer.values for layer in layers], width, shared), width)
        for layer in layers[1:]:
            layer.reset()
    return whole


def make_cache(config: Any) -> DynamicCache:
    """An empty cache for a model; layers of other kinds (sliding windows) are transformers' own."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class _SkinnyProducts(TorchFunctionMode):
    """Computes x @ W.T of few rows as (W @ x.T).T: the same sums, in another order of the same kernel's operands."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.linear and not kwargs:
            rows, weight = args[0], args[1]
            if weight.dtype is torch.float32 and rows.numel() <= SKINNY_ROWS * rows.shape[-1]:
                product = (weight @ rows.reshape(-1, rows.shape[-1]).t()).t().contiguous()
                if len(args) > 2 and args[2] is not None:
                    product += args[2]
                return product.view(*rows.shape[:-1], -1)
        return func(*args, **(kwargs or {}))


def quick_products(model: Any) -> AbstractContextManager[Any]:
    """In this context the linear layers of a decoding step are computed in the order that is quicker on this machine.

    For fp32 on a CPU without AVX-512 only: there torch's library took up to three times as long for a skinny product one way
    as the other (measured at 4 to 64 rows). Elsewhere the context does nothing. The choice depends on the machine's kind alone, never on
    a measurement, so that a resumed run computes as the one before it.
    """
    slow = (
        next(model.parameters()).device.type == "cpu"
        and model.dtype is torch.float32
        and torch.backends.cpu.get_cpu_capability() in ("AVX2", "DEFAULT")
    )
    return _SkinnyProducts() if slow else nullcontext()
