"""What an exported model says of itself: its card (README.md) with data, settings, figures and licence, and its Modelfile."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gaokao.figures import summary_text
from gaokao.prompts import prepare_input
from gaokao.records import Record

CHATML = "<|im_start|>"
# The first words of the licences that bases usually have, and what the hub calls them.
LICENCES = {"apache license": "apache-2.0", "mit license": "mit"}
EXAMPLE = Record(id="", subject="历史", type="单选题", textbook="（课本内容）", outside="（课外内容，可以没有）")


def model_card(name: str, record: Mapping[str, Any], scores: Mapping[str, Any], onto: str, licence: Path) -> str:
    """The card of a model, in Markdown.

    Args:
        name: of the model.
        record: of the run, `run.json`.
        scores: of the questions that the run has generated, `scores.json`; empty where there are none.
        onto: what the adapter was merged into, in words.
        licence: the base's own licence, a file that need not be there.
    """
    base, config = record["adapter"]["base"], record["config"]
    # A folder's path says nothing to others.
    hub = base if base.count("/") == 1 and not base.startswith((".", "/", "~")) else None
    head = {
        "language": "zh",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": _licence_name(licence),
        "tags": ["gaokao"],
        **({"base_model": hub} if hub else {}),
    }
    settings = {section: config[section] for section in ("lora", "train")}
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False).strip()}\n---",
        f"# {name}",
        f"Writes a gaokao (高考) question with answer and explanation from a textbook passage (课本内容) and an outside passage "
        f"(课外内容). It is {hub or Path(base).name} with a LoRA adapter merged into {onto}.{_otherwise(record, onto)}",
        "Its questions can be wrong in their facts and keys: a teacher must check every one.",
        f"## Prompt\n\nChat messages, filled in for one subject and type:\n\n{_prompt()}",
        f"## Data\n\n{_data(record)}",
        f"## Figures\n\n{_figures(record, scores)}",
        f"## Settings\n\n```yaml\n{yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).strip()}\n```",
        f"## Use\n\n{_use()}",
        f"## Licence\n\n{_licence_text(licence, hub or Path(base).name)}",
    ]
    return "\n\n".join(parts) + "\n"


def modelfile(chat_template: str, settings: Mapping[str, Any]) -> str:
    """What `ollama create` reads: weights, template and sampling. https://docs.ollama.com/modelfile

    Args:
        chat_template: of the tokenizer; one that is not ChatML is left to Ollama to recognize.
        settings: the section generate of a configuration.
    """
    lines = ["FROM ."]
    if CHATML in chat_template:
        lines += [
            'TEMPLATE """{{- range .Messages }}<|im_start|>{{ .Role }}',
            "{{ .Content }}<|im_end|>",
            "{{ end }}<|im_start|>assistant",
            '"""',
            'PARAMETER stop "<|im_end|>"',
            'PARAMETER stop "<|endoftext|>"',
        ]
    values = {
        "temperature": settings["temperature"] if settings["do_sample"] else 0,
        "top_p": settings["top_p"],
        "top_k": 0,
        "repeat_penalty": settings["repetition_penalty"],
        "num_predict": settings["max_new_tokens"],
        "num_ctx": 4096,
    }
    return "\n".join([*lines, *(f"PARAMETER {name} {value}" for name, value in values.items())]) + "\n"


def _otherwise(record: Mapping[str, Any], onto: str) -> str:
    trained = record["adapter"]["quantization"]
    if trained == "none" or trained.upper() in onto:
        return ""
    return (
        f" It was trained on {trained} weights, around their rounding errors; these weights do not have them, so it is not "
        "to the last digit the model that was trained."
    )


def _prompt() -> str:
    turns = "\n".join(f"{turn['role']}: {turn['content']}" for turn in prepare_input(EXAMPLE))
    return f"```text\n{turns}\n```"


def _data(record: Mapping[str, Any]) -> str:
    data = record["data"]
    files = [data["file"]] if isinstance(data["file"], str) else data["file"]
    names = ", ".join(f"`{Path(name).name}`" for name in files)
    text = (
        f"{data['records']} records of {names} (fingerprint {record['decisive']['data.train']}): {data['train']} learnt, "
        f"{len(data['validation'])} held out for validation, {len(data['overlong'])} left out as too long."
    )
    return f"{text} General chats were mixed in." if data["mix"] else text


def _figures(record: Mapping[str, Any], scores: Mapping[str, Any]) -> str:
    metrics = record["metrics"]
    lines = [f"Adapter of step {record['adapter_step']} of {record['steps']}: {record['adapter_step_reason']}."]
    rows = [
        f"| {name} loss | {metrics[f'{name}_loss_first']:.3f} | {metrics[f'{name}_loss_last']:.3f} |"
        for name in ("train", "validation")
        if f"{name}_loss_first" in metrics
    ]
    if rows:
        lines.append("\n".join(["| per completion token | first | last |", "|---|---|---|", *rows]))
    try:
        written = summary_text(scores) if scores else ""
    except (LookupError, TypeError):
        # Of an earlier version of this project.
        written = ""
    lines.append(
        f"Questions that the adapter wrote before it was merged:\n\n```text\n{written}\n```"
        if written
        else "No questions have been generated and scored in this run."
    )
    return "\n\n".join(lines)


def _use() -> str:
    return """```bash
vllm serve . --served-model-name gaokao --max-model-len 4096
ollama create gaokao -f Modelfile
```

Then, in the project that it was trained with, `--generate.engine openai --generate.base_url http://127.0.0.1:8000/v1
--generate.served_model gaokao` (Ollama: port 11434)."""


def _licence_name(licence: Path) -> str:
    start = licence.read_text(encoding="utf-8", errors="replace")[:300].lower() if licence.exists() else ""
    return next((name for words, name in LICENCES.items() if words in start), "other")


def _licence_text(licence: Path, base: str) -> str:
    if licence.exists():
        return (
            f"That of the base, {base}: see LICENSE in this folder. The questions it learnt from have one of their own."
        )
    return (
        f"That of the base, {base}, which came without a file of its licence: look it up where the base was published, and "
        "add it before passing this model on. The questions it learnt from have one of their own."
    )
