"""The built-in tiny base, `builtin:tiny`: a small Qwen2 made on this machine, for machines without a GPU or a hub.

A byte-level BPE tokenizer and a Qwen2 of a few million parameters, pre-trained for some minutes as a plain language
model on the shorter of the bundled training items. It never sees the chat form, the section headers or a test item: those are what
fine-tuning has to teach. The result is an ordinary Transformers folder, and everything downstream treats it as any
base. It shows that the pipeline works, not what a good question is.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer
from transformers.utils import logging as transformers_logging

from gaokao.records import Record, fingerprint, join_answers, load_records

BUNDLED = Path(__file__).resolve().parent.parent / "gaokao_data" / "train.json"

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# ChatML, with the default system message that Qwen2.5's template also adds where none is sent.
CHAT_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' %}"
    "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, beside the data; a change makes a new base in a new folder."""

    vocabulary: int = 4096
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 2
    intermediate: int = 1024
    context: int = 8192
    window: int = 96
    """Tokens that a layer looks back. A model this small loses its thread over a passage that it has never seen; with
    a short window it goes on by what it has just written."""
    longest: int = 740
    """Characters; longer items are left out. The model must know its texts almost by heart within the time there is."""
    steps: int = 420
    rows: int = 4
    row_tokens: int = 512
    noise: float = 0.12
    """Share of the tokens read that are replaced by random ones."""
    learning_rate: float = 6e-3
    warmup_steps: int = 20
    seed: int = 1
    version: int = 3
    """Raised when the code below changes what the same numbers make."""


def build(folder: Path, say: Callable[[str], None], data: Path = BUNDLED, recipe: Recipe | None = None) -> Path:
    """Make the tiny base, or find the one that was made from the same data and recipe.

    Args:
        folder: where bases are kept; the base gets a folder of its own in it.
        say: prints a line of progress.
        data: the records that the tokenizer and the weights are made from.
        recipe: shape and pre-training; the shipped one by default.

    Returns:
        A Transformers folder. The same inputs give the same weights on the same machine.
    """
    recipe = recipe or Recipe()
    records = load_records(data)
    made_from = {"recipe": asdict(recipe), "data": fingerprint(records)}
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]
    target = folder / f"tiny-{key}"
    if (target / "config.json").exists():
        return target
    pieces = [plain_pieces(record) for record in records]
    texts = [piece for group in pieces if sum(map(len, group)) <= recipe.longest for piece in group]
    tokenizer = train_tokenizer(texts, recipe)
    time = "two to three minutes" if computes_bf16() else "six to twelve minutes (this CPU has no bf16 units)"
    say(f"making {target.name} once: a Qwen2 of {recipe.layers} layers, {recipe.steps} steps, {time} at full size")
    model = pretrain(texts, tokenizer, recipe, say)
    part = target.with_name(f"{target.name}.part{os.getpid()}")
    transformers_logging.disable_progress_bar()
    model.save_pretrained(part)
    transformers_logging.enable_progress_bar()
    tokenizer.save_pretrained(part)
    try:
        os.replace(part, target)
    except OSError:
        # Another process was quicker; its folder holds the same weights.
        if not (target / "config.json").exists():
            raise
    return target


def plain_pieces(record: Record) -> list[str]:
    """A record as running text: each passage, and the question with answer and explanation; no headers, no chat turns."""
    question = "\n".join([record.question, join_answers(record.answer), record.analysis])
    return [piece for piece in (record.textbook, record.outside, question) if piece]


def train_tokenizer(texts: list[str], recipe: Recipe = Recipe()) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer (any text is representable) with Qwen2.5's special tokens and ChatML template."""
    core = Tokenizer(models.BPE())
    # transformers cuts the texts of every Qwen2 in this way, into single digits too, whatever tokenizer.json says.
    pipeline = Qwen2Tokenizer().backend_tokenizer
    core.normalizer, core.pre_tokenizer, core.decoder = pipeline.normalizer, pipeline.pre_tokenizer, pipeline.decoder
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[TURN_START],
        clean_up_tokenization_spaces=False,
        model_max_length=recipe.context,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def new_model(recipe: Recipe, vocabulary: int, pad: int, eos: int) -> Qwen2ForCausalLM:
    """A Qwen2 of the recipe's shape with random weights."""
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.key_value_heads,
        max_position_embeddings=recipe.context,
        use_sliding_window=True,
        sliding_window=recipe.window,
        max_window_layers=0,
        tie_word_embeddings=False,
        pad_token_id=pad,
        eos_token_id=eos,
        bos_token_id=None,
    )
    return Qwen2ForCausalLM(config)


