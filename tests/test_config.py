"""What every key of config.yaml takes and refuses, and that trl knows those of the section train."""

import dataclasses
import os
from typing import Any

import pytest
from pydantic import ValidationError

from gaokao.config import Config, TrainConfig

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
    "model.hub": (
        "huggingface",
        ["huggingface", "modelscope", "https://hf-mirror.com", "http://10.0.0.1:8080/hub"],
        ["github", "hf-mirror.com", "ftp://a.b", "https://", "https://a b", "https://a?b", None],
    ),
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
        ["", [], "(", "q proj", ["all-linear", "q_proj"], ["q_proj", "lm_head"], [5], None],
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
    "train.gradient_checkpointing": ("auto", ["auto", True, False], ["maybe", 2, None]),
    "train.logging_steps": (1, COUNT, NO_COUNT),
    "train.eval_steps": (20, [None, *COUNT], NO_COUNT),
    "train.early_stopping": (None, [None, 1, 10**6], [0, 10**6 + 1]),
    "train.keep": ("best", ["best", "last"], ["first", None]),
    "train.save_steps": (50, COUNT, NO_COUNT),
    "train.save_minutes": (20, [None, 0.01, 10**6], [0, 0.009, 10**6 + 1, *NUMBERS[:-1]]),
    "train.save_total_limit": (2, [2, 10**6], [1, 10**6 + 1]),
    "train.report_to": (
        "none",
        ["none", "tensorboard", "wandb", "swanlab", "mlflow", "trackio"],
        ["all", "TensorBoard", None],
    ),
    "train.resume": ("auto", ["auto", True, False], ["maybe", 2, None]),
    "train.seed": (42, SEEDS, NOT_SEEDS),
    "evaluate.chance_rounds": (20, [1, 1000], [0, 1001]),
    "evaluate.samples": (2, [0, 100], [-1, 101]),
    "evaluate.language": ("zh", ["zh", "en"], ["de", "", None]),
    "evaluate.seed": (0, SEEDS, NOT_SEEDS),
    "evaluate.solve_back": (0, [0, 8], [-1, 9, 1.5, True, None]),
    "evaluate.judge": (False, SWITCH, NO_SWITCH),
    "evaluate.base_url": (None, [None, *NAMES], NO_NAMES),
    "evaluate.served_model": (None, [None, *NAMES], NO_NAMES),
    "evaluate.api_key_env": (None, [None, *NAMES], NO_NAMES),
    "evaluate.concurrency": (16, [1, 4096], [0, 4097, 1.5, None]),
    "generate.adapter": ("auto", ["auto", "none", *NAMES], [*NO_NAMES, None]),
    "generate.engine": ("transformers", ["transformers", "openai"], ["vllm", "", None]),
    "generate.base_url": (None, [None, *NAMES], NO_NAMES),
    "generate.served_model": (None, [None, *NAMES], NO_NAMES),
    "generate.api_key_env": (None, [None, *NAMES], NO_NAMES),
    "generate.concurrency": (16, [1, 4096], [0, 4097, 1.5, None]),
    "generate.other_quantization": (False, SWITCH, NO_SWITCH),
    "generate.batch_size": ("auto", ["auto", 1, 4096], [0, 4097, 1.5, 10**30, True, None, "many"]),
    "generate.limit": (None, [None, *COUNT], NO_COUNT),
    "generate.questions_per_record": (1, [1, 1000], [0, 1001, 1.5, None]),
    "generate.attempts": (3, [1, 100], [0, 101, 1.5, True, None]),
    "generate.solve_back": (0, [0, 8], [-1, 9, 1.5, True, None]),
    "generate.max_new_tokens": (1280, [1, 32768], [0, 32769, 10**30]),
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


def test_the_folder_of_all_runs_may_be_in_the_home_folder() -> None:
    assert with_value("output.dir", "~/runs") == os.path.expanduser("~/runs")


def test_the_address_of_a_mirror_is_taken_without_its_last_slash() -> None:
    assert with_value("model.hub", "https://hf-mirror.com/") == "https://hf-mirror.com"


def test_every_key_of_train_is_one_of_trl_or_handled_in_training() -> None:
    # Any other would die as an unexpected argument, after the model was loaded.
    from trl import SFTConfig

    from gaokao.training import OWN_KEYS

    known = {field.name for field in dataclasses.fields(SFTConfig)} | OWN_KEYS
    assert set(TrainConfig.model_fields) <= known
    assert set(TrainConfig.model_fields) >= OWN_KEYS
