"""The typed configuration: YAML file, replacements for machines without a GPU, command-line overrides.

Later sources win: defaults < YAML < `without_gpu` (only where no CUDA GPU is found) < command line.
Typing, bounds, `--help` and the command line come from pydantic and pydantic-settings. What this module adds is the
order of the sources and faults that name file, line and the nearest key, all in one report. It imports neither torch
nor transformers, so a fault answers in well under a second.
"""

import argparse
import ctypes
import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from gaokao.errors import UserError, faults_text

DEFAULT_CONFIG = Path("config.yaml")
BUILTIN_TINY = "builtin:tiny"

PositiveInt = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


def _one_or_several(value: Any) -> Any:
    """A name, or a list of names; the command line gives a list for a single one too."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError("must be a name, or a list of names such as [a, b]")
    return names[0] if len(names) == 1 else names


def _none_or_several(value: Any) -> Any:
    # The command line wraps null as it wraps any single name.
    return None if value in (None, [None]) else _one_or_several(value)


OneOrSeveral = Annotated[str | list[str], BeforeValidator(_one_or_several)]
NoneOrSeveral = Annotated[str | list[str] | None, BeforeValidator(_none_or_several)]


class Section(BaseModel):
    """A section of config.yaml. Unknown keys are errors; the docstring under a field is its help text."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)

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

    base: str = "Qwen/Qwen2.5-14B-Instruct"
    """Base model: a name on the hub, a local folder, or builtin:tiny (made on this machine, no download)."""
    hub: Literal["huggingface", "modelscope"] = "huggingface"
    """Where a name is looked up; modelscope is the one that is reached from mainland China (pip install modelscope)."""
    revision: str | None = None
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
    validation_share: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """Share of the training file held out to measure the validation loss; 0 trains on everything."""
    mix: NoneOrSeveral = None
    """General instruction data against forgetting, {"messages": [{"role", "content"}, ...]}; null mixes nothing in."""
    mix_ratio: Annotated[float, Field(ge=0, le=10)] = 1.0
    """Examples of data.mix per training record, drawn at random; published results: 1 helps, 0.05-0.1 does nothing."""


class LoraSection(Section):
    """The LoRA adapter."""

    r: Annotated[int, Field(ge=1, le=1024)] = 32
    """Rank: more learns more, and costs memory and speed in proportion."""
    alpha: Annotated[float, Field(gt=0)] = 64
    """Scaling is alpha / r; twice the rank is a common choice."""
    dropout: Share = 0.05
    """Dropout inside the adapter; 0 is the fastest."""
    target_modules: OneOrSeveral = "all-linear"
    """all-linear (every linear layer except the output head) or a list such as [q_proj, v_proj]."""