def computes_bf16() -> bool:
    """Whether this CPU has units for bf16; one without them emulates it, eighty times slower than fp32."""
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) with Nesterov momentum, its updates scaled to the size of AdamW's (arXiv:2502.16982).

    As torch.optim.Muon, which orthogonalizes in bf16 whatever the CPU: a step of the tiny base took ten seconds on a
    CPU without bf16 units. Here matrices of one shape go through the iteration together, in the type that is given.
    """

    COEFFICIENTS = (3.4445, -4.7750, 2.0315)
    MOMENTUM = 0.95

    def __init__(self, matrices: list[torch.Tensor], lr: float, weight_decay: float, dtype: torch.dtype) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[torch.Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    shapes.setdefault(tuple(matrix.shape), []).append(matrix)
            for shape, matrices in shapes.items():
                updates = torch.stack([self._momentum(matrix) for matrix in matrices])
                rate = group["lr"] * 0.2 * math.sqrt(max(shape))
                for matrix, update in zip(matrices, self._orthogonal(updates), strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(update.to(matrix.dtype), alpha=-rate)

    def _momentum(self, matrix: torch.Tensor) -> torch.Tensor:
        assert matrix.grad is not None
        buffer: torch.Tensor = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
        buffer.lerp_(matrix.grad, 1 - self.MOMENTUM)
        return torch.lerp(matrix.grad, buffer, self.MOMENTUM)

    def _orthogonal(self, updates: torch.Tensor) -> torch.Tensor:
        """Five Newton-Schulz steps towards the nearest orthogonal matrix of each, (matrices, rows, columns)."""
        a, b, c = self.COEFFICIENTS
        tall = updates.shape[1] > updates.shape[2]
        wide = (updates.mT if tall else updates).to(self.dtype)
        wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
        for _ in range(5):
            gram = wide @ wide.mT
            wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
        return wide.mT if tall else wide


def pretrain(
    texts: list[str], tokenizer: PreTrainedTokenizerFast, recipe: Recipe, say: Callable[[str], None]
) -> Qwen2ForCausalLM:
    """Plain next-token training on rows of pieces in random order.

    In a fixed order the model would learn each question as the continuation of its own passages, and be lost after a
    passage that it has never seen; in random order it learns to tell a text from whatever stands before it.
    """
    # A generator of our own and a forked global state: the caller's random numbers stay as they were.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = new_model(recipe, len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id)
        draw = torch.Generator().manual_seed(recipe.seed)
        pieces = [
            torch.tensor([*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.pad_token_id])
            for text in texts
        ]
        length, steps, warmup = recipe.row_tokens, recipe.steps, recipe.warmup_steps
        # Muon on the matrices of the layers learns several times as much per step here as AdamW on everything:
        # measured at 200 steps, a loss of 3.7 instead of 5.7.
        matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
        inside = {id(p) for p in matrices}
        others = [p for p in model.parameters() if id(p) not in inside]
        rate = recipe.learning_rate
        fast = computes_bf16()
        optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=rate, weight_decay=0.01, dtype=torch.bfloat16 if fast else torch.float32),
            torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.01),
        ]
        schedules = [
            torch.optim.lr_scheduler.LambdaLR(
                optimizer,
                lambda step: min(1.0, (step + 1) / warmup) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / steps))),
            )
            for optimizer in optimizers
        ]
        model.train()
        for step in range(steps):
            rows = torch.stack([_row(pieces, length, draw) for _ in range(recipe.rows)])
            # Wrong tokens among those it reads, but not among those it learns: a small model strays when it generates,
            # and this teaches it to find its way back to a text that it knows.
            wrong = torch.rand(rows.shape, generator=draw) < recipe.noise
            noise = torch.randint(len(tokenizer), rows.shape, generator=draw)
            with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                loss = model(input_ids=torch.where(wrong, noise, rows), labels=rows, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                schedule.step()
            if (step + 1) % (steps // 5) == 0:
                say(f"  step {step + 1}/{steps}, loss {loss.item():.2f}")
    return model.eval()


def _row(pieces: list[torch.Tensor], length: int, draw: torch.Generator) -> torch.Tensor:
    """Token ids of random pieces one after another, from a random place in the first, `length` in all."""
    row: list[torch.Tensor] = []
    missing = length
    while missing > 0:
        piece = pieces[int(torch.randint(len(pieces), (1,), generator=draw))]
        if not row:
            piece = piece[int(torch.randint(len(piece), (1,), generator=draw)) :]
        row.append(piece[:missing])
        missing -= len(row[-1])
    return torch.cat(row)
