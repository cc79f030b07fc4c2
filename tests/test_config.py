"""One file configures everything, and every fault in it is named with its place and the nearest key."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, run_script
from pydantic import ValidationError

from gaokao import settings
from gaokao.config import Config, TrainConfig
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


def faults(folder: Path, text: str, *argv: str) -> str:
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


def test_null_on_the_command_line_unsets_a_value(no_gpu: None, tmp_path: Path) -> None:
    path = config_file(tmp_path, "train: {max_steps: 5}\n")
    assert load_config(["--config", path, "--train.max_steps", "null"], "x.py").config.train.max_steps is None


def test_lists_can_be_given_on_the_command_line(no_gpu: None, tmp_path: Path) -> None:
    path = config_file(tmp_path, "{}")
    resolved = load_config(["--config", path, "--lora.target_modules", '["q_proj", "v_proj"]'], "x.py")
    assert resolved.config.lora.target_modules == ["q_proj", "v_proj"]


def test_short_option_for_the_adapter(no_gpu: None, tmp_path: Path) -> None:
    argv = ["--config", config_file(tmp_path, "{}"), "--adapter", "none"]
    assert load_config(argv, "x.py", {"generate.adapter": "adapter"}).config.generate.adapter == "none"


def test_a_file_of_a_windows_editor_is_read(no_gpu: None, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbftrain:\r\n  seed: 7\r\n  sed: 8\r\n")
    with pytest.raises(UserError, match=r"1 fault(.|\n)*c\.yaml:3: train\.sed is not a known key"):
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
    said = faults(tmp_path, "train:\n  seed: 1\n  learning_rte: 1.0e-4\n")
    assert "c.yaml:3: train.learning_rte is not a known key; did you mean train.learning_rate?" in said


def test_key_in_the_wrong_section_is_sent_to_the_right_one(no_gpu: None, tmp_path: Path) -> None:
    assert "did you mean train.learning_rate?" in faults(tmp_path, "learning_rate: 1.0e-4\n")
    assert "did you mean lora.r?" in faults(tmp_path, "model:\n  r: 8\n")


def test_wrong_type_names_line_key_and_value(no_gpu: None, tmp_path: Path) -> None:
    said = faults(tmp_path, "train:\n  learning_rate: abc\n")
    assert "c.yaml:2: train.learning_rate = 'abc': input should be a valid number" in said


def test_all_faults_of_file_and_command_line_come_together(no_gpu: None, tmp_path: Path) -> None:
    said = faults(
        tmp_path,
        "modl: {}\nlora: {r: 0}\ntrain: {seed: true, packing: 3}\nwithout_gpu: {train: {max_stps: 1}}\n",
        "--train.lerning_rate=1",
        "--generate.top_p",
        "7",
    )
    for part in (
        "did you mean model?",
        "lora.r = 0",
        "train.seed = True: a yes/no value is not meant here",
        "train.packing = 3",
        "without_gpu.train.max_stps is not a known key",
        "unknown option --train.lerning_rate; did you mean --train.learning_rate?",
        "--generate.top_p = '7'",
    ):
        assert part in said
    assert "has 7 fault(s)" in said


def test_a_fault_in_without_gpu_is_found_on_a_machine_with_a_gpu(one_gpu: None, tmp_path: Path) -> None:
    said = faults(tmp_path, "without_gpu:\n  train:\n    max_steps: none\n")
    assert "c.yaml:3: without_gpu.train.max_steps = 'none'" in said


def test_a_key_given_twice_is_a_fault(no_gpu: None, tmp_path: Path) -> None:
    assert "c.yaml:3: train.seed is given twice (first on line 2)" in faults(tmp_path, "train:\n  seed: 1\n  seed: 2\n")


def test_an_empty_section_means_its_defaults(no_gpu: None, tmp_path: Path) -> None:
    path = config_file(tmp_path, "train:\n  # seed: 1\nlora: {}\n")
    assert load_config(["--config", path], "x.py").config.train.seed == 42


# Every key: what it is where nothing is said, then the lowest and the highest value taken (or all there are), and the
# first ones that are not. A new key needs a line here.
BASE, SEEDS, NOT_SEEDS = "Qwen/Qwen2.5-14B-Instruct", [0, 2**32 - 1], [-1, 2**32, 1.5, True]
SWITCH, NO_SWITCH = [True, False], [2, "maybe", None]
COUNT, NO_COUNT = [1, 10**9], [0, 10**9 + 1, -1, 1.5, 10**30, True]
NAMES, NO_NAMES = ["a", "x" * 1024], ["", " ", "a\nb", "a\x00", "\ud83d", "a\u2028b", "x" * 1025, 5]
SOURCES, NO_SOURCES = ["a", "x" * 1024, ["a", "b"]], [*NO_NAMES, [], ["a", " "], ["a", 5], {"a": "b"}]
NUMBERS = [float("inf"), float("nan"), 1e300, "nan", None]
KEYS: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "model.base": (BASE, NAMES, [*NO_NAMES, None]),
    "model.hub": ("huggingface", ["huggingface", "modelscope"], ["github", None]),
    "model.revision": (None, [None, *NAMES], NO_NAMES),
    "model.quantization": ("nf4", ["nf4", "int8", "none"], ["fp4", None]),
    "model.dtype": ("auto", ["auto", "bf16", "fp16", "fp32"], ["fp8", None]),
    "model.attention": ("auto", ["auto", "flash_attention_2", "sdpa", "eager"], ["flash", None]),
    "model.trust_remote_code": (False, SWITCH, NO_SWITCH),
    "data.train": ("gaokao_data/train.json", SOURCES, [*NO_SOURCES, None]),
    "data.test": ("gaokao_data/test.json", SOURCES, [*NO_SOURCES, None]),
    "data.validation_share": (0.05, [0, 0.001, 0.5], [-0.001, 0.0009, 1e-300, 0.51, *NUMBERS]),
    "data.mix": (None, [None, *SOURCES], NO_SOURCES),
    "data.mix_ratio": (1.0, [0, 0.001, 10], [-0.001, 0.0009, 1e-300, 10.1, *NUMBERS]),
    "lora.r": (32, [1, 1024], [0, 1025, 1.5, 10**30, True]),
    "lora.alpha": (64, [0.1, 10_000], [0.09, 0, 10_001, *NUMBERS]),
    "lora.dropout": (0.05, [0, 0.001, 0.9], [-0.1, 1e-300, 0.91, *NUMBERS]),
    "lora.target_modules": (
        "all-linear",
        ["all-linear", ["q_proj"], ["q_proj", "mlp.up_proj"]],
        ["", [], "(", "q proj", ["all-linear", "q_proj"], [5], None],
    ),
    "train.num_train_epochs": (3, [0.01, 1000], [0, 0.009, 1000.1, *NUMBERS]),
    "train.max_steps": (None, [None, *COUNT], NO_COUNT),
    "train.effective_batch": (8, [1, 65536], [0, 65537, 10**30]),
    "train.per_device_train_batch_size": (1, [1, 4096], [0, 4097, 10**30]),
    "train.learning_rate": (1e-4, [1e-8, 1], [0, 9e-9, 1e-300, 1.01, *NUMBERS]),
    "train.lr_scheduler_type": (
        "cosine",
        ["cosine", "linear", "constant", "constant_with_warmup"],
        ["polynomial", None],
    ),
    "train.warmup_steps": (0.05, [0, 0.001, 10**6], [-0.1, 1e-300, 10**6 + 1, *NUMBERS]),
    "train.weight_decay": (0.0, [0, 1e-6, 1], [-0.1, 1e-300, 1.1, *NUMBERS]),
    "train.max_grad_norm": (1.0, [0.001, 1000], [0, 1e-300, 1001, *NUMBERS]),
    "train.optim": (
        "paged_adamw_8bit",
        ["adamw_torch", "adamw_torch_fused", "paged_adamw_8bit", "adamw_8bit"],
        ["sgd", None],
    ),
    "train.max_length": (2048, [64, 131072], [63, 131073, None]),
    "train.packing": (True, SWITCH, NO_SWITCH),
    "train.gradient_checkpointing": (True, SWITCH, NO_SWITCH),
    "train.logging_steps": (1, COUNT, NO_COUNT),
    "train.eval_steps": (20, [None, *COUNT], NO_COUNT),
    "train.early_stopping": (None, [None, 1, 10**6], [0, 10**6 + 1]),
    "train.keep": ("best", ["best", "last"], ["first", None]),
    "train.save_steps": (50, COUNT, NO_COUNT),
    "train.save_minutes": (20, [None, 0.01, 10**6], [0, 0.009, 10**6 + 1, *NUMBERS[:-1]]),
    "train.save_total_limit": (2, [2, 10**6], [1, 10**6 + 1]),
    "train.resume": ("auto", ["auto", True, False], ["maybe", 2, None]),
    "train.seed": (42, SEEDS, NOT_SEEDS),
    "evaluate.chance_rounds": (20, [1, 1000], [0, 1001]),
    "evaluate.samples": (2, [0, 100], [-1, 101]),
    "evaluate.seed": (0, SEEDS, NOT_SEEDS),
    "generate.adapter": ("auto", ["auto", "none", *NAMES], [*NO_NAMES, None]),
    "generate.batch_size": (8, [1, 4096], [0, 4097, 1.5, 10**30, True, None]),
    "generate.limit": (None, [None, *COUNT], NO_COUNT),
    "generate.max_new_tokens": (1024, [1, 32768], [0, 32769, 10**30]),
    "generate.do_sample": (True, SWITCH, NO_SWITCH),
    "generate.temperature": (0.7, [0.01, 5], [0.009, 0, 5.1, *NUMBERS]),
    "generate.top_p": (0.9, [0.01, 1], [0.009, 0, 1.1, *NUMBERS]),
    "generate.repetition_penalty": (1.0, [0.5, 2], [0.4, 0, 2.1, *NUMBERS]),
    "generate.torch_compile": (False, SWITCH, NO_SWITCH),
    "generate.seed": (42, SEEDS, NOT_SEEDS),
    "output.dir": ("outputs", NAMES, [*NO_NAMES, None]),
    "output.run": (
        "gaokao",
        ["a", "试验 1", "2026-01-01", "x" * 200, "高" * 66, "console"],
        [*NO_NAMES, "x" * 201, "高" * 67, "a/b", "..", ".", "C:x", "a?", "a.", "a ", " a", "con", "NUL.txt", "Lpt9", None],
    ),
}  # fmt: skip


def with_value(key: str, value: Any) -> Any:
    section, name = key.split(".")
    return getattr(getattr(Config.model_validate({section: {name: value}}), section), name)


def test_every_key_has_its_default() -> None:
    found = {
        f"{section}.{name}": value
        for section, values in Config().model_dump(exclude={"without_gpu"}).items()
        for name, value in values.items()
    }
    assert found == {key: default for key, (default, _, _) in KEYS.items()}


@pytest.mark.parametrize("key", KEYS)
def test_every_key_takes_its_range_and_nothing_beyond_it(key: str) -> None:
    _, accepted, refused = KEYS[key]
    for value in accepted:
        assert with_value(key, value) == value
    for value in refused:
        with pytest.raises(ValidationError) as error:
            with_value(key, value)
        assert {".".join(map(str, detail["loc"][:2])) for detail in error.value.errors()} == {key}, value


def test_a_list_of_one_source_is_that_source_and_a_list_of_one_module_stays_a_list() -> None:
    assert with_value("data.train", ["a"]) == "a"
    # peft reads a text as a pattern for the whole path of a module: "q_proj" alone matches none.
    assert with_value("lora.target_modules", "q_proj") == ["q_proj"]
    assert with_value("lora.target_modules", ["all-linear"]) == "all-linear"


def test_an_adapter_of_null_says_which_of_two_words_is_meant(no_gpu: None, tmp_path: Path) -> None:
    said = faults(tmp_path, "generate:\n  adapter: null\n")
    assert (
        "c.yaml:2: generate.adapter = null: write auto for the run's own adapter, or none for the bare base model"
        in said
    )
    assert said.splitlines()[1:] == faults(tmp_path, "generate:\n  adapter:\n").splitlines()[1:]


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
        ("#" * (MAX_BYTES + 1), "c.yaml: has more than 64 KB; the shipped one has 7"),
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
        ("train.seed: 3", "c.yaml:1: train.seed is written train: and, on the next line, indented, seed: …"),
        (
            "a:\n  without_gpu: 1\nwithout_gpu:\n  without_gpu:\n    train: {}",
            "c.yaml:4: without_gpu holds without_gpu",
        ),
    ],
)
def test_a_hostile_file_is_a_short_message_with_its_line(no_gpu: None, tmp_path: Path, text: str, said: str) -> None:
    text = faults(tmp_path, text)
    assert said in text
    assert all(len(line) < 500 + len(str(tmp_path)) for line in text.splitlines())


def test_an_alias_bomb_is_not_built(no_gpu: None, tmp_path: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    said = faults(tmp_path, "\n".join(lines))
    assert "c.yaml:1: is not YAML as it is read here (anchors and aliases (&a)" in said and len(said) < 500


def test_values_up_to_the_bounds_of_a_file_are_read(no_gpu: None, tmp_path: Path) -> None:
    sources = [f"part{number}.json" for number in range(MAX_VALUES - 5)]
    path = config_file(tmp_path, f"data: {{train: [{', '.join(sources)}]}}\n#")
    assert load_config(["--config", path], "x.py").config.data.train == sources
    size = Path(path).stat().st_size
    path = config_file(tmp_path, Path(path).read_text(encoding="utf-8") + "#" * (MAX_BYTES - size))
    assert Path(path).stat().st_size == MAX_BYTES
    assert load_config(["--config", path], "x.py").config.data.train == sources


def test_faults_beyond_a_screenful_are_not_all_looked_up(no_gpu: None, tmp_path: Path) -> None:
    said = faults(tmp_path, "".join(f"kes{number}: 1\n" for number in range(1000)))
    assert said.startswith(f"the configuration has more than {MAX_FAULTS} fault(s):")
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
        (["--lora", '{"a":' * 3000], "command line: "),
        (["--without_gpu", "x" * 5000], "invalid choice: 'xxx"),
        (["--train.seed", "9" * 5000], "… (5002 characters)"),
        (["--" + "y" * 5000], "… (5000 characters)"),
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
    text = faults(tmp_path, "{}", *argv)
    assert said in text
    assert all(len(line) < 500 for line in text.splitlines())


def test_started_from_another_folder_the_message_says_where_to_start(tmp_path: Path) -> None:
    start = f"(there is one in the project's folder; start from there: cd {ROOT})"
    done = run_script(str(ROOT / "train_qwen_gaokao.py"), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        f"error: config.yaml: there is no such configuration file; give one with --config FILE {start}\n",
    )
    done = run_script(str(ROOT / "train_qwen_gaokao.py"), "--config", ROOT / "config.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: gaokao_data/train.json: there is no such data file;") and start in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1\nb: 2", "is not YAML"),
        ("- a\n- b", "holds list instead of the sections"),
        ("train: 5", "train must hold keys of its own, not 5"),
        ("without_gpu: 5", "without_gpu must hold sections, or be null"),
        ("model: {}\nwithout_gpu:\n  train: 5", "c.yaml:3: without_gpu.train must hold keys of its own, not 5"),
    ],
)
def test_a_file_that_is_not_sections_is_refused(no_gpu: None, tmp_path: Path, text: str, said: str) -> None:
    assert said in faults(tmp_path, text)


@pytest.mark.parametrize("text", ["train: 5\n", "train: [1]\n", "without_gpu: {train: 5}\n"])
def test_an_option_does_not_hide_a_section_that_is_none(no_gpu: None, tmp_path: Path, text: str) -> None:
    said = faults(tmp_path, text, "--train.seed", "1")
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


@pytest.mark.parametrize("script", ["train_qwen_gaokao.py", "infer_qwen_gaokao.py"])
def test_help_lists_every_key_without_loading_torch(script: str) -> None:
    done = run_script(script, "--help")
    assert done.returncode == 0
    for section, values in Config().model_dump(exclude={"without_gpu"}).items():
        for key in values:
            assert f"--{section}.{key}" in done.stdout
    for name, field in TrainConfig.model_fields.items():
        assert field.description, name


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


def test_faults_answer_before_any_heavy_import() -> None:
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
