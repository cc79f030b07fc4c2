"""Generate gaokao questions with base + adapter, check them, and score them where the data carry references.

python infer_qwen_gaokao.py                      # the adapter that train_qwen_gaokao.py wrote
python infer_qwen_gaokao.py --adapter none       # the bare base model, to compare with
python infer_qwen_gaokao.py --adapter DIR --data.test my_passages.jsonl
python infer_qwen_gaokao.py --help               # its keys of config.yaml
"""

import os
import signal
from pathlib import Path
from typing import Any

from evaluate import summarize, summary_text
from gaokao.config import AUTO_ADAPTER, BARE_BASE, OTHER_DIR, OTHER_RUN, Config
from gaokao.console import banner, closing_line, quiet_libraries, sample_text
from gaokao.errors import UserError, run_script
from gaokao.records import Record, load_records
from gaokao.results import Generated
from gaokao.runs import ADAPTER, GENERATED, GENERATED_BASE, lock, make_folder, set_aside, write_json
from gaokao.settings import Resolved, load_config, require_device


def main(argv: list[str]) -> None:
    """Config -> records -> base + adapter -> generated questions -> checks and scores."""
    # What stops a job (timeout, kill, a scheduler) keeps the finished questions as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    resolved = load_config(
        argv,
        prog="infer_qwen_gaokao.py",
        description=__doc__,
        explain=("generate", "data", "model", "output", "evaluate"),
        shortcuts={"generate.adapter": "adapter"},
    )
    config = resolved.config
    require_one_process()
    records = load_records(config.data.test, "generate", "data.test")[: config.generate.limit]
    require_device(resolved)
    adapter = adapter_folder(config)
    require_adapter(adapter)
    folder = make_folder(config.run_folder, OTHER_DIR) / (GENERATED_BASE if adapter is None else GENERATED)
    with lock(folder, "python infer_qwen_gaokao.py", OTHER_RUN):
        model, tokenizer = load(resolved, adapter)
        report(resolved, write(resolved, records, model, tokenizer, adapter, folder), folder)


def require_one_process() -> None:
    """Several processes would write the same questions to one folder.

    Raises:
        UserError: torchrun or accelerate started more than one.
    """
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes not in ("", "0", "1"):
        raise UserError(
            f"{processes} processes were started (WORLD_SIZE), but inference runs as one, on one GPU: start it with "
            "python infer_qwen_gaokao.py. For several GPUs, split the records and start one for each, with "
            "CUDA_VISIBLE_DEVICES, --adapter DIR, and --data.test and --output.run of its own"
        )


def adapter_folder(config: Config) -> Path | None:
    """The adapter to use; `None` for the bare base model."""
    if config.generate.adapter == BARE_BASE:
        return None
    return config.run_folder / ADAPTER if config.generate.adapter == AUTO_ADAPTER else Path(config.generate.adapter)


def require_adapter(adapter: Path | None) -> None:
    """An adapter that is not there is named before a folder is made and a base is downloaded."""
    quiet_libraries()
    from gaokao import adapters

    if adapter is not None:
        adapters.require_adapter_files(adapter)


def load(resolved: Resolved, adapter: Path | None) -> tuple[Any, Any]:
    """Base and adapter, and the tokenizer; an adapter of another base is refused before the base is loaded."""
    from gaokao import adapters, models

    config = resolved.config
    base = models.choose_base(**config.model.model_dump(), tiny_folder=Path(config.output.dir), gpus=resolved.gpus)
    if adapter is not None:
        adapters.check_adapter(adapter, adapters.adapter_record(base))
    model: Any = models.load_base(base)
    words = "none: the bare base model"
    if adapter is not None:
        model, merged = adapters.merge_if_plain(adapters.load_adapter(model, adapter), base.quantization)
        words = f"{adapter}, {merged.value} ({merged.reason})"
    if config.generate.torch_compile:
        models.compile_forward(model)
    print(banner(resolved, base, adapter=words, several_gpus=False))
    return model, base.tokenizer


def write(
    resolved: Resolved, records: list[Record], model: Any, tokenizer: Any, adapter: Path | None, folder: Path
) -> list[Generated]:
    """The questions in the order of the records, every finished one on disk at once."""
    from gaokao import generation

    options = resolved.config.generate
    settings = generation.generation_config(tokenizer, **options.model_dump(include=generation.SAMPLING_KEYS))
    context = model.config.max_position_embeddings
    prompts = generation.build_prompts(records, tokenizer, options.max_new_tokens, context)
    if aside := set_aside(folder):
        print(f"earlier   questions were moved to {aside}")
    items = generation.write_questions(
        model,
        tokenizer,
        records,
        prompts,
        settings,
        make_folder(folder, OTHER_DIR) / "questions.jsonl",
        adapter=BARE_BASE if adapter is None else str(adapter),
        batch_size=options.batch_size,
        seed=options.seed,
    )
    write_json(folder / "questions.json", [item.to_dict() for item in items])
    return items


def report(resolved: Resolved, items: list[Generated], folder: Path) -> None:
    """Two questions to read, and what the checks and the references say of all."""
    settings = resolved.config.evaluate
    summary = summarize(items, settings.chance_rounds, settings.seed)
    write_json(folder / "scores.json", summary)
    for item in items[: settings.samples]:
        print(sample_text(item))
    print(summary_text(summary))
    print(f"files     {folder / 'questions.json'}, {folder / 'scores.json'}")
    if note := closing_line(resolved):
        print(note)


if __name__ == "__main__":
    run_script(main)
