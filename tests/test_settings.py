"""File, replacements without a GPU and command line become one configuration; all errors come in one report."""

import argparse
import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, run_script

from gaokao import settings
from gaokao.config import Config
from gaokao.errors import MAX_FAULTS, UserError
from gaokao.settings import MAX_BYTES, MAX_DEPTH, MAX_VALUES, load_config, require_device


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "cuda_gpus", lambda: 0)


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "cuda_gpus", lambda: 1)


def config_file(folder: Path, text: str) -> str:
    path = folder / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def errors(folder: Path, text: str, *argv: str) -> str:
    with pytest.raises(UserError) as error:
        load_config(["--config", config_file(folder, text), *argv], "x.py")
    return str(error.value)


def test_shipped_file_is_valid_and_set_for_14b_on_a_gpu(one_gpu: None) -> None:
    resolved = load_config(["--config", str(ROOT / "config.yaml")], "x.py")
    assert resolved.config.model.base == "Qwen/Qwen2.5-14B-Instruct"
    assert resolved.config.model.quantization == "nf4"
    assert resolved.replaced == {}


def test_shipped_file_names_every_key_but_those_with_plain_defaults(one_gpu: None) -> None:
    tree = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    for section, values in tree.items():
        if section != "without_gpu":
            assert set(values) <= set(getattr(Config(), section).model_dump())
    left_out = {
        f"{section}.{key}"
        for section, values in Config().model_dump(exclude={"without_gpu"}).items()
        for key in values
        if key not in tree[section]
    }
    assert left_out == {"model.revision", "train.weight_decay", "train.max_grad_norm"}


def test_without_gpu_replaces_values_and_says_which(no_gpu: None) -> None:
    resolved = load_config(["--config", str(ROOT / "config.yaml")], "x.py")
    assert resolved.config.model.base == "builtin:tiny"
    assert resolved.replaced["model.base"] == ("Qwen/Qwen2.5-14B-Instruct", "builtin:tiny")
    assert resolved.config.train.num_train_epochs == 3


def test_command_line_wins_over_file_and_over_without_gpu(no_gpu: None, tmp_path: Path) -> None:
    path = config_file(tmp_path, "train: {seed: 1, max_steps: 5}\nwithout_gpu: {train: {seed: 2, max_steps: 6}}\n")
    resolved = load_config(["--config", path, "--train.seed", "3", "--train.learning_rate", "1e-4"], "x.py")
    assert (resolved.config.train.seed, resolved.config.train.max_steps) == (3, 6)
    assert resolved.config.train.learning_rate == 1e-4


def given(folder: Path, *argv: str) -> Config:
    return load_config(["--config", config_file(folder, "{}"), *argv], "x.py").config


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        # Numbers, yes/no and null as in the file.
        (["--train.seed", "7"], 7),
        (["--train.seed=7"], 7),
        (["--train.seed", "7", "--train.seed", "8"], 8),
        (["--train.learning_rate", "2e-4"], 2e-4),
        (["--train.learning_rate", "1.5E-5"], 1.5e-5),
        (["--train.packing", "no"], False),
        (["--train.resume", "false"], False),
        (["--train.resume", "auto"], "auto"),
        (["--train.max_steps", "null"], None),
        (["--train.eval_steps", "~"], None),
        # A text is taken as it stands, whatever YAML would make of it.
        (["--output.run", "42"], "42"),
        (["--output.run", "2026-01-01"], "2026-01-01"),
        (["--output.run", "true"], "true"),
        (["--output.run", "a #1 [x"], "a #1 [x"),
        (["--model.base", "C:\\models\\qwen: 14"], "C:\\models\\qwen: 14"),
        (["--model.quantization", "none"], "none"),
        (["--model.revision", "1.0"], "1.0"),
        (["--model.revision", "null"], None),
        # One or several; nothing is joined to what came before.
        (["--data.train", "a"], "a"),
        (["--data.train", "hub:owner/name"], "hub:owner/name"),
        (["--data.train", "a,b"], "a,b"),
        (["--data.train", "a", "42", "null"], ["a", "42", "null"]),
        (["--data.train", "[a, b c]"], ["a", "b c"]),
        (["--data.train", "[a,", "b]"], ["a", "b"]),
        (["--data.train", "a", "b", "--data.train", "c"], "c"),
        (["--data.train", "a", "--data.train", "b", "c"], ["b", "c"]),
        (["--data.mix", "null"], None),
        (["--lora.target_modules", '["q_proj", "v_proj"]'], ["q_proj", "v_proj"]),
        (["--lora.target_modules", "q_proj", "v_proj"], ["q_proj", "v_proj"]),
        (["--lora.target_modules", "q_proj"], ["q_proj"]),
    ],
)
def test_an_option_reads_its_value_as_its_key_wants_it(
    no_gpu: None, tmp_path: Path, argv: list[str], value: object
) -> None:
    section, _, name = argv[0].lstrip("-").split("=")[0].partition(".")
    found = getattr(getattr(given(tmp_path, *argv), section), name)
    assert (found, type(found)) == (value, type(value))


