"""The typed configuration: YAML file, replacements for machines without a GPU, command-line overrides.

Later sources win: defaults < YAML < `without_gpu` (only where no CUDA GPU is found) < command line.
Typing, bounds, `--help` and the command line come from pydantic and pydantic-settings. What this module adds is the
order of the sources and faults that name file, line and the nearest key, all in one report. It imports neither torch
nor transformers, so a fault answers in well under a second.
"""

import argparse
import ctypes
import difflib
import re
import types
import typing
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from gaokao.errors import MAX_FAULTS, UserError, elsewhere, faults_text

DEFAULT_CONFIG = Path("config.yaml")
BUILTIN_TINY = "builtin:tiny"
ALL_LINEAR = "all-linear"
# generate.adapter: that of the run, or no adapter at all.
AUTO_ADAPTER, BARE_BASE = "auto", "none"

# What the reader of the file takes. The shipped one has 7 KB, about 150 keys and values, and is three levels deep.
MAX_BYTES, MAX_VALUES, MAX_DEPTH, MAX_DIGITS = 64 * 1024, 3000, 10, 40
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
    if not isinstance(tree.get("without_gpu"), dict | None):
        faults.append(f"{path}:{lines.get(('without_gpu',), 1)}: without_gpu must hold sections, or be null")
        replacement = None
    elif replacement and "without_gpu" in replacement:
        line = lines.get(("without_gpu", "without_gpu"), 1)
        faults.append(f"{path}:{line}: without_gpu holds without_gpu; only sections such as train can stand in it")
    # An override would take the place of such a section in silence.
    for prefix, part in (((), tree), (("without_gpu",), replacement or {})):
        for name, value in part.items():
            if name in _plain_sections() and not isinstance(value, dict):
                where = f"{path}:{lines.get((*prefix, name), 1)}: {'.'.join((*prefix, name))}"
                faults.append(f"{where} must hold keys of its own, not {_shown(value)}")
    plain = {key: value for key, value in tree.items() if key != "without_gpu"}
    # Both variants are checked on every machine: a fault in the half that is not used here would
    # otherwise wait until the file reaches the GPU server at night.
    with_gpu = _merge(plain, overrides)
    sections = {name: value for name, value in (replacement or {}).items() if name != "without_gpu"}
    without = _merge(_merge(plain, sections), overrides)
    checked: dict[str, Config] = {}
    for variant, values in (("with", with_gpu), ("without", without)):
        try:
            checked[variant] = Config.model_validate(values)
        except ValidationError as error:
            # Each has to be looked up among all keys: a file of something else would take minutes.
            for detail in error.errors(include_url=False)[: MAX_FAULTS + 1]:
                faults.append(
                    _fault(detail, values, path, lines, overrides, replacement if variant == "without" else None)
                )
    if faults:
        faults = list(dict.fromkeys(faults))
        count = f"more than {MAX_FAULTS}" if len(faults) > MAX_FAULTS else len(faults)
        raise UserError(faults_text(f"the configuration has {count} fault(s):", faults[:MAX_FAULTS]))
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
        raise UserError(f"command line: {_short(message, 300)}; --help lists every key")


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
    except (SettingsError, RecursionError) as error:
        # It reads lists as JSON; one with brackets nested a thousand deep ends its recursion.
        raise UserError(f"command line: {_short(str(error), 300)}; --help lists every key") from None
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
        return f"command line: {_shown(option)} stands alone: a value belongs behind a key, as in --train.seed 7"
    name = option.lstrip("-").split("=")[0]
    return f"command line: unknown option --{_short(name)}{_nearest(name, _keys(), prefix='--')}"


Lines = dict[tuple[str, ...], int]


