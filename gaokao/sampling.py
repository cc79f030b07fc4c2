"""Sampling that belongs to an item: its draws depend on the item and the step, not on the batch that it stands in.

transformers sorts the whole vocabulary for top-p and draws one random number for every token of it, 152,000 a row, from
one generator for the whole batch. Here a row's own uniform number meets the cumulated probabilities of its likeliest
tokens (inverse transform sampling); the distribution is the same (`tests/test_sampling.py` compares them).
"""

from collections.abc import Sequence
from hashlib import blake2b

import torch
from transformers import LogitsProcessor

# At temperature 0.7 the nucleus of 0.9 nearly always lies in so many tokens; rows where it does not take more.
CANDIDATES = 256
MORE = 16


def uniform(key: str, step: int) -> float:
    """The number in [0, 1) that a draw of an item takes at a step, counted from 0; the same on every machine."""
    digest = blake2b(f"{key}/{step}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def draw(
    scores: torch.Tensor, uniforms: torch.Tensor, temperature: float, top_p: float, candidates: int = CANDIDATES
) -> torch.Tensor:
    """One token a row from softmax(scores / temperature), limited to its nucleus (Holtzman et al. 2020, arXiv:1904.09751).

    The nucleus holds the likeliest tokens, up to and with the first that brings their probabilities to `top_p`.

    Args:
        scores: [rows, vocabulary], floating point.
        uniforms: [rows], float64, each in [0, 1).
        temperature: above 0.
        top_p: above 0, at most 1.
        candidates: tokens that are looked at first; any number gives the same draws.

    Returns:
        [rows], token ids.
    """
    probabilities = torch.softmax(scores / temperature, dim=-1)
    drawn = torch.empty(len(scores), dtype=torch.long, device=scores.device)
    waiting = torch.arange(len(scores), device=scores.device)
    while len(waiting):
        count = min(candidates, scores.shape[1])
        some = probabilities if len(waiting) == len(probabilities) else probabilities[waiting]
        top, tokens = some.topk(count, dim=-1)
        summed = top.double().cumsum(-1)
        kept = summed - top < top_p
        mass = torch.where(kept, top, 0).double().sum(-1)
        # Without a limit the mass is known before all of it has been seen.
        target = uniforms[waiting] * (mass if top_p < 1 else 1.0)
        decided = (summed[:, -1] >= top_p) | (count == scores.shape[1])
        if top_p >= 1:
            decided |= summed[:, -1] > target
        place = (summed <= target.unsqueeze(-1)).sum(-1)
        # Rounding must not lead behind the last token that can be drawn.
        last = (kept & (top > 0)).sum(-1) - 1
        place = torch.minimum(place, last).unsqueeze(-1)
        drawn[waiting[decided]] = tokens.gather(-1, place).squeeze(-1)[decided]
        waiting = waiting[~decided]
        candidates *= MORE
    return drawn


class ItemSampler(LogitsProcessor):
    """Makes greedy decoding draw: the drawn token of each row becomes the likeliest. Comes after all other processors."""

    def __init__(self, keys: Sequence[str], temperature: float, top_p: float, step: int = 0) -> None:
        """One for a call of `generate`.

        Args:
            keys: what the draws of each row depend on.
            temperature: above 0.
            top_p: above 0, at most 1.
            step: tokens that the rows have written before.
        """
        self.keys = keys
        self.temperature = temperature
        self.top_p = top_p
        self.step = step

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores with the drawn token of each row at infinity."""
        uniforms = torch.tensor([uniform(key, self.step) for key in self.keys], dtype=torch.float64)
        self.step += 1
        tokens = draw(scores, uniforms.to(scores.device), self.temperature, self.top_p)
        scores[torch.arange(len(tokens), device=scores.device), tokens] = torch.inf
        return scores