class TrainConfig(Section):
    """Fine-tuning (trl's SFTTrainer)."""

    num_train_epochs: Annotated[float, Field(gt=0, le=1000)] = 3
    """Passes over the training records; not used when max_steps is set."""
    max_steps: PositiveInt | None = None
    """Stop after so many optimizer steps, whatever the epochs; null counts epochs."""
    per_device_train_batch_size: PositiveInt = 1
    """Rows per device and step; with packing a row is max_length tokens long."""
    gradient_accumulation_steps: PositiveInt = 8
    """Steps summed before the optimizer moves: a larger effective batch for no memory."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    """Peak learning rate of the adapter."""
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup_steps: Annotated[float, Field(ge=0)] = 0.05
    """Warm-up: a number of steps, or a share of all steps when below 1."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """AdamW weight decay on the adapter."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradient clipping."""
    optim: Literal["adamw_torch", "adamw_torch_fused", "paged_adamw_8bit", "adamw_8bit"] = "paged_adamw_8bit"
    """paged_adamw_8bit survives memory peaks on a GPU; adamw_torch runs everywhere."""
    max_length: Annotated[int, Field(ge=64, le=131072)] = 2048
    """Longest record in tokens, prompt and answer; longer ones are reported and left out, never cut."""
    packing: bool = True
    """Put several records into one row (isolated from each other): no work on padding."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: a third slower, several times less memory."""
    logging_steps: PositiveInt = 1
    """Optimizer steps between two points of the training-loss curve."""
    eval_steps: PositiveInt | None = 20
    """Optimizer steps between two validations; null validates once at the end of each epoch."""
    save_steps: PositiveInt = 50
    """Optimizer steps between two checkpoints."""
    save_total_limit: PositiveInt = 2
    """Checkpoints kept; the oldest are deleted."""
    resume: bool = False
    """Go on from the last checkpoint of the run in the output folder."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 42
    """The same seed on the same machine gives the same losses."""


class GenerateConfig(Section):
    """Writing questions with base + adapter."""

    adapter: str | None = None
    """Adapter folder; null takes the adapter of output.run; none generates with the bare base model."""
    batch_size: PositiveInt = 8
    """Prompts per batch: larger is faster and takes more memory."""
    limit: PositiveInt | None = None
    """Only the first so many records of data.test; null takes all."""
    max_new_tokens: Annotated[int, Field(ge=1, le=32768)] = 1024
    """Longest answer in tokens; what is cut off is marked with finish_reason length."""
    do_sample: bool = True
    """true draws at random, so questions vary; false always takes the likeliest token."""
    temperature: Annotated[float, Field(gt=0, le=5)] = 0.7
    """Lower is safer, higher more varied; only with do_sample."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Nucleus sampling: draw from the likeliest tokens that hold this share; only with do_sample."""
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    """1.0 is off; above it, quoting the textbook passage is punished as well."""
    torch_compile: bool = False
    """torch.compile the model: minutes of warm-up, then faster on long jobs on a GPU."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 42
    """Seed of the sampling."""


class EvaluateConfig(Section):
    """Scoring against the references of data.test."""

    floor_rounds: Annotated[int, Field(ge=1, le=1000)] = 20
    """Shufflings of the references (within a subject) that the floor is the mean of."""
    samples: Annotated[int, Field(ge=0, le=100)] = 2
    """Generated questions printed at the end of a run."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Seed of the shuffling."""


class OutputConfig(Section):
    """Where a run is written."""

    dir: str = "outputs"
    """Folder of all runs."""
    run: str = "gaokao"
    """Name of this run: everything goes to dir/run; an earlier run of that name is set aside, not overwritten."""

    @field_validator("run")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not value or value in (".", "..") or any(c in value for c in '/\\:*?"<>|'):
            raise ValueError("must be a plain folder name without / or other special characters")
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

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if self.generate.adapter == "":
            raise ValueError("generate.adapter is empty: give a folder, none (bare base model) or null (the run's own)")
        return self

    @property
    def run_folder(self) -> Path:
        """Everything that belongs to the run."""
        return Path(self.output.dir) / self.output.run


class Resolved(typing.NamedTuple):
    """A checked configuration and what `without_gpu` replaced in it (dotted key -> (before, now))."""

    config: Config
    replaced: dict[str, tuple[Any, Any]]
    gpus: int


def cuda_gpus() -> int:
    """How many NVIDIA GPUs the driver shows to this process, without importing torch (which takes seconds).

    Honours CUDA_VISIBLE_DEVICES, as the driver does. `models.check_devices` later compares with what torch sees.
    """
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        count = ctypes.c_int(0)
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return count.value
    return 0


