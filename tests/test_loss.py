"""The loss on a CPU against plain logits."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from gaokao import loss

VOCABULARY, WIDTH = 300, 16


def scored(count: int) -> tuple[Any, Any, Any]:
    torch.manual_seed(count)
    states = torch.randn(count, WIDTH, requires_grad=True)
    return states, torch.randn(VOCABULARY, WIDTH), torch.randint(0, VOCABULARY, (count,))


@pytest.mark.parametrize("count", [1, 5, 6, 13])
def test_scores_entropy_rank_and_gradient_are_those_of_plain_logits(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "TARGETS_AT_ONCE", 6)
    states, weight, targets = scored(count)
    # One that ranks first, far from it.
    targets[0] = (states[0] @ weight.t()).argmax()
    outer = torch.rand(count)
    plain: Any = torch.distributions.Categorical(logits=states @ weight.t())
    (plain.log_prob(targets) * outer).sum().backward()
    expected, states.grad = states.grad, None
    scores, entropy, first = loss.score_targets(states, weight, targets)
    torch.autograd.backward((scores * outer).sum())
    torch.testing.assert_close(scores, plain.log_prob(targets))
    torch.testing.assert_close(entropy, plain.entropy())
    assert first.tolist() == (plain.logits.argmax(1) == targets).tolist() and first[0]
    torch.testing.assert_close(states.grad, expected)
    assert not entropy.requires_grad


def test_logits_of_any_size_give_finite_scores() -> None:
    states, weight, targets = scored(4)
    scores, entropy, _ = loss.score_targets(states * 1e4, weight, targets)
    assert torch.isfinite(scores).all() and torch.isfinite(entropy).all()


def test_under_bf16_the_products_are_bf16_and_the_sums_fp32() -> None:
    states, weight, targets = scored(40)
    with torch.autocast("cpu", torch.bfloat16):
        scores, entropy, _ = loss.score_targets(states.bfloat16(), weight, targets)
        logits = (states @ weight.t()).float()
    assert scores.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(scores, logits.log_softmax(1).gather(1, targets[:, None])[:, 0])
    torch.autograd.backward(scores.sum())
    assert states.grad is not None
    rough, states.grad = states.grad, None
    (states @ weight.t()).log_softmax(1).gather(1, targets[:, None]).sum().backward()
    assert (rough - states.grad).norm() < 0.02 * states.grad.norm()


def test_without_gradients_none_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    states, weight, targets = scored(5)
    products: list[int] = []
    multiply = torch.Tensor.__matmul__

    def counted(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        products.append(1)
        return multiply(one, other)

    monkeypatch.setattr(torch.Tensor, "__matmul__", counted)
    loss.score_targets(states.detach(), weight, targets)
    assert not products
    loss.score_targets(states, weight, targets)
    assert products


def tiny() -> Any:
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=50, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1,
        )
    )  # fmt: skip
    model.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    "why", ["not the fused head", "no labels", "a head that learns", "a model with another head", "as it is"]
)
def test_trl_keeps_its_own_way_where_this_one_does_not_hold(why: str) -> None:
    model = tiny()
    passed: list[dict[str, Any]] = []

    def own(**kwargs: Any) -> SimpleNamespace:
        passed.append(kwargs)
        return SimpleNamespace(loss="trl's")

    model.forward = own
    labels: torch.Tensor | None = torch.tensor([[-100, 3, 4, 5]])
    if why == "a model with another head":
        model.config.model_type = "gemma2"
    if why == "a head that learns":
        model.lm_head.weight.requires_grad_(True)
    if why == "no labels":
        labels = None
    loss.score_once(model)
    ids = torch.tensor([[1, 2, 3, 4]])
    found = model(input_ids=ids, labels=labels, fused_lm_head=why != "not the fused head")
    assert (found.loss == "trl's") is (why != "as it is") is bool(passed)
    if passed:
        assert passed == [{"input_ids": ids, "labels": labels, "fused_lm_head": why != "not the fused head"}]


def test_the_loss_of_a_model_is_the_mean_over_its_targets() -> None:
    model = tiny()
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    labels = torch.tensor([[-100, -100, 3, -100, 5]])
    expected = model(input_ids=ids, labels=labels).loss
    loss.score_once(model)
    found = model(input_ids=ids, labels=labels, fused_lm_head=True)
    torch.testing.assert_close(found.loss, expected)
    assert found.log_probs.shape == (2,) and found.label_mask.tolist() == [True, True]