def test_an_option_stands_for_each_key_and_takes_its_default_as_help_writes_it(no_gpu: None, tmp_path: Path) -> None:
    argv = [word for line in help_of().splitlines() if line.startswith("  --") and "." in line.split()[0]
            for word in line[:settings.COLUMN].split()]  # fmt: skip
    assert len(argv) == 2 * len(settings.KEYS)
    assert given(tmp_path, *argv) == Config()


def test_a_second_name_for_a_key(no_gpu: None, tmp_path: Path) -> None:
    path = config_file(tmp_path, "{}")

    def adapter(*argv: str) -> str:
        shortcuts = {"generate.adapter": "adapter"}
        return load_config(["--config", path, *argv], "x.py", shortcuts=shortcuts).config.generate.adapter

    assert adapter("--adapter", "none") == "none"
    assert adapter("--adapter", "a", "--generate.adapter", "b") == "b"
    assert "\n  --generate.adapter, --adapter auto " in help_of(shortcuts={"generate.adapter": "adapter"})
    with pytest.raises(UserError, match="unknown option --adaptr; did you mean --adapter"):
        adapter("--adaptr", "a")
    with pytest.raises(UserError, match="unknown option --adapter; did you mean --generate.adapter"):
        load_config(["--config", path, "--adapter", "a"], "x.py")


def test_a_command_declares_actions_of_its_own(no_gpu: None, tmp_path: Path) -> None:
    path = config_file(tmp_path, "{}")

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--plan", action="store_true", help="say what would be done")
        parser.add_argument("--text-book", nargs="+", metavar="FILE")

    def load(*argv: str) -> settings.Resolved:
        return load_config(["--config", path, *argv], "x.py", add=add)

    resolved = load("--text-book", "a", "b", "--train.seed", "7", "--plan")
    assert vars(resolved.actions) == {"plan": True, "text_book": ["a", "b"]}
    assert resolved.config.train.seed == 7
    assert vars(load().actions) == {"plan": False, "text_book": None}
    assert vars(load_config(["--config", path, "--without_gpu", "null"], "x.py").actions) == {}
    with pytest.raises(UserError, match="unknown option --textbook; did you mean --text-book"):
        load("--textbook", "a")
    with pytest.raises(UserError, match="command line: argument --text-book: expected at least one argument"):
        load("--text-book")
    assert "--plan " in help_of(add=add) and "say what would be done" in help_of(add=add)


def help_of(**options: Any) -> str:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit) as stop:
        load_config(["--help"], "x.py", **options)
    assert stop.value.code == 0
    return shown.getvalue()