class _Loader(yaml.SafeLoader):
    """Sections, keys, values and lists of them. Whatever else YAML knows is refused with its line.

    Anchors multiply (a bomb of aliases, a value that holds itself), tags name types, numbers of any length take any
    time and cannot be printed: no configuration needs them, so none has to be made safe.
    """

    depth = values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """One value, after a look at what announces it: the deeper ones are composed by recursion."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _not_taken(f"anchors and aliases (&{event.anchor}) are not taken; write the value out", event)
        if getattr(event, "tag", None) is not None:
            raise _not_taken(f"tags ({event.tag}) are not taken; leave it out", event)
        if self.depth >= MAX_DEPTH:
            raise _not_taken(f"values are nested more than {MAX_DEPTH} deep; a section holds `key: value`", event)
        if self.values >= MAX_VALUES:
            raise _not_taken(f"there are more than {MAX_VALUES} keys and values; is it a configuration?", event)
        self.values += 1
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(node, yaml.MappingNode):
            for key, _ in node.value:
                if key.tag != "tag:yaml.org,2002:str":
                    shown = key.value if isinstance(key, yaml.ScalarNode) else "…"
                    raise _not_taken(f"the key {shown} is not a name; keys of config.yaml are words", key)
        elif isinstance(node, yaml.ScalarNode) and node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
            if len(node.value) > MAX_DIGITS:
                raise _not_taken(f"a number of {len(node.value)} digits; no value needs more than {MAX_DIGITS}", node)
            if re.match(r"[-+]?0[0-9_]|.*:", node.value):
                raise _not_taken(f"{node.value} is a number to base 8 or 60 in YAML; write it plainly", node)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """A value; one that only looks like a number (0x_) has a line, too."""
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise _not_taken(f"the value is not a number ({error}); a text is written in quotes", node) from None


# A date is a text here, as in output.run: 2026-01-01, and the merge key << is an unknown key like others.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":bool", ":int", ":float", ":null"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _not_taken(problem: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


def _read_yaml(path: Path) -> tuple[dict[str, Any], Lines, list[str]]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            size = MAX_BYTES // 1024
            raise UserError(f"{path}: has more than {size} KB; the shipped one has 7: is it a configuration?")
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(
            f"{path}: there is no such configuration file; give one with --config FILE{elsewhere(path)}"
        ) from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: is not UTF-8 text; save it as UTF-8") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{_short(str(path))}: cannot be read ({reason}); give another file with --config FILE"
        ) from None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        tree = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise UserError(_not_yaml(path, text, error)) from None
    if tree is None:
        return {}, {}, []
    if not isinstance(tree, dict):
        raise UserError(f"{path}:1: holds {type(tree).__name__} instead of the sections {', '.join(_sections())}")
    lines: Lines = {}
    faults: list[str] = []
    for keys, line in _marks(node, ()):
        if keys in lines:
            twice = _short(".".join(keys))
            faults.append(f"{path}:{line}: {twice} is given twice (first on line {lines[keys]}); keep one")
        lines.setdefault(keys, line)
    replacement = tree.get("without_gpu")
    if isinstance(replacement, dict):
        tree["without_gpu"] = _no_empty(replacement)
    return _no_empty(tree), lines, faults


def _no_empty(tree: dict[str, Any]) -> dict[str, Any]:
    # A section whose keys are all commented out reads as null and means that nothing is set there.
    return {key: {} if value is None and key in _plain_sections() else value for key, value in tree.items()}


def _not_yaml(path: Path, text: str, error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None)
    mark = getattr(error, "problem_mark", None)
    line = mark.line + 1 if mark else 1
    if isinstance(error, yaml.reader.ReaderError):
        line, problem = text.count("\n", 0, error.position) + 1, f"character U+{error.character:04X} is not allowed"
    return (
        f"{path}:{line}: is not YAML as it is read here ({_short(problem or 'a fault', 200)}); a key is written "
        "`key: value`, indented by spaces"
    )


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


def _plain_sections() -> list[str]:
    return [name for name in _sections() if name != "without_gpu"]


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
        if len(keys) == 1 and dotted in _keys():
            section, _, name = dotted.partition(".")
            return f"{where}{dotted} is written {section}: and, on the next line, indented, {name}: …"
        siblings = _keys() if len(keys) > 1 else [*_sections(), *_keys()]
        return f"{where}{_short(dotted)} is not a known key{_nearest(dotted, siblings)}"
    if detail["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return f"{where}{dotted} must hold keys of its own, not {_shown(node)}"
    message = detail["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if detail["type"] == "string_type" and isinstance(node, int | float):
        message += "; write a text that looks like a number or yes/no in quotes"
    return f"{where}{dotted} = {_shown(node)}: {message}"


def _shown(value: Any) -> str:
    return "null" if value is None else _short(repr(value))


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def _has(tree: Mapping[str, Any], keys: tuple[str, ...]) -> bool:
    node: Any = tree
    for key in keys:
        if not isinstance(node, Mapping) or key not in node:
            return False
        node = node[key]
    return bool(keys)
