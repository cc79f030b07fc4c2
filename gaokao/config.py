"""What can be set: the sections of config.yaml, each key with its type, bounds and help text.

Neither torch nor transformers is imported, so that an error answers at once.
"""

import os
import re
import types
import typing
import unicodedata
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

BUILTIN_TINY = "builtin:tiny"
ALL_LINEAR = "all-linear"
# generate.adapter: that of the run, or no adapter at all.
AUTO_ADAPTER, BARE_BASE = "auto", "none"
# generate.engine: the model at hand, or any server that speaks OpenAI's chat completions.
TRANSFORMERS, OPENAI = "transformers", "openai"
# model.hub, beside the address of a mirror.
HUGGINGFACE, MODELSCOPE = "huggingface", "modelscope"
# train.report_to: nothing leaves this machine.
NO_TRACKER = "none"
# generate.batch_size: as many as the memory takes.
AUTO_BATCH = "auto"
# What both scripts advise where a run's folder cannot be used.
OTHER_DIR = "set output.dir to a folder of yours, --output.dir DIR"
OTHER_RUN = "give this run another name: --output.run NAME"

# solve_back: four options in each of their cyclic orders, and these backwards.
MOST_ANSWERS = 8

MAX_NAME = 1024
# A file name has 255 bytes on all usual file systems; what is set aside or half written gets a suffix.
MAX_RUN_BYTES = 200
WINDOWS_NAMES = ("CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in range(1, 10)))

# No count of this project comes near it, and every library takes it.
Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]


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
    """A name, or a list of names; a list of one is that name."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError("must be a name, or a list of names such as [a, b]")
    for name in names:
        _name(name)
    return names[0] if len(names) == 1 else names


def _modules(value: Any) -> Any:
    """`all-linear`, or a list of module names: a single name stays a list, for peft reads a text as a pattern."""
    names = _one_or_several(value)
    if names == ALL_LINEAR:
        return names
    names = [names] if isinstance(names, str) else names
    if not all(re.fullmatch(r"[A-Za-z_][\w.]*", name) for name in names):
        raise ValueError(f"must be {ALL_LINEAR}, or names of modules such as [q_proj, v_proj]")
    if "lm_head" in names:
        raise ValueError("cannot hold lm_head: the loss takes the head as it is")
    return names


def _hub(value: str) -> str:
    """A hub by name, or the address of a mirror of Hugging Face."""
    if value not in (HUGGINGFACE, MODELSCOPE) and not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", value):
        raise ValueError(
            f"must be {HUGGINGFACE}, {MODELSCOPE}, or the address of a mirror such as https://hf-mirror.com"
        )
    return value.rstrip("/")


OneOrSeveral = Annotated[str | list[str], BeforeValidator(_one_or_several)]
NoneOrSeveral = Annotated[str | list[str] | None, BeforeValidator(lambda v: None if v is None else _one_or_several(v))]


def _key(default: Any, text: str, ge: float | None = None, le: float | None = None) -> Any:
    """A key: its default, its line in `--help`, and the lowest (ge) and highest (le) value that it takes."""
    return Field(default, description=text, ge=ge, le=le)


class Section(BaseModel):
    """A section of config.yaml; its docstring heads it in `--help`."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_as_number(cls, value: Any, info: Any) -> Any:
        # YAML reads yes, on and true as booleans and pydantic would take true for the number 1.
        if isinstance(value, bool) and bool not in leaf_types(cls.model_fields[info.field_name].annotation):
            raise ValueError("a yes/no value is not meant here")
        return value


