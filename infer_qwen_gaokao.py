"""Generate gaokao questions with base + adapter, check them, and score them where the data carry references.

python infer_qwen_gaokao.py                      # the adapter that train_qwen_gaokao.py wrote; again: goes on
python infer_qwen_gaokao.py --adapter none       # the bare base model, to compare with
python infer_qwen_gaokao.py --adapter DIR --data.test my_passages.jsonl
python infer_qwen_gaokao.py --textbook chapter.txt --subject 历史 --type 单选题 --count 5
torchrun --nproc_per_node 8 infer_qwen_gaokao.py # on eight GPUs
"""

import argparse
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from evaluate import summarize
from gaokao import chapters, runs, solving, writing
from gaokao.config import AUTO_ADAPTER, BARE_BASE, OPENAI, OTHER_DIR, OTHER_RUN, Config
from gaokao.console import closing_line, quiet_libraries, sample_text
from gaokao.errors import run_script
from gaokao.figures import summary_text
from gaokao.gate import Gate, load_training_questions
from gaokao.pictures import draw_usable
from gaokao.records import Record, load_records
from gaokao.report import write_report
from gaokao.results import PICTURE, REPORT, SCORES, Generated, read_results
from gaokao.settings import Resolved, load_config, require_device


def main(argv: list[str]) -> None:
    """Config -> records -> base + adapter, or a server -> generated questions -> checks and scores."""
    # What stops a job (timeout, kill, a scheduler) keeps the finished questions as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    resolved = load_config(
        argv,
        prog="infer_qwen_gaokao.py",
        description=__doc__,
        explain=("generate", "data", "model", "output"),
        shortcuts={"generate.adapter": "adapter"},
        add=add_options,
    )
    config = resolved.config
    chapter = chapters.asked(resolved.actions)
    records = chapter.records if chapter else load_records(config.data.test, "generate", "data.test")
    options = config.generate
    records = writing.several(records[: options.limit], options.questions_per_record, options.do_sample)
    adapter = adapter_folder(config)
    engine = server(config) if config.generate.engine == OPENAI else local(resolved, adapter)
    solver = solving.for_inference(config, engine)
    name = runs.GENERATED_BASE if adapter is None else runs.GENERATED
    folder = runs.make_folder(config.run_folder, OTHER_DIR) / (f"{name}_{chapter.name}" if chapter else name)
    with runs.lock(folder, "python infer_qwen_gaokao.py", OTHER_RUN) if engine.process == 0 else nullcontext():
        items = write(resolved, records, engine, solver, adapter, folder)
        if engine.process == 0 and not items and not (folder / REPORT).exists():
            # An earlier run was stopped between the questions and their scores.
            items = read_results(folder / writing.QUESTIONS)
        if items and engine.process == 0:
            report(resolved, items, folder)
        # The lock is that of all processes.
        engine.meet()


def add_options(parser: argparse.ArgumentParser) -> None:
    """What this command can be asked for beside the keys of config.yaml."""
    chapters.add_options(parser)
    parser.add_argument("--restart", action="store_true", help="set the questions of this run aside and draw anew")


def adapter_folder(config: Config) -> Path | None:
    """The adapter to use; `None` for the bare base model."""
    if config.generate.adapter == BARE_BASE:
        return None
    return (
        config.run_folder / runs.ADAPTER if config.generate.adapter == AUTO_ADAPTER else Path(config.generate.adapter)
    )


def local(resolved: Resolved, adapter: Path | None) -> Any:
    """The model at hand; a wrong adapter is named before a folder is made and a base is downloaded."""
    require_device(resolved)
    quiet_libraries()
    from gaokao import adapters, generation

    if adapter is not None:
        adapters.require_adapter(adapter, resolved.config.model.base)
    runs.make_folder(Path(resolved.config.output.dir), OTHER_DIR)
    return generation.Local(resolved, adapter)


def server(config: Config) -> Any:
    """A model behind an address; neither torch nor a base is needed."""
    from gaokao import served

    return served.connect(config.generate)


def write(
    resolved: Resolved, records: list[Record], engine: Any, solver: Any, adapter: Path | None, folder: Path
) -> list[Generated]:
    """The questions in the order of the records, every draft on disk at once; nothing where they are there already."""
    options = resolved.config.generate
    training = load_training_questions(adapter)
    if adapter is not None and not training and engine.process == 0:
        print(f"gate      {adapter} holds no training questions, so that a question that repeats one is not noticed")
    gate = Gate(records, training)
    return writing.write_questions(
        records,
        engine,
        gate,
        folder,
        # The likeliest tokens are the same every time.
        attempts=options.attempts if options.do_sample else 1,
        seed=options.seed,
        restart=resolved.actions.restart,
        solver=solver,
    )


def report(resolved: Resolved, items: list[Generated], folder: Path) -> None:
    """Questions to read, and what the checks and the references say of all."""
    settings = resolved.config.evaluate
    summary = summarize(items, settings.chance_rounds, settings.seed)
    runs.write_json(folder / SCORES, summary)
    draw_usable([(folder / writing.QUESTIONS, items)], folder / PICTURE)
    write_report(folder / REPORT, items, summary)
    for item in items[: settings.samples]:
        print(sample_text(item))
    print(summary_text(summary))
    print(f"files     {', '.join(str(folder / name) for name in (writing.QUESTIONS, SCORES, PICTURE, REPORT))}")
    if resolved.config.generate.engine != OPENAI and (note := closing_line(resolved)):
        print(note)


if __name__ == "__main__":
    run_script(main)
