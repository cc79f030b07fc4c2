"""Where the configuration comes from: YAML file, replacements for machines without a GPU, command line.

Later sources win: defaults < YAML < `without_gpu` (only where no CUDA GPU is found) < command line.
What this module adds to pydantic and pydantic-settings is the order of the sources and faults that name file, line and
the nearest key, all in one report. It imports neither torch nor transformers, so a fault answers in well under a second.
"""

import argparse
import ctypes
import difflib
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import CliSettingsSource
from pydantic_settings.exceptions import SettingsError

from gaokao.config import Config, Section
from gaokao.errors import MAX_FAULTS, UserError, elsewhere, faults_text

DEFAULT_CONFIG = Path("config.yaml")

# What the reader of the file takes. The shipped one has 7 KB, about 150 keys and values, and is three levels deep.
MAX_BYTES, MAX_VALUES, MAX_DEPTH, MAX_DIGITS = 64 * 1024, 3000, 10, 40


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
