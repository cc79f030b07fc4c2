"""The loss on a CPU: logits of the positions with a target only, computed once for the loss and its gradient."""

import functools
from typing import Any

import torch
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from gaokao.memory import TARGETS_AT_ONCE

# Their logits are the product with the head and nothing else; others scale or cap them.
PLAIN_HEADS = ("qwen2", "qwen3", "llama", "mistral")


class _TargetScores(torch.autograd.Function):
    """`score_targets` and its gradient, which is taken while the logits are there."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else states.dtype
        inputs, weight = states.to(dtype), weight.to(dtype)
        scores = torch.empty(len(targets))
        entropy = torch.empty(len(targets))
        first = torch.empty(len(targets), dtype=torch.bool)
        gradient = torch.empty(states.shape) if ctx.needs_input_grad[0] else None
        # Written over for each part: fresh memory of this size costs more than what is computed in it.
        room = torch.empty(2, min(len(targets), TARGETS_AT_ONCE), len(weight))
        for start in range(0, len(targets), TARGETS_AT_ONCE):
            part = slice(start, start + TARGETS_AT_ONCE)
            wanted = targets[part].unsqueeze(1)
            logits, shares = room[:, : len(wanted)]
            if dtype == torch.float32:
                torch.mm(inputs[part], weight.t(), out=logits)
            else:
                logits.copy_(inputs[part] @ weight.t())
            largest = logits.amax(1, keepdim=True)
            chosen = logits.gather(1, wanted)
            first[part] = (chosen == largest).squeeze(1)
            logits -= largest
            total = torch.exp(logits, out=shares).sum(1, keepdim=True)
            shares /= total
            scores[part] = (chosen - largest - total.log()).squeeze(1)
            entropy[part] = total.log().squeeze(1) - torch.linalg.vecdot(shares, logits)
            if gradient is not None:
                # Of the log-probability by the state: the target's row of the head less the expected row.
                gradient[part] = weight[wanted.squeeze(1)].float() - (shares.to(dtype) @ weight).float()
        if gradient is not None:
            ctx.save_for_backward(gradient)
        ctx.states_dtype = states.dtype
        ctx.mark_non_differentiable(entropy, first)
        return scores, entropy, first

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (outer[0].unsqueeze(1) * gradient).to(ctx.states_dtype), None, None


def score_targets(
    states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probability and entropy (nats) of each target, and whether it ranks first.

    Only the log-probabilities have a gradient, and only the states get one.

    Args:
        states: of the last layer, (targets, hidden).
        weight: of the output head, (vocabulary, hidden).
        targets: token ids, (targets,).
    """
    scores, entropy, first = _TargetScores.apply(states, weight, targets)  # type: ignore[no-untyped-call]
    return scores, entropy, first


def score_once(model: PreTrainedModel) -> None:
    """Let trl's loss take each target's logits once on a CPU; the loss and its gradients stay the same.

    Without a GPU trl computes the logits of the prompt's positions too, in tiles of the vocabulary, and all of them again
    in the backward pass; on two cores that is half of a small model's step. Here the gradient is taken while the logits
    are there, as fused losses do on a GPU (Liger, arXiv:2410.10989). Nothing changes on a GPU, for a head that learns,
    and for one whose logits are scaled or capped.

    Args:
        model: the causal LM that trl has given its fused head, without the adapter around it.
    """
    fused = model.forward
    if model.config.model_type not in PLAIN_HEADS:
        return

    @functools.wraps(fused)
    def forward(*args: Any, fused_lm_head: bool = False, labels: torch.Tensor | None = None, **kwargs: Any) -> Any:
        head = model.get_output_embeddings()
        if not fused_lm_head or labels is None or labels.device.type != "cpu" or head.weight.requires_grad:
            return fused(*args, fused_lm_head=fused_lm_head, labels=labels, **kwargs)
        states = model.base_model(*args, **{**kwargs, "use_cache": False}).last_hidden_state[:, :-1]
        following = labels[:, 1:]
        mask = following != -100
        targets = following[mask]
        scores, entropy, first = score_targets(states[mask], head.weight, targets)
        return FusedCausalLMOutput(
            loss=-scores.sum() / max(len(targets), 1),
            log_probs=scores,
            entropy=entropy,
            is_top1=first,
            label_mask=torch.ones_like(targets, dtype=torch.bool),
        )

    model.forward = forward