def test_a_file_of_a_windows_editor_is_read(no_gpu: None, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbftrain:\r\n  seed: 7\r\n  sed: 8\r\n")
    with pytest.raises(UserError, match=r"1 error(.|\n)*c\.yaml:3: train\.sed is not a known key"):
        load_config(["--config", str(tmp_path / "c.yaml")], "x.py")


def test_learning_rate_written_as_yaml_text_is_a_number(no_gpu: None, tmp_path: Path) -> None:
    # YAML 1.1 reads 2e-4 without a point as a text.
    path = config_file(tmp_path, "train: {learning_rate: 2e-4}\n")
    assert load_config(["--config", path], "x.py").config.train.learning_rate == 2e-4


def test_no_gpu_with_without_gpu_null_is_an_error(no_gpu: None, tmp_path: Path) -> None:
    resolved = load_config(["--config", str(ROOT / "config.yaml"), "--without_gpu", "null"], "x.py")
    assert resolved.config.model.base == "Qwen/Qwen2.5-14B-Instruct"
    with pytest.raises(UserError, match="no CUDA GPU was found and without_gpu is null"):
        require_device(resolved)


def test_environment_variables_change_nothing(no_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAIN", '{"seed": 7}')
    assert load_config(["--config", config_file(tmp_path, "{}")], "x.py").config.train.seed == 42


def test_misspelt_key_names_line_and_nearest_key(no_gpu: None, tmp_path: Path) -> None:
    said = errors(tmp_path, "train:\n  seed: 1\n  learning_rte: 1.0e-4\n")
    assert "c.yaml:3: train.learning_rte is not a known key; did you mean train.learning_rate?" in said


def test_key_in_the_wrong_section_is_sent_to_the_right_one(no_gpu: None, tmp_path: Path) -> None:
    assert "did you mean train.learning_rate?" in errors(tmp_path, "learning_rate: 1.0e-4\n")
    assert "did you mean lora.r?" in errors(tmp_path, "model:\n  r: 8\n")


def test_wrong_type_names_line_key_and_value(no_gpu: None, tmp_path: Path) -> None:
    said = errors(tmp_path, "train:\n  learning_rate: abc\n")
    assert "c.yaml:2: train.learning_rate = 'abc': input should be a valid number" in said


def test_all_errors_of_file_and_command_line_come_together(no_gpu: None, tmp_path: Path) -> None:
    said = errors(
        tmp_path,
        "modl: {}\nlora: {r: 0}\ntrain: {seed: true, packing: 3}\nwithout_gpu: {train: {max_stps: 1}}\n",
        "--train.lerning_rate=1",
        "--generate.top_p",
        "7",
        "--lora.alpha",
        "--output.run=a",
        "b",
    )
    for part in (
        "did you mean model?",
        "lora.r = 0",
        "train.seed = True: a yes/no value is not meant here",
        "train.packing = 3",
        "without_gpu.train.max_stps is not a known key",
        "unknown option --train.lerning_rate; did you mean --train.learning_rate?",
        "--generate.top_p = 7: input should be less than or equal to 1",
        "--lora.alpha has no value",
        "'b' stands alone: a value belongs behind a key",
    ):
        assert part in said
    assert "has 9 error(s)" in said


def test_an_error_in_without_gpu_is_found_on_a_machine_with_a_gpu(one_gpu: None, tmp_path: Path) -> None:
    said = errors(tmp_path, "without_gpu:\n  train:\n    max_steps: none\n")
    assert "c.yaml:3: without_gpu.train.max_steps = 'none'" in said


def test_a_key_given_twice_is_an_error(no_gpu: None, tmp_path: Path) -> None:
    assert "c.yaml:3: train.seed is given twice (first on line 2)" in errors(tmp_path, "train:\n  seed: 1\n  seed: 2\n")


def test_an_empty_section_means_its_defaults(no_gpu: None, tmp_path: Path) -> None:
    path = config_file(tmp_path, "train:\n  # seed: 1\nlora: {}\n")
    assert load_config(["--config", path], "x.py").config.train.seed == 42


def test_an_adapter_of_null_says_which_of_two_words_is_meant(no_gpu: None, tmp_path: Path) -> None:
    said = errors(tmp_path, "generate:\n  adapter: null\n")
    assert (
        "c.yaml:2: generate.adapter = null: write auto for the run's own adapter, or none for the bare base model"
        in said
    )
    assert said.splitlines()[1:] == errors(tmp_path, "generate:\n  adapter:\n").splitlines()[1:]


# --- files that are hostile or of another kind ----------------------------------------------------------------------


DEEP = "".join(f"{' ' * level}a:\n" for level in range(200))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train:\n  1: 2", "c.yaml:2: is not YAML as it is read here (the key 1 is not a name"),
        ("train:\n  null: 2", "c.yaml:2: is not YAML as it is read here (the key null is not a name"),
        ("on: 1", "c.yaml:1: is not YAML as it is read here (the key on is not a name"),
        ("a: 1\n? [a, b]\n: 3", "c.yaml:2: is not YAML as it is read here (the key … is not a name"),
        (
            "model: !!python/object/apply:os.system ['true']",
            "python/object/apply:os.system) are not taken; leave it out",
        ),
        ("model:\n  base: !own x", "c.yaml:2: is not YAML as it is read here (tags (!own) are not taken"),
        ("train:\n  seed: !!int 5", "c.yaml:2: is not YAML as it is read here (tags (tag:yaml.org,2002:int) are not"),
        (f"train:\n  seed: {'9' * 4300}", "c.yaml:2: is not YAML as it is read here (a number of 4300 digits"),
        (f"train:\n  seed: 0x{'f' * 9000}", "c.yaml:2: is not YAML as it is read here (a number of 9002 digits"),
        (f"train:\n  seed: 1{':1' * 9000}", "c.yaml:2: is not YAML as it is read here (a number of 18001 digits"),
        (f"train:\n  seed: '{'9' * 4300}'", "… (4302 characters): input should be less than"),
        ("train: {seed: 0x_}", "c.yaml:1: is not YAML as it is read here (the value is not a number"),
        ("train: {seed: 010}", "010 is a number to base 8 or 60 in YAML"),
        ("train: {seed: 1:30}", "1:30 is a number to base 8 or 60 in YAML"),
        ("model: " + "[" * 3000, "c.yaml:1: is not YAML as it is read here (values are nested more than 10 deep"),
        ("{a: " * 3000, "values are nested more than 10 deep"),
        ("- " * 3000, "values are nested more than 10 deep"),
        (DEEP, f"c.yaml:{MAX_DEPTH}: is not YAML as it is read here (values are nested more than 10 deep"),
        ("model: &a [*a]", "c.yaml:1: is not YAML as it is read here (anchors and aliases (&a) are not taken"),
        ("a: &x {b: 1}\nmodel:\n  <<: *x", "anchors and aliases (&x) are not taken; write the value out"),
        ("a: *x", "c.yaml:1: is not YAML as it is read here (anchors and aliases (&x) are not taken"),
        ("model:\n  <<: {base: x}", "c.yaml:2: model.<< is not a known key"),
        ("a: 1\n" * (MAX_VALUES // 2 + 1), f"c.yaml:{MAX_VALUES // 2}: is not YAML as it is read here (there are more"),
        ("#" * (MAX_BYTES + 1), "c.yaml: has more than 64 KB; the shipped one has 6"),
        ("a: 1\nb: \x01", "c.yaml:2: is not YAML as it is read here (character U+0001 is not allowed)"),
        ("train:\n\tseed: 1", "c.yaml:2: is not YAML as it is read here (found character '\\t'"),
        ("a: 1\n---\nb: 2", "c.yaml:2: is not YAML as it is read here (but found another document)"),
        ("x" * 5000, "c.yaml:1: holds str instead of the sections"),
        (f"? {'x' * 5000}\n: 1", "… (5000 characters) is not a known key"),
        (f"model: {{base: [{'abc, ' * 1000}]}}", "characters): input should be a valid string"),
        (f"model: {{dtype: {'x' * 5000}}}", "… (5002 characters): input should be 'auto', 'bf16'"),
        (f"model:\n  {'x' * 900}: 1\n  {'x' * 900}: 1", "… (906 characters) is given twice (first on line 2)"),
        (f"%TAG ! {'x' * 5000}\n---\na: !b c", "is not YAML as it is read here (tags (xxx"),
        ("output: {run: 42}", "output.run = 42: input should be a valid string; write a text that looks like a number"),
        ('"a\\e[31m\\nb": 3', r"c.yaml:1: a\x1b[31m\nb is not a known key"),
        ('train: {"\\e": 3, "\\e": 4}', r"c.yaml:1: train.\x1b is given twice"),
        ('"\\e": {"a": 3}\n1: "\\e"', "the key 1 is not a name"),
        ('? "\\e"\n: &a 1', "(anchors and aliases"),
        ("train.seed: 3", "c.yaml:1: train.seed is written train: and, on the next line, indented, seed: …"),
        (
            "a:\n  without_gpu: 1\nwithout_gpu:\n  without_gpu:\n    train: {}",
            "c.yaml:4: without_gpu holds without_gpu",
        ),
    ],
)
def test_a_hostile_file_is_a_short_message_with_its_line(no_gpu: None, tmp_path: Path, text: str, said: str) -> None:
    text = errors(tmp_path, text)
    assert said in text
    assert all(len(line) < 500 + len(str(tmp_path)) and line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize("key", ["gradient_checkpointing", "resume"])
def test_a_value_of_none_of_several_types_is_one_error(no_gpu: None, tmp_path: Path, key: str) -> None:
    said = errors(tmp_path, f"train:\n  {key}: maybe\n  seed: x")
    assert f"c.yaml:2: train.{key} = 'maybe': input should be 'auto' or a valid boolean" in said
    assert said.count(f"train.{key}") == 1 and "train.seed" in said and "has 2 error(s)" in said


def test_an_alias_bomb_is_not_built(no_gpu: None, tmp_path: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    said = errors(tmp_path, "\n".join(lines))
    assert "c.yaml:1: is not YAML as it is read here (anchors and aliases (&a)" in said and len(said) < 500


def test_values_up_to_the_bounds_of_a_file_are_read(no_gpu: None, tmp_path: Path) -> None:
    sources = [f"part{number}.json" for number in range(MAX_VALUES - 5)]
    path = config_file(tmp_path, f"data: {{train: [{', '.join(sources)}]}}\n#")
    assert load_config(["--config", path], "x.py").config.data.train == sources
    size = Path(path).stat().st_size
    path = config_file(tmp_path, Path(path).read_text(encoding="utf-8") + "#" * (MAX_BYTES - size))
    assert Path(path).stat().st_size == MAX_BYTES
    assert load_config(["--config", path], "x.py").config.data.train == sources


def test_errors_beyond_a_screenful_are_not_all_looked_up(no_gpu: None, tmp_path: Path) -> None:
    said = errors(tmp_path, "".join(f"kes{number}: 1\n" for number in range(1000)))
    assert said.startswith(f"the configuration has more than {MAX_FAULTS} error(s):")
    assert len(said.splitlines()) == MAX_FAULTS + 1


def test_without_gpu_null_in_the_file_makes_a_missing_gpu_an_error(no_gpu: None, tmp_path: Path) -> None:
    resolved = load_config(["--config", config_file(tmp_path, "without_gpu: null\n")], "x.py")
    with pytest.raises(UserError, match="no CUDA GPU was found and without_gpu is null"):
        require_device(resolved)
    resolved = load_config(["--config", config_file(tmp_path, "without_gpu: {}\n")], "x.py")
    require_device(resolved)


def test_an_empty_section_of_without_gpu_replaces_nothing(no_gpu: None, tmp_path: Path) -> None:
    path = config_file(tmp_path, "train: {seed: 1}\nwithout_gpu:\n  train:\n  lora: {r: 3}\n")
    resolved = load_config(["--config", path], "x.py")
    assert resolved.config.train.seed == 1
    assert resolved.replaced == {"lora.r": (32, 3)}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--train.see", "1"], "unknown option --train.see; did you mean --train.seed?"),
        (["--conf", "x.yaml"], "unknown option --conf; did you mean --config?"),
        (["--without", "null"], "unknown option --without; did you mean --without_gpu?"),
        (["--lora.target_modules", "[" * 3000 + "]" * 3000], "command line: "),
        (["--lora.target_modules", "[" * 3000], "is not YAML as it is read here (values are nested more than 10 deep"),
        (["--lora", '{"a":' * 3000], "unknown option --lora; a key is written --lora.KEY VALUE"),
        (["--without_gpu", "x" * 5000], "invalid choice: 'xxx"),
        (["--without_gpu"], "argument --without_gpu: expected one argument"),
        (["--config"], "argument --config: expected one argument"),
        (["--train.seed", "9" * 5000], "… (5002 characters): is not YAML as it is read here (a number of 5000 digits"),
        (["--train.seed", "{a: 1}"], "--train.seed = {'a': 1}: input should be a valid integer"),
        (["--train.seed", "&a 1"], "--train.seed = '&a 1': is not YAML as it is read here (anchors and aliases (&a)"),
        (["--train.seed", "!!int 1"], "(tags (tag:yaml.org,2002:int) are not taken"),
        (["--train.seed", "1\x00"], "(character U+0000 is not allowed)"),
        (["--train.seed", "true"], "--train.seed = True: a yes/no value is not meant here"),
        (["--train.seed", "null"], "--train.seed = null: input should be a valid integer"),
        (["--train.max_steps", ""], "--train.max_steps = '': input should be a valid integer"),
        (["--train.max_steps", "# 5"], "--train.max_steps = '# 5': input should be a valid integer"),
        (["--train.max_steps="], "--train.max_steps = '': input should be a valid integer"),
        (["--train.seed", "1", "2"], "--train.seed takes one value, not 2 (1 2); write a text with blanks in quotes"),
        (["--output.run", "x" * 5000, "y"], "… (5002 characters)); write a text with blanks in quotes"),
        (["--train.seed"], "--train.seed has no value; one that begins with - is written behind =, as in --train.seed"),
        (["--train.seed", "-1"], "--train.seed = -1: input should be greater than or equal to 0"),
        (["--train.learning_rate=-1e-4"], "--train.learning_rate = '-1e-4': input should be greater than or equal to"),
        (["--data.train"], "--data.train has no value"),
        (["--data.train", "a", ""], "--data.train = ['a', '']: is empty"),
        (["--data.train", "[x].json"], "--data.train = '[x].json': is not YAML as it is read here"),
        (["--" + "y" * 5000], "… (5002 characters)"),
        (["--\x1b[31m\nx", "1"], r"unknown option --\x1b[31m\nx; --help lists"),
        (["--output.run", "a\n", "b"], r"takes one value, not 2 (a\n b)"),
        (["a\u2028b"], r"'a\u2028b' stands alone"),
        (["--without_gpu", "\x1b"], r"invalid choice: '\x1b'"),
        (["--config", "a\x1b[31m"], r"a\x1b[31m: there is no such configuration file"),
        (["y" * 5000], "… (5002 characters) stands alone"),
        (["--train.learning_rate", "nan"], "--train.learning_rate = 'nan': input should be a finite number"),
        (["--output.run", "a\nb"], "--output.run = 'a\\nb': holds a line end"),
        (["--model.base", "\udcff"], "--model.base = '\\udcff': holds a line end, another control character, or half"),
        (["--generate.adapter", "null"], "--generate.adapter = null: write auto"),
        (["--config", "x" * 5000], "… (5000 characters): cannot be read (File name too long)"),
        (["--config", ""], ": cannot be read (Is a directory)"),
    ],
)
def test_a_hostile_command_line_is_a_short_message(no_gpu: None, tmp_path: Path, argv: list[str], said: str) -> None:
    text = errors(tmp_path, "{}", *argv)
    assert said in text
    assert all(len(line) < 500 and line.isprintable() for line in text.split("\n"))


def test_the_value_behind_an_unknown_option_is_no_error_of_its_own(no_gpu: None, tmp_path: Path) -> None:
    said = errors(tmp_path, "{}", "--train.see", "1", "2", "--train.sed=3", "4")
    assert [line.split("; ")[0] for line in said.splitlines()[1:]] == [
        "  - command line: unknown option --train.see",
        "  - command line: unknown option --train.sed",
        "  - command line: '4' stands alone: a value belongs behind a key, as in --train.seed 7",
    ]


def test_started_from_another_folder_the_message_says_where_to_start(tmp_path: Path) -> None:
    start = f"(there is one in the project's folder; start from there: cd {ROOT})"
    done = run_script(str(ROOT / "train_qwen_gaokao.py"), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        f"error: config.yaml: there is no such configuration file; give one with --config FILE {start}\n",
    )
    done = run_script(str(ROOT / "train_qwen_gaokao.py"), "--config", ROOT / "config.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: data.train = gaokao_data/train.json: there is no such data file;")
    assert start in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1\nb: 2", "is not YAML"),
        ("- a\n- b", "holds list instead of the sections"),
        ("train: 5", "train must hold keys of its own, not 5"),
        ("without_gpu: 5", "without_gpu must hold sections, or be null"),
        ("model: {}\nwithout_gpu:\n  train: 5", "c.yaml:3: without_gpu.train must hold keys of its own, not 5"),
        ("model: {}\nwithout_gpu:\n  modl: {}", "c.yaml:3: without_gpu.modl is not a known key; did you mean model?"),
    ],
)
def test_a_file_that_is_not_sections_is_refused(no_gpu: None, tmp_path: Path, text: str, said: str) -> None:
    assert said in errors(tmp_path, text)


def test_only_the_file_is_blamed_for_a_section_that_is_none(no_gpu: None, tmp_path: Path) -> None:
    said = errors(tmp_path, "without_gpu:\n  train: {seed: 1}\ntrain: 5\n")
    assert "c.yaml:3: train must hold keys of its own, not 5" in said and len(said.splitlines()) == 2


def test_what_wins_is_blamed_where_it_stands(no_gpu: None, tmp_path: Path) -> None:
    text = "train:\n  seed: -1\n  packing: 5\nwithout_gpu:\n  train:\n    seed: -2\n    packing: true\n"
    said = errors(tmp_path, text)
    assert "c.yaml:2: train.seed = -1" in said and "c.yaml:6: without_gpu.train.seed = -2" in said
    assert "c.yaml:3: train.packing = 5" in said and len(said.splitlines()) == 4
    said = errors(tmp_path, text, "--train.seed", "-1", "--train.packing", "no")
    assert said.splitlines()[1:] == ["  - command line: --train.seed = -1: input should be greater than or equal to 0"]


@pytest.mark.parametrize("text", ["train: 5\n", "train: [1]\n", "without_gpu: {train: 5}\n"])
def test_an_option_does_not_hide_a_section_that_is_none(no_gpu: None, tmp_path: Path, text: str) -> None:
    said = errors(tmp_path, text, "--train.seed", "1")
    assert "train must hold keys of its own, not " in said and len(said.splitlines()) == 2


def test_a_missing_file_is_named(no_gpu: None) -> None:
    with pytest.raises(
        UserError, match=r"nope\.yaml: there is no such configuration file; give one with --config FILE"
    ):
        load_config(["--config", "nope.yaml"], "x.py")


def test_a_file_that_is_not_utf8_is_named(no_gpu: None, tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_bytes("train: {}\n# 训练".encode("gb18030"))
    with pytest.raises(UserError, match=r"g\.yaml:2: is not UTF-8 text; save it as UTF-8"):
        load_config(["--config", str(tmp_path / "g.yaml")], "x.py")


@pytest.mark.parametrize(
    ("script", "first", "left_out"),
    [("train_qwen_gaokao.py", "train", "generate"), ("infer_qwen_gaokao.py", "generate", "train")],
)
def test_help_of_the_scripts_fits_a_screen_and_a_half(script: str, first: str, left_out: str) -> None:
    done = run_script(script, "--help")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) <= 70
    # Commands, then the section that matters most, each of its keys on one line.
    assert f"python {script}" in "".join(lines[:6])
    sections = [line.split(":")[0] for line in lines if line.split(":")[0] in settings.SECTIONS]
    assert sorted(sections) == sorted(settings.SECTIONS) and sections[0] == first
    heads = lines[lines.index(next(line for line in lines if line.startswith(f"{first}:"))) :]
    assert all(len(line) <= settings.WIDTH for line in heads)
    for key in settings.KEYS:
        section, _, name = key.partition(".")
        if f"  --{key}" not in done.stdout:
            about = done.stdout.partition(f"\n{section}:")[2]
            assert name in re.split(r"[,\s]+", about.partition("\n--")[0]), key
    assert f"  --{first}.seed 42 " in done.stdout and f"  --{left_out}." not in done.stdout


def test_help_says_a_few_words_on_every_key() -> None:
    shown = help_of(description="Do it.\n\npython x.py   # all of it\n")
    assert shown.startswith("Do it.\n\npython x.py   # all of it\n\n")
    for key, field in settings.KEYS.items():
        line = next(line for line in shown.splitlines() if line.startswith(f"  --{key} "))
        assert field.description and line.endswith(f" {field.description}")
        assert settings.COLUMN < len(line) <= settings.WIDTH and line[settings.COLUMN] == " ", line


@pytest.mark.parametrize(
    "arguments",
    [
        ["--train.learning_rte", "1"],
        ["--train.learning_rate", "abc"],
        ["--config", "nope.yaml"],
        ["--data.train", "nope.json"],
    ],
)
def test_a_mistake_is_exit_code_2_without_a_traceback(arguments: list[str]) -> None:
    done = run_script("train_qwen_gaokao.py", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_errors_answer_before_any_heavy_import() -> None:
    # What makes the answer take less than a second: none of the heavy libraries is imported for it.
    code = (
        "import sys; sys.argv = ['x', '--train.seed', 'abc']\n"
        "import train_qwen_gaokao\n"
        "from gaokao.errors import UserError\n"
        "try: train_qwen_gaokao.main(sys.argv[1:])\n"
        "except UserError: pass\n"
        "print(sorted({'torch', 'transformers', 'trl', 'peft', 'datasets', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_a_server_is_asked_for_is_not_replaced_by_what_is_set_for_a_tiny_model(
    no_gpu: None, tmp_path: Path
) -> None:
    path = config_file(tmp_path, "without_gpu: {generate: {temperature: 0.3}, train: {max_steps: 7}}\n")
    for engine, temperature in (("transformers", 0.3), ("openai", 0.7)):
        found = load_config([f"--generate.engine={engine}", "--config", path], "x.py")
        assert found.config.generate.temperature == temperature
        assert found.config.train.max_steps == 7
        assert ("generate.temperature" in found.replaced) is (engine == "transformers")
