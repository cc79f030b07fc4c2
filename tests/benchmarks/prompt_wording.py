"""Does a bare base model answer in the three-part form? The shipped system message beside wordings that were not taken.

    python -m tests.benchmarks.prompt_wording --base DIR --data FILE
    python -m tests.benchmarks.prompt_wording --base DIR --data FILE --wordings shipped --items 48 --show 3
    python -m tests.benchmarks.prompt_wording --base DIR --data gaokao_data/train.json --wordings shipped --hints both

DIR is a folder with a small Qwen2.5 Instruct model, FILE a data file of the project: real questions come from
`python -m gaokao_data.import_gaokao_bench`. Items are drawn evenly over subjects and types. That file has no 课外内容, so
every second item gets the passage of another one of its subject. No adapter is loaded: what is measured is how well the
prompt alone says what is wanted.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from scipy.stats import binomtest
from transformers import PreTrainedTokenizerBase

from gaokao.checks import Item, Outcome, run_checks, usable
from gaokao.generation import Writer
from gaokao.models import choose_base, load_base, prompt_ids
from gaokao.prompts import Message, parse, prepare_input
from gaokao.records import OUTSIDE, TEXTBOOK, Record, load_records
from gaokao.text import CHOICE_TYPES
from gaokao.writing import Completion

SHIPPED = "shipped"
PASSAGE_CHARS = 250
SAMPLING = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.0}

OLD_HINTS = {
    "单选题": "列出A、B、C、D四个选项，只有一项正确",
    "多选题": "列出A、B、C、D四个选项，有两项或多项正确",
    "填空题": "用横线标出空处",
    "主观题": "可分小问，要求写出过程或要点",
}
# What stands behind 题干 and 参考答案 for each type, in words and as a layout.
HINTS = {
    "单选题": ("列出A、B、C、D四个选项，只有一项正确", "正确选项的字母"),
    "多选题": ("列出A、B、C、D四个选项，有两项或多项正确", "所有正确选项的字母"),
    "填空题": ("用______标出空处", "空处应填的内容"),
    "主观题": ("可分小问", "答题要点或过程"),
}
OPTIONS = "\nA．（选项）\nB．（选项）\nC．（选项）\nD．（选项）"
LAYOUTS = {
    "单选题": (f"（题目）{OPTIONS}", "（一个字母）"),
    "多选题": (f"（题目）{OPTIONS}", "（两个或更多字母）"),
    "填空题": ("（题目，空处写______）", "（空处的内容）"),
    "主观题": ("（题目，可分小问）", "（要点或过程）"),
}
# System messages that were tried and not taken: {subject}, {type}, {hint} of OLD_HINTS, {stem} and {answer} of HINTS.
REJECTED = {
    "solve": (
        "你是高考{subject}命题人。请依据给出的两段内容命制一道高考{type}（{hint}），按以下三行格式作答：\n"
        "题干：\n参考答案：\n解析："
    ),
    "ordered": (
        "你是高考{subject}命题人。用户给出课本内容和课外内容两段材料，你据此新编一道高考{subject}{type}，依次写出三部分：\n"
        "第一部分以“题干：”开头，写题目，{stem}；\n"
        "第二部分以“参考答案：”开头，写{answer}；\n"
        "第三部分以“解析：”开头，写理由。"
    ),
    "one line": (
        "你是高考{subject}命题人。用户给出课本内容和课外内容，你据此新编一道高考{subject}{type}：先写“题干：”和题目"
        "（{stem}），再另起一行写“参考答案：”和{answer}，最后另起一行写“解析：”和理由。"
    ),
    "template": (
        "你是高考{subject}命题人。用户给出课本内容和课外内容，你据此新编一道高考{subject}{type}，按下面的格式写：\n"
        "题干：（题目，{stem}）\n参考答案：（{answer}）\n解析：（理由）"
    ),
    "bullets": (
        "你是高考{subject}命题人。用户给出两段材料（课本内容、课外内容），你根据它们编写一道新的高考{subject}{type}。\n"
        "输出三部分，各以下面的词开头：\n"
        "- 题干：题目，{stem}\n- 参考答案：{answer}\n- 解析：理由"
    ),
    "own words": (
        "你是高考{subject}命题人。用户给出课本内容和课外内容两段材料，你据此新编一道高考{subject}{type}，不要照抄材料。"
        "回答由三部分组成：“题干：”后是题目（{hint}），“参考答案：”后是答案，“解析：”后是理由。"
    ),
    "layout": (
        "你是高考{subject}命题人。用户给出课本内容和课外内容，你据此新编一道高考{subject}{type}，只按下面的格式写：\n"
        "题干：{stem_layout}\n参考答案：{answer_layout}\n解析：（理由）"
    ),
    "plain lines": (
        "你是高考{subject}命题人。用户给出课本内容和课外内容，你据此新编一道高考{subject}{type}，分三部分：\n"
        "“题干：”后写题目，{stem}；\n“参考答案：”后写{answer}；\n“解析：”后写理由。"
    ),
}


def messages_of(record: Record, wording: str) -> list[Message]:
    """The prompt of a record, with the system message of a wording."""
    system, user = prepare_input(record)
    if wording == SHIPPED:
        return [system, user]
    (stem, answer), (stem_layout, answer_layout) = HINTS[record.type], LAYOUTS[record.type]
    text = REJECTED[wording].format(
        subject=record.subject,
        type=record.type,
        hint=OLD_HINTS[record.type],
        stem=stem,
        answer=answer,
        stem_layout=stem_layout,
        answer_layout=answer_layout,
    )
    return [{"role": "system", "content": text}, user]


def choose_items(records: Sequence[Record], count: int, seed: int, hints: str) -> list[Record]:
    """Records with short passages, evenly over all subjects and types; every second one without 课外内容 gets some.

    Args:
        records: what is drawn from.
        count: how many.
        seed: of the drawing.
        hints: `both`, `difficulty`, `topic` or `none`: which of the two optional keys the prompts may show.
    """
    chance = random.Random(seed)
    cells: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.textbook and len(record.textbook + record.outside) <= PASSAGE_CHARS:
            cells.setdefault((record.subject, record.type), []).append(record)
    for group in cells.values():
        chance.shuffle(group)
    order = sorted(cells)
    chance.shuffle(order)
    chosen: list[Record] = []
    while len(chosen) < count and any(cells.values()):
        chosen += [cells[cell].pop() for cell in order if cells[cell]][: count - len(chosen)]
    items = []
    for number, record in enumerate(chosen):
        others = [other.textbook for other in records if other.subject == record.subject and other.id != record.id]
        others = [text for text in others if 0 < len(text) <= PASSAGE_CHARS]
        if number % 2 and not record.outside and others:
            record = replace(record, outside=chance.choice(others))
        items.append(
            replace(
                record,
                difficulty=record.difficulty if hints in ("both", "difficulty") else "",
                topic=record.topic if hints in ("both", "topic") else "",
            )
        )
    return items


class Row(NamedTuple):
    """What became of the items of one wording and one way of decoding; counts, tokens and tokens per second."""

    wording: str
    decoding: str
    items: int
    sections: int
    stopped: int
    both: int
    choice: int
    keyed: int
    usable: int
    prompt_tokens: float
    completion_tokens: float
    speed: float


def judge(items: Sequence[Record], outputs: Sequence[Completion], wording: str, decoding: str, seconds: float) -> Row:
    """Count what came out whole."""
    sections = stopped = both = choice = keyed = fit = 0
    for record, output in zip(items, outputs, strict=True):
        question = parse(output.text)
        ended = output.finish_reason == "stop"
        results = run_checks(Item.from_question(record, question, output.finish_reason))
        passed = {result.name for result in results if result.outcome is Outcome.PASS}
        sections += question.complete
        stopped += ended
        both += question.complete and ended
        fit += usable(results)
        if record.type in CHOICE_TYPES:
            choice += 1
            keyed += {"options", "key"} <= passed
    written = [output.completion_tokens for output in outputs]
    read = fmean(output.prompt_tokens for output in outputs)
    speed = sum(written) / seconds
    return Row(wording, decoding, len(items), sections, stopped, both, choice, keyed, fit, read, fmean(written), speed)


def share(count: int, total: int) -> str:
    """A count of a total with the 95% interval of the share (Wilson 1927)."""
    interval = binomtest(count, total).proportion_ci(method="wilson")
    return f"{count}/{total} ({interval.low:.0%}-{interval.high:.0%})"


def line(row: Row) -> str:
    """A row of the table."""
    return (
        f"| {row.wording} | {row.decoding} | {row.sections}/{row.items} | {row.stopped}/{row.items} "
        f"| {share(row.both, row.items)} | {row.keyed}/{row.choice} | {share(row.usable, row.items)} "
        f"| {row.prompt_tokens:.0f} | {row.completion_tokens:.0f} | {row.speed:.0f} |"
    )


def system_tokens(tokenizer: PreTrainedTokenizerBase, items: Sequence[Record], wording: str) -> float:
    """Mean length of the system message alone, in tokens."""
    return fmean(len(tokenizer.encode(messages_of(record, wording)[0]["content"])) for record in items)


def main() -> None:
    names = [SHIPPED, *REJECTED]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--base", type=Path, required=True, metavar="DIR", help="a folder with a small Qwen2.5 Instruct"
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="a data file of the project")
    parser.add_argument("--wordings", nargs="+", choices=names, default=names, help="which to try (all)")
    parser.add_argument("--decoding", nargs="+", choices=["greedy", "sampled"], default=["greedy", "sampled"])
    parser.add_argument("--hints", choices=["both", "difficulty", "topic", "none"], default="none")
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--seed", type=int, default=42, help="of the drawing of items and of the sampling")
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16", help="fp32: a CPU without bf16 units")
    parser.add_argument("--max-new-tokens", type=int, default=400)
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print the first N texts of every row")
    parser.add_argument("--texts", type=Path, metavar="FILE", help="append every text as a line of JSON")
    options = parser.parse_args()
    base = choose_base(
        base=str(options.base),
        quantization="none",
        dtype=options.dtype,
        attention="sdpa",
        tiny_folder=Path("outputs"),
        gpus=0,
    )
    tokenizer = base.tokenizer
    items = choose_items(load_records(options.data, "generate"), options.items, options.seed, options.hints)
    print(f"{len(items)} items, {len({(r.subject, r.type) for r in items})} pairs of subject and type")
    print("tokens of the system message: ", end="")
    print(", ".join(f"{name} {system_tokens(tokenizer, items, name):.0f}" for name in options.wordings))
    model = load_base(base)
    print(
        "| wording | decoding | three sections | stopped | both (95%) | options and key | usable (95%) "
        "| prompt tokens | new tokens | tokens/s |\n|" + "---|" * 10,
        flush=True,
    )
    for wording in options.wordings:
        prompts = [prompt_ids(tokenizer, messages_of(record, wording)) for record in items]
        for decoding in options.decoding:
            writer = Writer(
                model,
                tokenizer,
                batch_size=options.batch_size,
                max_new_tokens=options.max_new_tokens,
                do_sample=decoding == "sampled",
                **SAMPLING,
            )
            started = time.perf_counter()
            keys = [f"{options.seed}/{record.id}" for record in items]
            outputs = sorted(writer.write(prompts, keys), key=lambda output: output.position)
            print(line(judge(items, outputs, wording, decoding, time.perf_counter() - started)), flush=True)
            for record, output in list(zip(items, outputs, strict=True))[: options.show]:
                print(f"\n--- {record.id} {record.subject} {record.type} {output.finish_reason}\n{output.text}\n")
            if options.texts:
                with options.texts.open("a", encoding="utf-8") as file:
                    for record, output in zip(items, outputs, strict=True):
                        row = {
                            **{"wording": wording, "decoding": decoding, "id": record.id, "subject": record.subject},
                            **{"type": record.type, TEXTBOOK: record.textbook, OUTSIDE: record.outside},
                            **{"text": output.text, "finish_reason": output.finish_reason},
                        }
                        file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
