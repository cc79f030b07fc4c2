"""What several tests need: valid records, a config without surprises, and one very small base for the session."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The libraries must not look for a network: a test that needs one is wrong.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# Threads cost models as small as these more than they save: on two busy cores, seconds become minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell that starts the tests in the background lets them, and what they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


def record_row(number: int = 0, **changes: Any) -> dict[str, Any]:
    """A valid record in the keys of a data file."""
    row = {
        "id": f"r{number}",
        "subject": "生物",
        "type": "单选题",
        "课本内容": f"细胞是生物体结构和功能的基本单位，第{number}段。",
        "课外内容": "",
        "question": f"第{number}题。下列叙述正确的是\nA．甲\nB．乙\nC．丙\nD．丁",
        "answer": "B",
        "analysis": f"乙符合事实，其余不符合，这是第{number}条。故选B。",
    }
    return {**row, **changes}


def run_arguments(base: Path, folder: Path, **options: Any) -> list[str]:
    """What training and inference need to be quick on twenty records: their data, a few steps, short answers."""
    data = folder / "data.json"
    data.write_text(json.dumps([record_row(number) for number in range(20)], ensure_ascii=False), encoding="utf-8")
    values = {
        "model.base": base, "data.train": data, "data.test": data, "output.dir": folder / "out", "train.max_steps": 3,
        "train.max_length": 256, "train.eval_steps": 2, "lora.r": 4, "generate.max_new_tokens": 8,
    }  # fmt: skip
    return [f"--{key}={value}" for key, value in (values | options).items()]


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """Write rows to a JSON file and give its path."""

    def write(rows: list[Any], name: str = "data.json") -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base made by the code of the built-in one, but with a few steps of a narrow model: seconds, not minutes."""
    from gaokao import tiny

    recipe = tiny.Recipe(
        vocabulary=2048,
        hidden=64,
        layers=2,
        heads=2,
        key_value_heads=1,
        intermediate=128,
        steps=40,
        rows=4,
        row_tokens=64,
    )
    return tiny.build(tmp_path_factory.mktemp("base"), lambda line: None, recipe=recipe)


@pytest.fixture(scope="session")
def random_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of random weights, so widely spread that every prompt is answered differently; made in a second.

    A base that learnt a little says the same to every prompt, and a fault in padding, mask or cache would not show. It has
    no window, as Qwen2.5 has none, so that every token of a prompt counts.
    """
    import torch

    from gaokao import tiny
    from gaokao.records import load_records

    recipe = tiny.Recipe(vocabulary=1024, hidden=64, layers=2, heads=2, key_value_heads=1, intermediate=128)
    records = load_records(ROOT / "gaokao_data" / "train.json")[:40]
    tokenizer = tiny.train_tokenizer([piece for record in records for piece in tiny.plain_pieces(record)], recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = tiny.new_model(recipe, len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id)
        for weight in model.parameters():
            if weight.ndim == 2:
                torch.nn.init.normal_(weight, std=0.3)
        # An answer that ends with its first token would be the same as any other.
        model.lm_head.weight.data[[tokenizer.pad_token_id, tokenizer.eos_token_id]] = 0
    layers = ["full_attention"] * recipe.layers
    model.config.update({"use_sliding_window": False, "sliding_window": None, "layer_types": layers})
    folder = tmp_path_factory.mktemp("random") / "base"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run_script(script: str, *arguments: str | Path, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run an entry script of the project as a user does."""
    return subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        cwd=kwargs.pop("cwd", ROOT),
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **kwargs.pop("env", {})},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
        **kwargs,
    )


def quiet(line: str) -> None:
    """A `say` that says nothing."""


def chosen(folder: Path, quantization: str = "nf4", dtype: str = "fp32") -> Any:
    """A base on the CPU, chosen as the scripts choose theirs."""
    from gaokao import models

    return models.choose_base(
        base=str(folder), quantization=quantization, dtype=dtype, attention="sdpa", tiny_folder=folder, gpus=0
    )


def load(folder: Path, quantization: str = "nf4", dtype: str = "fp32") -> Any:
    """That base, loaded."""
    from gaokao import models

    return models.load_base(chosen(folder, quantization, dtype))


TEXT = "题干：下列正确的是\nA．甲\nB．乙\nC．丙\nD．丁\n参考答案：B\n解析：乙符合事实。故选B。"


def entry(text: Any = TEXT, **changes: Any) -> dict[str, Any]:
    """An entry of a results file; records of different ids have different passages."""
    return {
        "id": "r0",
        "subject": "生物",
        "type": "单选题",
        "课本内容": f"细胞是生物体结构和功能的基本单位，{changes.get('id', 'r0')}。",
        "课外内容": "",
        "text": text,
        "finish_reason": "stop",
        "reference": TEXT,
        "adapter": "a",
        **changes,
    }


def item(text: Any = TEXT, **changes: Any) -> Any:
    """That entry as it is read back."""
    from gaokao.results import Generated

    return Generated.from_dict(entry(text, **changes))


def write_results(path: Path, entries: list[Any], **options: Any) -> Path:
    lines = [json.dumps(value, ensure_ascii=False, **options) for value in entries]
    text = "\n".join(lines) + "\n" if path.suffix == ".jsonl" else f"[{', '.join(lines)}]"
    path.write_text(text, encoding="utf-8")
    return path


PASSAGE = (
    "光合作用的过程包括光反应和暗反应两个阶段。光反应在类囊体薄膜上进行，水被分解为氧气和还原氢，同时合成ATP；"
    "暗反应在叶绿体基质中进行，二氧化碳被固定和还原，形成糖类等有机物。"
)
NEWS = (
    "近日，某研究团队在盐碱地上种植耐盐水稻，亩产超过五百公斤。团队介绍，这种水稻的根系能够把多余的钠离子排出细胞，"
    "并在液泡中积累剩余部分，从而维持细胞内的渗透平衡。"
)


def save_adapter(folder: Path, target: Path, quantization: str = "nf4") -> Path:
    """An adapter on that base, not trained, but with weights that do something."""
    import torch
    from peft import LoraConfig, get_peft_model

    from gaokao import adapters

    torch.manual_seed(0)
    model = get_peft_model(
        load(folder, quantization), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    base = chosen(folder, quantization)
    target.parent.mkdir(exist_ok=True)
    adapters.save_adapter(model, base.tokenizer, adapters.adapter_record(base), target)
    return target


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, organization or proxy of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith("OPENAI_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