def load_config(argv: list[str], prog: str, shortcuts: Mapping[str, str] | None = None) -> Resolved:
    """Read the YAML file and the command line, check everything, and resolve `without_gpu`.

    Args:
        argv: command-line arguments without the program's name.
        prog: name shown in `--help`.
        shortcuts: extra short options, dotted key -> name (`{"generate.adapter": "adapter"}`).

    Raises:
        UserError: any fault in file or command line, all of them in one text with file and line.
        SystemExit: after `--help` (code 0).
    """
    path, overrides, unknown = _read_command_line(argv, prog, dict(shortcuts or {}))
    tree, lines, faults = _read_yaml(path)
    faults += [_unknown_option(option) for option in unknown]
    gpus = cuda_gpus()

    replacement = overrides.pop("without_gpu", tree.get("without_gpu"))
    if "without_gpu" in tree and not isinstance(tree["without_gpu"], dict | None):
        faults.append(f"{path}:{lines.get(('without_gpu',), 1)}: without_gpu must hold sections, or be null")
        replacement = None
    plain = {key: value for key, value in tree.items() if key != "without_gpu"}
    # Both variants are checked on every machine: a fault in the half that is not used here would
    # otherwise wait until the file reaches the GPU server at night.
    with_gpu = _merge(plain, overrides)
    without = _merge(_merge(plain, replacement or {}), overrides)
    checked: dict[str, Config] = {}
    for variant, values in (("with", with_gpu), ("without", without)):
        try:
            checked[variant] = Config.model_validate(values)
        except ValidationError as error:
            for detail in error.errors():
                fault = _fault(detail, values, path, lines, overrides, replacement if variant == "without" else None)
                if fault not in faults:
                    faults.append(fault)
    if faults:
        raise UserError(faults_text(f"the configuration has {len(faults)} fault(s):", faults))
    if gpus or replacement is None:
        return Resolved(checked["with"], {}, gpus)
    before, now = _flat(checked["with"].model_dump()), _flat(checked["without"].model_dump())
    replaced = {key: (before[key], now[key]) for key in now if key in before and before[key] != now[key]}
    return Resolved(checked["without"].model_copy(update={"without_gpu": replacement}), replaced, gpus)


def require_device(resolved: Resolved) -> None:
    """Refuse to start full-size work on a CPU by accident.

    Raises:
        UserError: no CUDA GPU was found, and the configuration has no `without_gpu` section.
    """
    if not resolved.gpus and resolved.config.without_gpu is None:
        raise UserError(
            "no CUDA GPU was found and without_gpu is null; check the driver (nvidia-smi) and CUDA_VISIBLE_DEVICES, or "
            "keep the without_gpu section of the shipped config.yaml to run a tiny model on the CPU"
        )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"command line: {message}; --help lists every key")


