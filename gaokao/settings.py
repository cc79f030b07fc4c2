"""Where the configuration comes from: YAML file, replacements for machines without a GPU, command line.

Later sources win: defaults < YAML < `without_gpu` (only where no CUDA GPU is found) < command line. All problems of file
and command line come in one report that names place, value and the nearest key. Neither torch nor transformers is
imported, so that an error answers at once.
"""

import argparse
import ctypes
import difflib
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from gaokao.config import OPENAI, Config, Section, leaf_types
from gaokao.errors import MAX_FAULTS, UserError, elsewhere, faults_text

DEFAULT_CONFIG = Path("config.yaml")
WITHOUT_GPU = "without_gpu"

# What the reader of the file takes. The shipped one has 6 KB, about 150 keys and values, and is three levels deep.
MAX_BYTES, MAX_VALUES, MAX_DEPTH, MAX_DIGITS = 64 * 1024, 3000, 10, 40

# Columns of `--help`, and where the texts begin.
WIDTH, COLUMN = 100, 41

SECTIONS: dict[str, type[Section]] = {
    name: field.annotation
    for name, field in Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}
KEYS = {f"{section}.{name}": field for section, kind in SECTIONS.items() for name, field in kind.model_fields.items()}


class Resolved(NamedTuple):
    """A checked configuration, what `without_gpu` replaced in it (dotted key -> (before, now)), and the actions."""

    config: Config
    replaced: dict[str, tuple[Any, Any]]
    gpus: int
    actions: argparse.Namespace


def cuda_driver() -> ctypes.CDLL | None:
    """NVIDIA's driver, ready to be asked; `None` where there is none. Importing torch would take seconds."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        if driver.cuInit(0) == 0:
            return driver
    return None


def cuda_gpus() -> int:
    """How many NVIDIA GPUs the driver shows to this process.

    Honours CUDA_VISIBLE_DEVICES, as the driver does. `models.check_devices` later compares with what torch sees.
    """
    driver, count = cuda_driver(), ctypes.c_int(0)
    return count.value if driver and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def load_config(
    argv: list[str],
    prog: str,
    *,
    description: str | None = None,
    explain: Sequence[str] = tuple(SECTIONS),
    shortcuts: Mapping[str, str] | None = None,
    add: Callable[[argparse.ArgumentParser], None] | None = None,
) -> Resolved:
    """Read the YAML file and the command line, check everything, and resolve `without_gpu`.

    Args:
        argv: command-line arguments without the program's name.
        prog: name of the command.
        description: what `--help` begins with, the script's docstring.
        explain: the sections whose keys `--help` explains, in this order; of the others it gives the names.
        shortcuts: a second name for a key, dotted key -> name (`{"generate.adapter": "adapter"}`).
        add: declares the actions of the command (`parser.add_argument("--plan", ...)`), found in `Resolved.actions`.

    Raises:
        UserError: all problems of file and command line in one text, with file and line.
        SystemExit: after `--help` (code 0).
    """
    shortcuts = shortcuts or {}
    parser = _parser(prog, description or "", explain, shortcuts, add)
    found, rest = parser.parse_known_args(argv)
    given = vars(found)
    actions = {name: value for name, value in given.items() if name not in (*KEYS, "config", WITHOUT_GPU)}
    options = [*KEYS, "config", WITHOUT_GPU, *shortcuts.values(), *(name.replace("_", "-") for name in actions)]
    file = _read_file(given["config"])
    overrides, problems = _overrides(given)
    config, replaced, gpus = _resolve(file, overrides, [*file.problems, *_unknown(rest, options), *problems])
    return Resolved(config, replaced, gpus, argparse.Namespace(**actions))


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


# --- what is merged and checked ---------------------------------------------------------------------------------------


class _File(NamedTuple):
    path: Path
    tree: dict[str, Any]
    lines: dict[tuple[str, ...], int]
    problems: list[str]

    def place(self, *keys: str) -> str:
        return f"{self.path}:{self.lines.get(keys, 1)}"


def _resolve(
    file: _File, overrides: dict[str, Any], problems: list[str]
) -> tuple[Config, dict[str, tuple[Any, Any]], int]:
    """The configuration of this machine, what `without_gpu` replaced in it, and the number of GPUs."""
    plain = {name: value for name, value in file.tree.items() if name != WITHOUT_GPU}
    in_file = file.tree.get(WITHOUT_GPU)
    if not isinstance(in_file, dict | None):
        problems.append(f"{file.place(WITHOUT_GPU)}: {WITHOUT_GPU} must hold sections, or be null")
        in_file = None
    elif in_file and WITHOUT_GPU in in_file:
        place = file.place(WITHOUT_GPU, WITHOUT_GPU)
        problems.append(f"{place}: {WITHOUT_GPU} holds {WITHOUT_GPU}; only sections such as train can stand in it")
        in_file = {name: value for name, value in in_file.items() if name != WITHOUT_GPU}
    replacement = overrides.pop(WITHOUT_GPU, in_file)
    # Both variants are checked on every machine: an error in the half that is not used here would
    # otherwise wait until the file reaches the GPU server at night.
    checked: list[Config] = []
    for replacing in ({}, replacement or {}):
        values = _merge(_merge(plain, replacing), overrides)
        try:
            checked.append(Config.model_validate(values))
        except ValidationError as error:
            # Each has to be looked up among all keys: a file of something else would take minutes.
            details = _one_a_key(error.errors(include_url=False))[: MAX_FAULTS + 1]
            problems += [_problem(detail, values, file, overrides, replacing) for detail in details]
    if problems:
        problems = list(dict.fromkeys(problems))
        count = f"more than {MAX_FAULTS}" if len(problems) > MAX_FAULTS else len(problems)
        raise UserError(faults_text(f"the configuration has {count} error(s):", problems[:MAX_FAULTS]))
    gpus = cuda_gpus()
    if gpus:
        return checked[0], {}, gpus
    if checked[0].generate.engine == OPENAI:
        # A server has GPUs of its own, and no use for what is set for a tiny model here.
        checked[1] = checked[1].model_copy(update={"generate": checked[0].generate})
    both = {key: (attrgetter(key)(checked[0]), attrgetter(key)(checked[1])) for key in KEYS}
    replaced = {key: (before, now) for key, (before, now) in both.items() if before != now}
    return checked[1].model_copy(update={WITHOUT_GPU: replacement}), replaced, gpus


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both trees in one, `over` before `base`; what is no section stays, so that no option hides it."""
    merged = dict(base)
    for key, value in over.items():
        if key in merged and isinstance(value, Mapping):
            old = merged[key]
            merged[key] = _merge(old, value) if isinstance(old, Mapping) else old
        else:
            merged[key] = value
    return merged


