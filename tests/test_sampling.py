"""Our sampling draws from the distribution that transformers' own warpers leave, and an item's draws are its own."""

import itertools

import pytest
import torch
from scipy.stats import chisquare, kstest
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from gaokao.sampling import ItemSampler, draw, uniform

IDS = torch.zeros(1, 1, dtype=torch.long)


def reference(scores: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """The probabilities that transformers would draw from."""
    warped = TemperatureLogitsWarper(temperature)(IDS, scores.double())
    if top_p < 1:
        warped = TopPLogitsWarper(top_p)(IDS, warped)
    return torch.softmax(warped, -1)


def drawn(scores: torch.Tensor, count: int, temperature: float, top_p: float, candidates: int = 256) -> torch.Tensor:
    """Many draws from one row."""
    uniforms = torch.tensor([uniform(f"row {number}", 0) for number in range(count)], dtype=torch.float64)
    return draw(scores.expand(count, -1), uniforms, temperature, top_p, candidates)


@pytest.mark.parametrize("top_p", [0.3, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 0.7, 1.5])
@pytest.mark.parametrize("candidates", [2, 256])
def test_draws_follow_the_distribution_of_transformers_on_a_small_vocabulary(
    temperature: float, top_p: float, candidates: int
) -> None:
    torch.manual_seed(0)
    scores = 2 * torch.randn(1, 30)
    expected = reference(scores, temperature, top_p)[0]
    counts = torch.bincount(drawn(scores, 20_000, temperature, top_p, candidates), minlength=30)
    assert not counts[expected == 0].any()
    # Cells with few expected draws are one cell, as the test asks for.
    often = expected * 20_000 >= 5
    seen = [*counts[often].tolist(), int(counts[~often].sum())]
    wanted = [*(expected[often] * 20_000).tolist(), float(expected[~often].sum() * 20_000)]
    cells = [(a, b) for a, b in zip(seen, wanted, strict=True) if b > 0]
    total = sum(b for _, b in cells) / sum(a for a, _ in cells)
    if len(cells) > 1:
        assert chisquare([a for a, _ in cells], [b / total for _, b in cells]).pvalue > 1e-3


@pytest.mark.parametrize(("spread", "top_p"), [(4.0, 0.9), (1.0, 0.9), (1.0, 1.0)])
def test_draws_follow_the_distribution_of_torch_multinomial_on_a_full_vocabulary(spread: float, top_p: float) -> None:
    torch.manual_seed(1)
    scores = spread * torch.randn(1, 152_000)
    expected = reference(scores, 0.7, top_p)[0]
    ours = drawn(scores, 400, 0.7, top_p)
    theirs = torch.multinomial(expected, 400, replacement=True, generator=torch.Generator().manual_seed(2))
    assert (expected[ours] > 0).all()
    # With a spread of 1 no 256 tokens hold the mass: those rows took more.
    order = expected.argsort(descending=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    assert (int((expected > 0).sum()) > 256) is (spread == 1.0)
    below = expected[order].cumsum(0)
    for tokens in (ours, theirs):
        # The cumulated probability of what is drawn is uniform, up to the width of a token.
        places = below[rank[tokens]] - expected[tokens] * torch.rand(400, dtype=torch.float64)
        assert kstest(places.tolist(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("candidates", [1, 2, 7, 256])
@pytest.mark.parametrize("top_p", [0.05, 0.6, 0.95, 1.0])
def test_how_many_candidates_are_looked_at_first_changes_no_draw(candidates: int, top_p: float) -> None:
    torch.manual_seed(3)
    scores = torch.randn(200, 500)
    uniforms = torch.rand(200, dtype=torch.float64)
    assert torch.equal(draw(scores, uniforms, 1.0, top_p, candidates), draw(scores, uniforms, 1.0, top_p, 500))


def test_extreme_uniforms_and_scores_draw_a_token_that_can_be_drawn() -> None:
    scores = torch.tensor([[0.0, 5.0, -torch.inf, 1.0], [-torch.inf, -torch.inf, 7.0, -torch.inf]])
    for value, top_p in itertools.product((0.0, 0.5, 1 - 2**-53), (0.01, 0.9, 1.0)):
        uniforms = torch.full((2,), value, dtype=torch.float64)
        first, second = draw(scores, uniforms, 0.7, top_p).tolist()
        assert first in (0, 1, 3) and second == 2


def test_uniforms_are_uniform_and_depend_on_item_and_step() -> None:
    assert kstest([uniform("item", step) for step in range(5_000)], "uniform").pvalue > 1e-3
    assert kstest([uniform(f"item {number}", 3) for number in range(5_000)], "uniform").pvalue > 1e-3
    assert len({uniform(key, step) for key in ("a", "b") for step in range(100)}) == 200
    # The same everywhere and for ever: another number would give a resumed run other texts.
    assert uniform("a", 0) == 0.8043736897801133


def test_the_sampler_makes_the_drawn_token_the_likeliest_and_counts_its_steps() -> None:
    torch.manual_seed(4)
    scores = torch.randn(3, 50)
    sampler, later = ItemSampler(["a", "b", "c"], 1.0, 0.9), ItemSampler(["b"], 1.0, 0.9, step=1)
    uniforms = [[uniform(key, step) for key in "abc"] for step in (0, 1)]
    for step in (0, 1):
        wanted = draw(scores, torch.tensor(uniforms[step], dtype=torch.float64), 1.0, 0.9)
        assert torch.equal(sampler(IDS, scores.clone()).argmax(-1), wanted)
    # A row that goes on in another batch draws what it would have drawn.
    assert later(IDS, scores[1:2].clone()).argmax(-1) == wanted[1]