def _read_command_line(argv: list[str], prog: str, shortcuts: dict[str, str]) -> tuple[Path, dict[str, Any], list[str]]:
    parser = _Parser(
        prog=prog,
        description="Every key of config.yaml can be given here and wins over the file, for example "
        "--train.learning_rate 1e-4. Defaults shown are those of the code; config.yaml may set others.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="the YAML file to read")
    # pydantic-settings cannot read `null` for a dictionary; turning the section off is all that makes sense here.
    parser.add_argument(
        "--without_gpu", choices=["null"], default=argparse.SUPPRESS, help="null: fail where there is no GPU"
    )
    unknown: list[str] = []

    def parse(root: argparse.ArgumentParser, args: list[str] | None = None, namespace: Any = None) -> Any:
        found, rest = root.parse_known_args(args, namespace)
        unknown.extend(rest)
        return found

    class CommandLine(Config):
        # For the parser only: the section without_gpu stays in the file.
        without_gpu: typing.ClassVar[None] = None  # type: ignore[misc]

    try:
        source: CliSettingsSource[Any] = CliSettingsSource(
            CommandLine,
            root_parser=parser,
            cli_parse_args=argv,
            cli_hide_none_type=True,
            cli_avoid_json=True,
            cli_parse_none_str="null",
            cli_shortcuts=dict(shortcuts),
            parse_args_method=parse,
        )
        overrides = dict(source())
    except SettingsError as error:
        raise UserError(f"command line: {error}; --help lists every key") from None
    known, _ = _peek(argv)
    if known.without_gpu is not None:
        overrides["without_gpu"] = None
    return known.config, overrides, unknown


def _peek(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    # The source returns only the fields of the model; the two options of our own are read here.
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG)
    parser.add_argument("--without_gpu", default=None)
    return parser.parse_known_args(argv)


def _unknown_option(option: str) -> str:
    if not option.startswith("-"):
        return f"command line: {option!r} stands alone: a value belongs behind a key, as in --train.seed 7"
    name = option.lstrip("-").split("=")[0]
    return f"command line: unknown option --{name}{_nearest(name, _keys(), prefix='--')}"


Lines = dict[tuple[str, ...], int]


def _read_yaml(path: Path) -> tuple[dict[str, Any], Lines, list[str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such configuration file; give one with --config FILE") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error}); save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give another file with --config FILE") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(
            f"{where}: is not YAML ({problem}); a key is written `key: value`, indented by spaces"
        ) from None
    if tree is None:
        return {}, {}, []
    if not isinstance(tree, dict):
        raise UserError(f"{path}:1: holds {type(tree).__name__} instead of the sections {', '.join(_sections())}")
    lines: Lines = {}
    faults: list[str] = []
    for keys, line in _marks(node, ()):
        if keys in lines:
            faults.append(f"{path}:{line}: {'.'.join(keys)} is given twice (first on line {lines[keys]}); keep one")
        lines.setdefault(keys, line)
    # A section whose keys are all commented out reads as null and means the defaults.
    tree = {key: {} if value is None and key in _sections() else value for key, value in tree.items()}
    return tree, lines, faults


def _marks(node: yaml.Node | None, prefix: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            keys = (*prefix, str(key.value))
            yield keys, key.start_mark.line + 1
            yield from _marks(value, keys)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if key == "without_gpu":
            continue
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat


def _sections() -> list[str]:
    return [name for name in Config.model_fields]


def _keys() -> list[str]:
    """Every dotted key, for suggestions."""
    keys = ["config", "without_gpu"]
    for section, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            keys += [f"{section}.{name}" for name in field.annotation.model_fields]
    return keys


def _nearest(name: str, choices: list[str], prefix: str = "") -> str:
    """A hint at the nearest known key: the same name in another section first, then a close spelling."""
    leaf = name.rsplit(".", 1)[-1]
    same = [choice for choice in choices if choice.rsplit(".", 1)[-1] == leaf]
    close = same or difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if not close:
        leaves = {choice.rsplit(".", 1)[-1]: choice for choice in choices}
        close = [leaves[hit] for hit in difflib.get_close_matches(leaf, list(leaves), n=1, cutoff=0.6)]
    return f"; did you mean {prefix}{close[0]}?" if close else "; --help lists every key"


def _fault(
    detail: ErrorDetails,
    values: Mapping[str, Any],
    path: Path,
    lines: Lines,
    overrides: Mapping[str, Any],
    replacement: Mapping[str, Any] | None,
) -> str:
    # pydantic appends its own tags (the member of a union that failed); the key ends where the model's names end.
    keys: tuple[str, ...] = ()
    node: Any = values
    for part in detail["loc"]:
        if not isinstance(node, Mapping) or str(part) not in node:
            break
        keys += (str(part),)
        node = node[str(part)]
    dotted = ".".join(keys)
    if _has(overrides, keys):
        where = "command line: --"
    elif replacement is not None and _has(replacement, keys):
        where = f"{path}:{lines.get(('without_gpu', *keys), '?')}: without_gpu."
    else:
        where = f"{path}:{lines.get(keys, 1)}: "
    if detail["type"] == "extra_forbidden":
        siblings = _keys() if len(keys) > 1 else [*_sections(), *_keys()]
        return f"{where}{dotted} is not a known key{_nearest(dotted, siblings)}"
    if detail["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return f"{where}{dotted} must hold keys of its own, not {node!r}"
    message = detail["msg"].removeprefix("Value error, ")
    if not dotted:
        return f"{path}: {message}"
    message = message[0].lower() + message[1:]
    return f"{where}{dotted} = {node!r}: {message}"


def _has(tree: Mapping[str, Any], keys: tuple[str, ...]) -> bool:
    node: Any = tree
    for key in keys:
        if not isinstance(node, Mapping) or key not in node:
            return False
        node = node[key]
    return bool(keys)
