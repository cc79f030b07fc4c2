"""What can be set: the sections of config.yaml, each key with its type, bounds and help text.

It imports neither torch nor transformers, so that a fault answers in well under a second.
"""

import re
import types
import typing
import unicodedata
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

BUILTIN_TINY = "builtin:tiny"
ALL_LINEAR = "all-linear"
# generate.adapter: that of the run, or no adapter at all.
AUTO_ADAPTER, BARE_BASE = "auto", "none"

MAX_NAME = 1024
# A file name has 255 bytes on all usual file systems; what is set aside or half written gets a suffix.
MAX_RUN_BYTES = 200
WINDOWS_NAMES = ("CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in range(1, 10)))

# No count of this project comes near it, and every library takes it.
PositiveInt = Annotated[int, Field(ge=1, le=1_000_000_000)]


def _off_or(least: float) -> AfterValidator:
    def check(value: float) -> float:
        if 0 < value < least:
            raise ValueError(f"is too small to do anything; give at least {least:g}, or 0 for off")
        return value

    return AfterValidator(check)


Share = Annotated[float, _off_or(0.001)]


def _name(value: str) -> str:
    """A text that can stand in a path, a message and a JSON file."""
    if not value.strip():
        raise ValueError("is empty; write a name, or remove the line for the default")
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in value):
        raise ValueError("holds a line end, another control character, or half of a character; write it anew")
    if len(value) > MAX_NAME:
        raise ValueError(f"has {len(value)} characters; at most {MAX_NAME} are taken")
    return value


Name = Annotated[str, AfterValidator(_name)]


def _one_or_several(value: Any) -> Any:
    """A name, or a list of names; the command line gives a list for a single one too."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError("must be a name, or a list of names such as [a, b]")
    for name in names:
        _name(name)
    return names[0] if len(names) == 1 else names


def _none_or_several(value: Any) -> Any:
    # The command line wraps null as it wraps any single name.
    return None if value in (None, [None]) else _one_or_several(value)


def _modules(value: Any) -> Any:
    """`all-linear`, or a list of module names: a single name stays a list, for peft reads a text as a pattern."""
    names = _one_or_several(value)
    if names == ALL_LINEAR:
        return names
    names = [names] if isinstance(names, str) else names
    if not all(re.fullmatch(r"[A-Za-z_][\w.]*", name) for name in names):
        raise ValueError(f"must be {ALL_LINEAR}, or names of modules such as [q_proj, v_proj]")
    return names


OneOrSeveral = Annotated[str | list[str], BeforeValidator(_one_or_several)]
NoneOrSeveral = Annotated[str | list[str] | None, BeforeValidator(_none_or_several)]


class Section(BaseModel):
    """A section of config.yaml. Unknown keys are errors; the docstring under a field is its help text."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_as_number(cls, value: Any, info: Any) -> Any:
        # YAML reads yes, on and true as booleans and pydantic would take true for the number 1.
        if isinstance(value, bool) and bool not in _leaf_types(cls.model_fields[info.field_name].annotation):
            raise ValueError("a yes/no value is not meant here")
        return value


def _leaf_types(annotation: Any) -> set[Any]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, Annotated):
        return set().union(*(_leaf_types(part) for part in typing.get_args(annotation)))
    return {annotation}


class ModelConfig(Section):
    """Which base model, and how it is held in memory."""

    base: Name = "Qwen/Qwen2.5-14B-Instruct"
    """Base model: a name on the hub, a local folder, or builtin:tiny (made on this machine, no download)."""
    hub: Literal["huggingface", "modelscope"] = "huggingface"
    """Where a name is looked up; modelscope is the one that is reached from mainland China (pip install modelscope)."""
    revision: Name | None = None
    """Branch, tag or commit on the hub; null takes the hub's default branch."""
    quantization: Literal["nf4", "int8", "none"] = "nf4"
    """nf4: 4-bit with double quantization (QLoRA), the least memory; int8: twice that; none: full weights."""
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Compute type; auto takes bf16 where the hardware has it, else fp16 on a GPU and fp32 on a CPU."""
    attention: Literal["auto", "flash_attention_2", "sdpa", "eager"] = "auto"
    """auto takes FlashAttention 2 where it is installed and the GPU has it, else PyTorch's own sdpa."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model; never needed for Qwen2.5."""


