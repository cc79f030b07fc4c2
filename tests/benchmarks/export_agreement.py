"""How far an exported model is from base + adapter as they were, on answers that are known (teacher-forced).

    python -m tests.benchmarks.export_agreement --base DIR --adapter outputs/my/adapter --data data/test.json --out DIR
    python -m tests.benchmarks.export_agreement --base DIR --adapter outputs/my/adapter --data data/test.json --out DIR --onto dequantized

Merges the adapter into files below --out and compares them with the unmerged model: for --onto dequantized with the NF4 base,
otherwise with the unquantized one. Prints, over the positions of all answers, the share at which both models put the same
token first and the largest difference between two logits; with both models computing in bf16, as they are served, and in fp32,
where only the rounding of the merged weights is left. With --trained nf4 the merge into the bf16 base is compared with the NF4
model that was trained.
Prints the peak memory of the process after merging as well; the largest file is what it is to be compared with.
"""

import argparse
import resource
import shutil
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from gaokao import adapters, models
from gaokao.prompts import format_chat
from gaokao.records import load_records
from gaokao.splits import example_ids


def main() -> None:
    """Merge, then compare in both types."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="folder of a real model")
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="records with answers")
    parser.add_argument("--out", type=Path, required=True, help="folder that the merged model goes to; replaced")
    parser.add_argument("--onto", choices=["base", "dequantized"], default="base")
    parser.add_argument("--trained", choices=["none", "nf4"], help="quantization of the unmerged model")
    parser.add_argument("--dtype", choices=list(models.DTYPES), default="bf16", help="of the base as it was quantized")
    parser.add_argument("--answers", type=int, default=20)
    parser.add_argument("--compute", choices=["bf16", "fp32"], nargs="+", default=["bf16", "fp32"])
    options = parser.parse_args()
    trained = options.trained or ("nf4" if options.onto == "dequantized" else "none")

    folder = Path(options.base)
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    before = peak()
    nf4 = models.DTYPES[options.dtype] if options.onto == "dequantized" else None
    adapters.merge_into_files(folder, options.adapter, options.out, nf4_dtype=nf4)
    largest = max(file.stat().st_size for file in models.weight_files(folder)) / 1e9
    print(f"peak      {peak():.2f} GB, {before:.2f} of it before merging; the largest file has {largest:.2f} GB")
    for pattern in ("*.json", "*.jinja"):
        for file in folder.glob(pattern):
            shutil.copyfile(file, options.out / file.name)

    tokenizer = models.load_tokenizer(folder)
    rows = []
    for record in load_records(options.data, "train")[: options.answers]:
        example = format_chat(record)
        whole = example_ids(tokenizer, example)
        rows.append((whole, len(models.prompt_ids(tokenizer, example["prompt"]))))
    for dtype in options.compute:
        # The adapter in fp32, as it was trained, beside a base of the type that computes.
        unmerged = load(folder, trained, dtype, options.adapter)
        exported = load(options.out, "none", dtype)
        print(f"{dtype}      {compare(unmerged, exported, rows)}")


def peak() -> float:
    """GB that this process has had in memory at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def load(folder: Path, quantization: str, dtype: str, adapter: Path | None = None) -> Any:
    """A base, with an adapter beside it."""
    base = models.choose_base(
        base=str(folder), quantization=quantization, dtype=dtype, attention="sdpa", tiny_folder=folder, gpus=0
    )
    model: Any = models.keep_4bit_layout(models.load_base(base))
    return adapters.load_adapter(model, adapter) if adapter else model


@torch.inference_mode()
def compare(unmerged: Any, exported: Any, rows: list[tuple[list[int], int]]) -> str:
    """The figures of two models over the answers, in words."""
    same = total = 0
    largest = 0.0
    for ids, prompt in tqdm(rows, unit="answer"):
        # The position before a token is the one that predicts it, and the last one predicts nothing that is known.
        kept = len(ids) - prompt + 1
        first, second = (
            model(input_ids=torch.tensor([ids]), logits_to_keep=kept).logits[0, :-1].float()
            for model in (unmerged, exported)
        )
        same += int((first.argmax(-1) == second.argmax(-1)).sum())
        total += len(first)
        largest = max(largest, float((first - second).abs().max()))
    return (
        f"{len(rows)} answers, {total} positions: the same first token at {100 * same / total:.2f}%, largest difference of "
        f"logits {largest:.3f}"
    )


if __name__ == "__main__":
    main()