def leaf_types(annotation: Any) -> set[Any]:
    """The members of a union, nested or not, without what `Annotated` adds to them."""
    if typing.get_origin(annotation) is Annotated:
        return leaf_types(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return set().union(*(leaf_types(part) for part in typing.get_args(annotation)))
    return {annotation}


class ModelConfig(Section):
    """The base model, and how it is held in memory."""

    base: Name = _key("Qwen/Qwen2.5-14B-Instruct", "Hub name, local folder, or builtin:tiny (no download)")
    hub: Annotated[Name, AfterValidator(_hub)] = _key(HUGGINGFACE, "huggingface, modelscope, or a mirror: https://...")
    revision: Name | None = _key(None, "Branch, tag or commit on the hub; null: its default")
    quantization: Literal["nf4", "int8", "none"] = _key("nf4", "nf4: 4-bit (QLoRA); int8: twice the memory; none: 4 x")
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = _key("auto", "bf16, fp16 or fp32; auto: what the hardware has")
    attention: Literal["auto", "flash_attention_2", "sdpa", "eager"] = _key(
        "auto", "flash_attention_2, sdpa or eager; auto: the best there"
    )
    trust_remote_code: bool = _key(False, "Run Python code of the model; Qwen2.5 never needs it")


class DataConfig(Section):
    """Files (JSON, JSON Lines, CSV, Excel, Parquet), folders, or data sets of a hub (hub:owner/name)."""

    train: OneOrSeveral = _key("gaokao_data/train.json", "What the adapter learns from")
    test: OneOrSeveral = _key("gaokao_data/test.json", "What questions are written for; scored if it has answers")
    validation_share: Share = _key(0.05, "Share of data.train held out to measure the loss", ge=0, le=0.5)
    mix: NoneOrSeveral = _key(None, "General chats against forgetting; null: none")
    mix_ratio: Share = _key(1.0, "Chats per record: 1 helps, 0.1 does nothing", ge=0, le=10)


class LoraSection(Section):
    """The LoRA adapter."""

    r: int = _key(32, "Rank: more learns more, for memory and time", ge=1, le=1024)
    alpha: float = _key(64, "Its output is scaled by alpha / r; twice r is usual", ge=0.1, le=10_000)
    dropout: Share = _key(0.05, "Dropout inside the adapter; 0 is the fastest", ge=0, le=0.9)
    target_modules: Annotated[str | list[str], BeforeValidator(_modules)] = _key(
        ALL_LINEAR, "all-linear (but the output head), or q_proj v_proj ..."
    )


class TrainConfig(Section):
    """Fine-tuning with trl's SFTTrainer."""

    num_train_epochs: float = _key(3, "Passes over the records; not used with max_steps", ge=0.01, le=1000)
    max_steps: Count | None = _key(None, "Stop after so many optimizer steps; null: count epochs")
    effective_batch: int = _key(8, "Rows per optimizer step, over all GPUs", ge=1, le=65536)
    per_device_train_batch_size: int = _key(1, "Rows per device at once", ge=1, le=4096)
    learning_rate: float = _key(1e-4, "Peak learning rate of the adapter", ge=1e-8, le=1)
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = _key(
        "cosine", "cosine, linear, constant or constant_with_warmup"
    )
    warmup_steps: Share = _key(0.05, "Steps of warm-up, or a share of all steps below 1", ge=0, le=10**6)
    weight_decay: Annotated[float, _off_or(1e-6)] = _key(0.0, "AdamW weight decay on the adapter", ge=0, le=1)
    max_grad_norm: float = _key(1.0, "Gradient clipping", ge=0.001, le=1000)
    optim: Literal["adamw_torch", "adamw_torch_fused", "paged_adamw_8bit", "adamw_8bit"] = _key(
        "paged_adamw_8bit", "paged_adamw_8bit, adamw_8bit, adamw_torch or ..._fused"
    )
    max_length: int = _key(2048, "Tokens of a row; longer records are left out, never cut", ge=64, le=131072)
    packing: bool = _key(True, "Several records in one row, isolated from each other")
    gradient_checkpointing: Literal["auto"] | bool = _key("auto", "A third slower, far less memory; auto: where needed")
    logging_steps: Count = _key(1, "Steps between two points of the training loss")
    eval_steps: Count | None = _key(20, "Steps between two validations; null: once an epoch")
    early_stopping: int | None = _key(None, "Stop after so many validations without a lower loss", ge=1, le=10**6)
    keep: Literal["best", "last"] = _key("best", "The step kept: best (lowest validation loss) or last")
    save_steps: Count = _key(50, "Steps between two checkpoints")
    save_minutes: float | None = _key(20, "Minutes between two at most; null: only save_steps", ge=0.01, le=10**6)
    save_total_limit: int = _key(2, "Checkpoints kept, the best one among them", ge=2, le=10**6)
    report_to: Literal["none", "tensorboard", "wandb", "swanlab", "mlflow", "trackio"] = _key(
        NO_TRACKER, "none, tensorboard, wandb, swanlab, mlflow or trackio"
    )
    resume: Literal["auto"] | bool = _key("auto", "auto: go on where one can; true: must; false: start new")
    seed: Seed = _key(42, "The same seed and machine give the same losses")


class GenerateConfig(Section):
    """Writing questions with base + adapter."""

    adapter: Name = _key(AUTO_ADAPTER, "auto: that of output.run; none: bare base; or a folder")
    engine: Literal["transformers", "openai"] = _key(TRANSFORMERS, "transformers: the model here; openai: a server")
    base_url: Name | None = _key(None, "The server: http://127.0.0.1:8000/v1")
    served_model: Name | None = _key(None, "Its model: the adapter's name in vllm serve")
    api_key_env: Name | None = _key(None, "NAME of the variable with its key; null: OPENAI_API_KEY")
    concurrency: int = _key(16, "Requests to the server at a time", ge=1, le=4096)
    other_quantization: bool = _key(False, "Use an adapter on a base that is quantized otherwise")
    batch_size: Literal["auto"] | int = _key(AUTO_BATCH, "Prompts at once; auto: what the memory takes")
    limit: Count | None = _key(None, "Only the first so many records of data.test; null: all")
    questions_per_record: int = _key(1, "Different questions for each record", ge=1, le=1000)
    attempts: int = _key(3, "Drafts of a question until one passes the checks", ge=1, le=100)
    solve_back: int = _key(0, "Blind answers a draft's key must agree with; 0: none", ge=0, le=MOST_ANSWERS)
    max_new_tokens: int = _key(1280, "Longest answer; one cut off has finish_reason length", ge=1, le=32768)
    do_sample: bool = _key(True, "Draw at random; false: always the likeliest token")
    temperature: float = _key(0.7, "Lower is safer, higher more varied", ge=0.01, le=5)
    top_p: float = _key(0.9, "Draw from the likeliest tokens that hold this share", ge=0.01, le=1)
    repetition_penalty: float = _key(1.0, "Above 1.0, quoting the passages is punished as well", ge=0.5, le=2)
    torch_compile: bool = _key(False, "Minutes of warm-up, then faster on long jobs on a GPU")
    seed: Seed = _key(42, "Seed of the drawing")

    @field_validator("batch_size")
    @classmethod
    def _rows(cls, value: Any) -> Any:
        if value != AUTO_BATCH and not 1 <= value <= 4096:
            raise ValueError(f"must be {AUTO_BATCH}, or a number from 1 to 4096")
        return value

    @field_validator("adapter", mode="before")
    @classmethod
    def _no_null(cls, value: Any) -> Any:
        # null and none mean the same to a reader, and meant opposite things here.
        if value is None:
            raise ValueError(f"write {AUTO_ADAPTER} for the run's own adapter, or {BARE_BASE} for the bare base model")
        return value


class EvaluateConfig(Section):
    """Scoring against the references of data.test, and by other models where asked for."""

    chance_rounds: int = _key(20, "Wrong references that each question is compared with", ge=1, le=1000)
    samples: int = _key(2, "Questions printed at the end", ge=0, le=100)
    language: Literal["zh", "en"] = _key("zh", "zh or en: of the sentences that compare two results")
    solve_back: int = _key(0, "evaluate.py: blind answers per choice question; 0: none", ge=0, le=MOST_ANSWERS)
    judge: bool = _key(False, "evaluate.py: five dimensions, marked by that server")
    base_url: Name | None = _key(None, "Server that solves and judges; null: the bare base solves")
    served_model: Name | None = _key(None, "Its model; not the one that wrote the questions")
    api_key_env: Name | None = _key(None, "NAME of the variable with its key; null: OPENAI_API_KEY")
    concurrency: int = _key(16, "Requests to it at a time", ge=1, le=4096)
    seed: Seed = _key(0, "Seed of the shuffling")


class OutputConfig(Section):
    """Where a run is written."""

    dir: Name = _key("outputs", "Folder of all runs")
    run: Name = _key("gaokao", "Folder of this run in dir; an earlier one is set aside")

    @field_validator("dir")
    @classmethod
    def _home(cls, value: str) -> str:
        """No shell has seen what stands in a file; the Trainer would expand it alone."""
        return os.path.expanduser(value)

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


class Config(BaseModel):
    """All that a user can set; `gaokao.settings.load_config` builds it, with `without_gpu` applied or not."""

    model_config = Section.model_config

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    lora: LoraSection = LoraSection()
    train: TrainConfig = TrainConfig()
    generate: GenerateConfig = GenerateConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    output: OutputConfig = OutputConfig()
    # Values that replace the others where no CUDA GPU is found; null: no GPU is an error.
    without_gpu: dict[str, Any] | None = None

    @property
    def run_folder(self) -> Path:
        """Everything that belongs to the run."""
        return Path(self.output.dir) / self.output.run