class DataConfig(Section):
    """Which records are read: from a file, a folder, a dataset on the hub (hub:owner/name), or a list of them."""

    train: OneOrSeveral = "gaokao_data/train.json"
    """Training records: JSON, JSON Lines, CSV or Parquet (see gaokao_data/README.md)."""
    test: OneOrSeveral = "gaokao_data/test.json"
    """Records to generate questions for, and to score against where they carry 题干, 参考答案 and 解析."""
    validation_share: Annotated[Share, Field(ge=0, le=0.5)] = 0.05
    """Share of the training file held out to measure the validation loss; 0 trains on everything."""
    mix: NoneOrSeveral = None
    """General instruction data against forgetting, {"messages": [{"role", "content"}, ...]}; null mixes nothing in."""
    mix_ratio: Annotated[Share, Field(ge=0, le=10)] = 1.0
    """Examples of data.mix per training record, drawn at random; published results: 1 helps, 0.05-0.1 does nothing."""


class LoraSection(Section):
    """The LoRA adapter."""

    r: Annotated[int, Field(ge=1, le=1024)] = 32
    """Rank: more learns more, and costs memory and speed in proportion."""
    alpha: Annotated[float, Field(ge=0.1, le=10_000)] = 64
    """Scaling is alpha / r; twice the rank is a common choice."""
    dropout: Annotated[Share, Field(ge=0, le=0.9)] = 0.05
    """Dropout inside the adapter; 0 is the fastest."""
    target_modules: Annotated[str | list[str], BeforeValidator(_modules)] = ALL_LINEAR
    """all-linear (every linear layer except the output head) or a list such as [q_proj, v_proj]."""


