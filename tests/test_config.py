"""One file configures everything, and every fault in it is named with its place and the nearest key."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, run_script

from gaokao import config as config_module
from gaokao.config import Config, load_config, require_device
from gaokao.errors import UserError


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_module, "cuda_gpus", lambda: 0)


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_module, "cuda_gpus", lambda: 1)


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


@pytest.mark.parametrize("name", ["", "a/b", "..", "C:x"])
def test_a_run_name_that_is_a_path_is_refused(no_gpu: None, tmp_path: Path, name: str) -> None:
    assert "plain folder name" in faults(tmp_path, f"output: {{run: {name!r}}}\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1\nb: 2", "is not YAML"),
        ("- a\n- b", "holds list instead of the sections"),
        ("train: 5", "train must hold keys of its own, not 5"),
        ("without_gpu: 5", "without_gpu must hold sections, or be null"),
    ],
)
def test_a_file_that_is_not_sections_is_refused(no_gpu: None, tmp_path: Path, text: str, said: str) -> None:
    assert said in faults(tmp_path, text)


def test_a_missing_file_is_named(no_gpu: None) -> None:
    with pytest.raises(
        UserError, match=r"nope\.yaml: there is no such configuration file; give one with --config FILE"
    ):
        load_config(["--config", "nope.yaml"], "x.py")


def test_a_file_that_is_not_utf8_is_named(no_gpu: None, tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_bytes("# 训练\ntrain: {}".encode("gb18030"))
    with pytest.raises(UserError, match="is not UTF-8 text"):
        load_config(["--config", str(tmp_path / "g.yaml")], "x.py")


@pytest.mark.parametrize("script", ["train_qwen_gaokao.py", "infer_qwen_gaokao.py"])
def test_help_lists_every_key_without_loading_torch(script: str) -> None:
    done = run_script(script, "--help")
    assert done.returncode == 0
    for section, values in Config().model_dump(exclude={"without_gpu"}).items():
        for key in values:
            assert f"--{section}.{key}" in done.stdout
    for name, field in config_module.TrainConfig.model_fields.items():
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