def _one_a_key(details: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """One for each key: pydantic names every member of a union that a value is not."""
    found: dict[tuple[int | str, ...], ErrorDetails] = {}
    for detail in details:
        first = found.setdefault(detail["loc"][:2], detail)
        more = detail["msg"].removeprefix("Input should be ")
        if first is not detail and more not in first["msg"]:
            found[detail["loc"][:2]] = {**first, "msg": f"{first['msg']} or {more}"}
    return list(found.values())


def _problem(
    detail: ErrorDetails,
    values: Mapping[str, Any],
    file: _File,
    overrides: Mapping[str, Any],
    replacing: Mapping[str, Any],
) -> str:
    # pydantic appends tags of its own (the member of a union that failed); a key is two names deep.
    keys: tuple[str, ...] = ()
    node: Any = values
    for part in map(str, detail["loc"][:2]):
        if not isinstance(node, Mapping) or part not in node:
            break
        keys, node = (*keys, part), node[part]
    dotted = ".".join(keys)
    if _find(overrides, keys) is node:
        where = "command line: --"
    elif _find(replacing, keys) is node:
        where = f"{file.place(WITHOUT_GPU, *keys)}: {WITHOUT_GPU}."
    else:
        where = f"{file.place(*keys)}: "
    if detail["type"] == "extra_forbidden":
        if len(keys) == 1 and dotted in KEYS:
            section, _, name = dotted.partition(".")
            return f"{where}{dotted} is written {section}: and, on the next line, indented, {name}: …"
        siblings = [*KEYS] if len(keys) > 1 else [*SECTIONS, WITHOUT_GPU, *KEYS]
        return f"{where}{_short(dotted)} is not a known key{_nearest(dotted, siblings)}"
    if len(keys) < 2:
        return f"{where}{dotted} must hold keys of its own, not {_shown(node)}"
    message = detail["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if detail["type"] == "string_type" and isinstance(node, int | float):
        message += "; write a text that looks like a number or yes/no in quotes"
    return f"{where}{dotted} = {_shown(node)}: {message}"


def _find(tree: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """The value at these keys; where there is none, an object that is equal to nothing."""
    node: Any = tree
    for key in keys:
        if not isinstance(node, Mapping) or key not in node:
            return object()
        node = node[key]
    return node


def _nearest(name: str, choices: list[str], prefix: str = "") -> str:
    """A hint at the nearest known key: the same name in another section first, then a close spelling."""
    leaf = name.rsplit(".", 1)[-1]
    close = [choice for choice in choices if choice.rsplit(".", 1)[-1] == leaf]
    close = close or difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if not close:
        leaves = {choice.rsplit(".", 1)[-1]: choice for choice in choices}
        close = [leaves[hit] for hit in difflib.get_close_matches(leaf, list(leaves), n=1, cutoff=0.6)]
    return f"; did you mean {prefix}{close[0]}?" if close else "; --help lists every key"


def _shown(value: Any) -> str:
    """A value as a message names it."""
    return "null" if value is None else _short(repr(value))


def _short(text: str, limit: int = 60) -> str:
    """A text of the user on one line, and nothing in it that a terminal would obey."""
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


# --- the command line -------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    help_text = ""

    def format_help(self) -> str:
        return self.help_text

    def error(self, message: str) -> NoReturn:
        raise UserError(f"command line: {_short(message, 300)}; --help lists every key")


def _parser(
    prog: str,
    description: str,
    explain: Sequence[str],
    shortcuts: Mapping[str, str],
    add: Callable[[argparse.ArgumentParser], None] | None,
) -> _Parser:
    """One option per key, after the actions; its help is made here, for argparse would print two screens more."""
    own = argparse.ArgumentParser(
        usage=argparse.SUPPRESS,
        add_help=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=COLUMN + 1, width=WIDTH),
    )
    own.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="read this, not config.yaml")
    own.add_argument(
        f"--{WITHOUT_GPU}", choices=["null"], metavar="null", default=argparse.SUPPRESS, help="no GPU is an error"
    )
    if add is not None:
        add(own)
    parser = _Parser(prog, parents=[own], allow_abbrev=False)
    lines = [*description.strip().splitlines(), "", *own.format_help().strip().splitlines()]
    lines += ["", "Keys of config.yaml: an option wins over the file. Shown are the defaults of the code."]
    for section in [*explain, *(name for name in SECTIONS if name not in explain)]:
        kind = SECTIONS[section]
        title = f"{section}: {(kind.__doc__ or '').rstrip('.')}"
        if section not in explain:
            title += f": --{section}.KEY, where KEY is one of {', '.join(kind.model_fields)}"
        lines += textwrap.wrap(title, WIDTH, subsequent_indent="  ")
        for name, field in kind.model_fields.items():
            key = f"{section}.{name}"
            flags = [f"--{key}", *([f"--{shortcuts[key]}"] if key in shortcuts else [])]
            parser.add_argument(*flags, dest=key, nargs="*")
            if section in explain:
                default = yaml.safe_dump(field.default).split("\n")[0]
                lines.append(f"  {', '.join(flags)} {default}".ljust(COLUMN) + f" {field.description}")
    parser.help_text = "\n".join(lines) + "\n"
    return parser


def _overrides(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The keys that were given as a tree like that of the file, and what is wrong with their values."""
    tree: dict[str, Any] = {WITHOUT_GPU: None} if WITHOUT_GPU in given else {}
    problems: list[str] = []
    for key, field in KEYS.items():
        if (words := given[key]) is None:
            continue
        section, _, name = key.partition(".")
        try:
            tree.setdefault(section, {})[name] = _value(words, field)
        except ValueError as error:
            problems.append(f"command line: --{key} {error}")
    return tree, problems


def _value(words: list[str], field: FieldInfo) -> Any:
    """The value of an option: a text as it stands, anything else as in the file.

    Raises:
        ValueError: no value, several for a key that takes one, or a value that is not YAML.
    """
    kinds = leaf_types(field.annotation)
    several = list[str] in kinds
    texts = all(kind in (str, types.NoneType) or typing.get_origin(kind) is Literal for kind in kinds - {list[str]})
    text = " ".join(words)
    # A shell takes [a, b] apart.
    as_list = several and text.startswith("[")
    if not words:
        raise ValueError("has no value; one that begins with - is written behind =, as in --train.seed=-1")
    if len(words) > 1 and not as_list:
        if several:
            return words
        raise ValueError(f"takes one value, not {len(words)} ({_short(text)}); write a text with blanks in quotes")
    if text == "null":
        return None
    if texts and not as_list:
        return text
    try:
        node, value = _parse(text)
    except yaml.YAMLError as error:
        raise ValueError(f"= {_shown(text)}: is not YAML as it is read here ({_reason(text, error)[1]})") from None
    # A blank or a comment is not a value, and does not mean null.
    return text if node is None else value


def _unknown(rest: list[str], options: list[str]) -> Iterator[str]:
    """What was left over: unknown options, without the values behind them, and words that stand alone."""
    behind_option = False
    for word in rest:
        if word.startswith("-"):
            behind_option = "=" not in word
            option = word.split("=")[0]
            name = option.lstrip("-")
            hint = f"; a key is written --{name}.KEY VALUE" if name in SECTIONS else _nearest(name, options, "--")
            yield f"command line: unknown option {_short(option)}{hint}"
        elif not behind_option:
            yield f"command line: {_shown(word)} stands alone: a value belongs behind a key, as in --train.seed 7"


# --- the file ---------------------------------------------------------------------------------------------------------


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


def _parse(text: str) -> tuple[yaml.Node | None, Any]:
    loader = _Loader(text)
    node = loader.get_single_node()
    return node, None if node is None else loader.construct_document(node)


def _read_file(path: Path) -> _File:
    """The sections of a file, the line of each key, and which keys are given twice.

    Raises:
        UserError: a file that cannot be read, or that is not YAML.
    """
    text = _read_text(path)
    try:
        node, tree = _parse(text)
    except yaml.YAMLError as error:
        line, reason = _reason(text, error)
        raise UserError(
            f"{path}:{line}: is not YAML as it is read here ({reason}); a key is written `key: value`, indented by "
            "spaces"
        ) from None
    if not isinstance(tree, dict | None):
        sections = ", ".join([*SECTIONS, WITHOUT_GPU])
        raise UserError(f"{path}:1: holds {type(tree).__name__} instead of the sections {sections}")
    file = _File(path, _no_empty(tree or {}), {}, [])
    for keys, line in _marks(node, ()):
        if keys in file.lines:
            twice = _short(".".join(keys))
            file.problems.append(f"{path}:{line}: {twice} is given twice (first on line {file.lines[keys]}); keep one")
        file.lines.setdefault(keys, line)
    if isinstance(replacement := file.tree.get(WITHOUT_GPU), dict):
        file.tree[WITHOUT_GPU] = _no_empty(replacement)
    return file


def _read_text(path: Path) -> str:
    name = _short(str(path), 200)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UserError(
                f"{name}: has more than {MAX_BYTES // 1024} KB; the shipped one has 6: is it a configuration?"
            )
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        hint = elsewhere(path)
        raise UserError(f"{name}: there is no such configuration file; give one with --config FILE{hint}") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{name}:{line}: is not UTF-8 text; save it as UTF-8") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{name}: cannot be read ({reason}); give another file with --config FILE") from None


def _no_empty(tree: dict[str, Any]) -> dict[str, Any]:
    # A section whose keys are all commented out reads as null and means that nothing is set there.
    return {key: {} if value is None and key in SECTIONS else value for key, value in tree.items()}


def _reason(text: str, error: yaml.YAMLError) -> tuple[int, str]:
    """The line of what is not YAML, and why."""
    if isinstance(error, yaml.reader.ReaderError):
        return text.count("\n", 0, error.position) + 1, f"character U+{error.character:04X} is not allowed"
    mark = getattr(error, "problem_mark", None)
    return mark.line + 1 if mark else 1, _short(getattr(error, "problem", None) or "unknown reason", 200)


def _marks(node: yaml.Node | None, prefix: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            keys = (*prefix, str(key.value))
            yield keys, key.start_mark.line + 1
            yield from _marks(value, keys)