class TrainConfig(Section):
    """Fine-tuning (trl's SFTTrainer)."""

    num_train_epochs: Annotated[float, Field(ge=0.01, le=1000)] = 3
    """Passes over the training records; not used when max_steps is set."""
    max_steps: Annotated[int, Field(ge=1, le=10**9)] | None = None
    """Stop after so many optimizer steps, whatever the epochs; null counts epochs."""
    effective_batch: Annotated[int, Field(ge=1, le=65536)] = 8
    """Rows that each optimizer step learns from, over all processes; gradients are accumulated until it is reached."""
    per_device_train_batch_size: Annotated[int, Field(ge=1, le=4096)] = 1
    """Rows per device at once; with packing a row is max_length tokens long."""
    learning_rate: Annotated[float, Field(ge=1e-8, le=1)] = 1e-4
    """Peak learning rate of the adapter."""
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup_steps: Annotated[Share, Field(ge=0, le=10**6)] = 0.05
    """Warm-up: a number of steps, or a share of all steps when below 1."""
    weight_decay: Annotated[float, _off_or(1e-6), Field(ge=0, le=1)] = 0.0
    """AdamW weight decay on the adapter."""
    max_grad_norm: Annotated[float, Field(ge=0.001, le=1000)] = 1.0
    """Gradient clipping."""
    optim: Literal["adamw_torch", "adamw_torch_fused", "paged_adamw_8bit", "adamw_8bit"] = "paged_adamw_8bit"
    """paged_adamw_8bit survives memory peaks on a GPU; adamw_torch runs everywhere."""
    max_length: Annotated[int, Field(ge=64, le=131072)] = 2048
    """Longest record in tokens, prompt and answer; longer ones are reported and left out, never cut."""
    packing: bool = True
    """Put several records into one row (isolated from each other): no work on padding."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: a third slower, several times less memory."""
    logging_steps: Annotated[int, Field(ge=1, le=10**9)] = 1
    """Optimizer steps between two points of the training-loss curve."""
    eval_steps: Annotated[int, Field(ge=1, le=10**9)] | None = 20
    """Optimizer steps between two validations; null validates once at the end of each epoch."""
    early_stopping: Annotated[int, Field(ge=1, le=10**6)] | None = None
    """Stop after so many validations without a lower validation loss; null trains to the end."""
    keep: Literal["best", "last"] = "best"
    """What adapter/ holds: the step with the lowest validation loss, or the last one."""
    save_steps: Annotated[int, Field(ge=1, le=10**9)] = 50
    """Optimizer steps between two checkpoints."""
    save_minutes: Annotated[float, Field(ge=0.01, le=10**6)] | None = 20
    """Minutes between two checkpoints, beside save_steps; null saves by steps only."""
    save_total_limit: Annotated[int, Field(ge=2, le=10**6)] = 2
    """Checkpoints kept, the best one among them; one that was being written when a run was killed does not count."""
    resume: Literal["auto"] | bool = "auto"
    """auto: go on where this run was interrupted, else start new; true: go on or fail; false: start new."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 42
    """The same seed on the same machine gives the same losses."""


class GenerateConfig(Section):
    """Writing questions with base + adapter."""

    adapter: Name = AUTO_ADAPTER
    """auto: the adapter of output.run; none: the bare base model; or the folder of another adapter."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 8
    """Prompts per batch: larger is faster and takes more memory."""
    limit: PositiveInt | None = None
    """Only the first so many records of data.test; null takes all."""
    max_new_tokens: Annotated[int, Field(ge=1, le=32768)] = 1024
    """Longest answer in tokens; what is cut off is marked with finish_reason length."""
    do_sample: bool = True
    """true draws at random, so questions vary; false always takes the likeliest token."""
    temperature: Annotated[float, Field(ge=0.01, le=5)] = 0.7
    """Lower is safer, higher more varied; only with do_sample."""
    top_p: Annotated[float, Field(ge=0.01, le=1)] = 0.9
    """Nucleus sampling: draw from the likeliest tokens that hold this share; only with do_sample."""
    repetition_penalty: Annotated[float, Field(ge=0.5, le=2)] = 1.0
    """1.0 is off; above it, quoting the textbook passage is punished as well."""
    torch_compile: bool = False
    """torch.compile the model: minutes of warm-up, then faster on long jobs on a GPU."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 42
    """Seed of the sampling."""

    @field_validator("adapter", mode="before")
    @classmethod
    def _no_null(cls, value: Any) -> Any:
        # null and none mean the same to a reader, and meant opposite things here.
        if value is None:
            raise ValueError(f"write {AUTO_ADAPTER} for the run's own adapter, or {BARE_BASE} for the bare base model")
        return value


class EvaluateConfig(Section):
    """Scoring against the references of data.test."""

    chance_rounds: Annotated[int, Field(ge=1, le=1000)] = 20
    """Wrong references of its subject that each question is compared with, at most (2,000 pairs in all)."""
    samples: Annotated[int, Field(ge=0, le=100)] = 2
    """Generated questions printed at the end of a run."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Seed of the shuffling."""


class OutputConfig(Section):
    """Where a run is written."""

    dir: Name = "outputs"
    """Folder of all runs."""
    run: Name = "gaokao"
    """Name of this run: everything goes to dir/run; an earlier run of that name is set aside, not overwritten."""

    @field_validator("run")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if any(letter in value for letter in '/\\:*?"<>|') or value != value.strip() or value.endswith("."):
            raise ValueError(
                'must be a plain folder name, without any of / \\ : * ? " < > | and without a space or dot at its end'
            )
        if value.split(".")[0].upper() in WINDOWS_NAMES:
            raise ValueError("is a name that Windows keeps for a device; choose another")
        if (size := len(value.encode())) > MAX_RUN_BYTES:
            raise ValueError(f"has {size} bytes in UTF-8; a folder name can have {MAX_RUN_BYTES}")
        return value


class Config(BaseSettings):
    """All that a user can set. Built by `load_config`; resolved: `without_gpu` has been applied or not."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    lora: LoraSection = LoraSection()
    train: TrainConfig = TrainConfig()
    generate: GenerateConfig = GenerateConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    output: OutputConfig = OutputConfig()
    without_gpu: dict[str, Any] | None = None
    """Values that replace the others where no CUDA GPU is found (edit them in the file); null: no GPU is an error."""

    @classmethod
    def settings_customise_sources(cls, settings_cls: Any, init_settings: Any, *_: Any, **__: Any) -> tuple[Any, ...]:
        """Only what `load_config` merged: environment variables must not change a run behind the user's back."""
        return (init_settings,)

    @property
    def run_folder(self) -> Path:
        """Everything that belongs to the run."""
        return Path(self.output.dir) / self.output.run
