"""Generate gaokao questions with base + adapter, and score them where the data carry references.

python infer_qwen_gaokao.py                            # the adapter that train_qwen_gaokao.py wrote
python infer_qwen_gaokao.py --adapter none             # the bare base model, to compare with
python infer_qwen_gaokao.py --adapter DIR --data.test my_passages.jsonl
python infer_qwen_gaokao.py --help                     # every key of config.yaml
"""

import time
from pathlib import Path
from typing import Any

from evaluate import summarize, summary_text
from gaokao.config import Resolved, load_config, require_device
from gaokao.console import banner, quiet_libraries, sample_text
from gaokao.errors import Interrupted, run_script
from gaokao.records import Record, load_records
from gaokao.runs import ADAPTER, GENERATED, GENERATED_BASE, make_folder, set_aside, write_json

BARE_BASE = "none"


def main(argv: list[str]) -> None:
    """Config -> records -> base + adapter -> generated questions -> scores."""
    resolved = load_config(argv, prog="infer_qwen_gaokao.py", shortcuts={"generate.adapter": "adapter"})
    config = resolved.config
    records = load_records(config.data.test, purpose="generate")[: config.generate.limit]
    require_device(resolved)
    bare = config.generate.adapter == BARE_BASE
    folder = config.run_folder / (GENERATED_BASE if bare else GENERATED)
    entries = generate_questions(resolved, records, folder, bare)
    report(resolved, entries, folder)


def generate_questions(resolved: Resolved, records: list[Record], folder: Path, bare: bool) -> list[dict[str, Any]]:
    """Everything that needs torch; returns the entries in input order."""
    quiet_libraries()
    from tqdm import tqdm

    from gaokao import generation, models

    config, on_gpu = resolved.config, resolved.gpus > 0
    models.check_devices(resolved.gpus)
    device = "cuda:0" if on_gpu else "cpu"
    dtype = models.choose_dtype(config.model.dtype, on_gpu)
    attention = models.choose_attention(config.model.attention, on_gpu)

    # 1. Base and adapter: an adapter of another base is refused before the base is loaded.
    adapter = None if bare else Path(config.generate.adapter or config.run_folder / ADAPTER)
    if adapter is not None:
        models.require_adapter_files(adapter)
    make_folder(Path(config.output.dir))
    base = models.locate_base(
        config.model.base,
        config.model.hub,
        config.model.revision,
        Path(config.output.dir),
        print,
        trust_remote_code=config.model.trust_remote_code,
    )
    tokenizer = models.load_tokenizer(base, config.model.trust_remote_code)
    if adapter is not None:
        now = models.adapter_record(config.model.base, base, config.model.quantization, tokenizer)
        models.check_adapter(adapter, now)
    model: Any = models.load_base(
        base,
        quantization=config.model.quantization,
        dtype=dtype.value,
        attention=attention.value,
        device=device,
        trust_remote_code=config.model.trust_remote_code,
    )
    context = model.config.max_position_embeddings
    choices = {"dtype": dtype, "attention": attention}
    if adapter is not None:
        model, choices["adapter"] = models.merge_if_plain(
            models.load_adapter(model, adapter), config.model.quantization
        )
    if config.generate.torch_compile:
        models.compile_forward(model)
    print(
        banner(
            resolved,
            device=device,
            base=f"{config.model.base}, quantization {config.model.quantization}, "
            + ("NO ADAPTER: the bare base model" if adapter is None else f"adapter {adapter}"),
            **choices,
        )
    )

    # 2. Generate, every finished item on disk at once.
    settings = generation.generation_config(tokenizer, **config.generate.model_dump(include=generation.SAMPLING_KEYS))
    prompts = generation.build_prompts(records, tokenizer, settings.max_new_tokens, context)
    aside = set_aside(folder)
    make_folder(folder)
    if aside:
        print(f"earlier   questions were moved to {aside}")
    entries: dict[int, dict[str, Any]] = {}
    lines = generation.ResultLines(folder / "questions.jsonl")
    started, tokens = time.time(), 0
    with tqdm(total=len(prompts), unit="item", dynamic_ncols=True) as bar:

        def tick(new: int) -> None:
            nonlocal tokens
            tokens += new
            bar.set_postfix_str(f"{tokens} tokens, {tokens / (time.time() - started):.0f} tokens/s", refresh=False)
            bar.update(0)

        try:
            for output in generation.generate(
                model,
                tokenizer,
                prompts,
                settings,
                batch_size=config.generate.batch_size,
                seed=config.generate.seed,
                tick=tick,
            ):
                entry = generation.result_entry(
                    records[output.position],
                    tokenizer.decode(prompts[output.position]),
                    output,
                    BARE_BASE if adapter is None else str(adapter),
                )
                lines.add(entry)
                entries[output.position] = entry
                bar.update(1)
        except KeyboardInterrupt:
            raise Interrupted(
                f"{len(entries)} of {len(prompts)} items are finished and kept in {folder / 'questions.jsonl'}; score "
                f"them with python evaluate.py {folder / 'questions.jsonl'}"
            ) from None
        finally:
            lines.close()
    ordered = [entries[index] for index in range(len(prompts))]
    write_json(folder / "questions.json", ordered)
    print(f"wrote     {len(ordered)} questions, {tokens} tokens in {time.time() - started:.0f} s")
    return ordered


def report(resolved: Resolved, entries: list[dict[str, Any]], folder: Path) -> None:
    """Scores, and two questions to read."""
    settings = resolved.config.evaluate
    summary = summarize(entries, settings.floor_rounds, settings.seed)
    write_json(folder / "scores.json", summary)
    for entry in entries[: settings.samples]:
        print(sample_text(entry))
    print(summary_text(summary))
    print(f"files     {folder / 'questions.json'}, {folder / 'scores.json'}")


if __name__ == "__main__":
    run_script(main)
