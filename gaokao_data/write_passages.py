"""Have a large model behind an OpenAI-compatible endpoint write 课本内容 and 课外内容 for the records of a data file.

    pip install openai==3.54.0
    export OPENAI_API_KEY=...        # or another variable: --api-key-env NAME; a local server needs none
    python -m gaokao_data.write_passages items.json --out data/train.json \
        --base-url https://api.openai.com/v1 --model gpt-4.1-mini --limit 5
    python -m gaokao_data.write_passages items.json --out data/train.json \
        --base-url http://127.0.0.1:8000/v1 --model Qwen/Qwen2.5-72B-Instruct --concurrency 16
"""

import argparse
import asyncio
import hashlib
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from gaokao.checks import Item
from gaokao.endpoint import (
    CONCURRENCY,
    GIVE_UP_AFTER,
    MAX_TOKENS,
    TIMEOUT,
    Endpoint,
    MalformedError,
    OptionNames,
    RequestError,
    Usage,
    ask_all,
    check_url,
    read_key,
)
from gaokao.errors import Interrupted, UserError, faults_text, run_script
from gaokao.grounding import grounding, screen
from gaokao.prompts import Message
from gaokao.records import (
    CHAT_MARKER,
    HEADER,
    LEAKS,
    OUTSIDE,
    TEXTBOOK,
    Record,
    join_answers,
    load_records,
    parse_record,
)
from gaokao.runs import Journal, write_json, write_text
from gaokao.sources import FORMATS, collect_errors, read_raw
from gaokao.text import LEAK_BOUND, leak_share

HELP = """\
Records that have a passage are kept untouched. The others must have question, answer and 解析: these are sent to the
endpoint, and nothing else of the record. Passages that give the answer away are asked for again; if none are clean, the
best are kept and the record is marked "leaks": true.

Nothing is paid for twice: each result goes to OUT.partial.jsonl at once, and the same command goes on from there and
from OUT. Records may be added, moved or changed meanwhile. An earlier OUT with passages that the new one does not have
is set aside beside it. OUT named .jsonl is JSON Lines.

exit code: 0; 1 where records failed, which stay out of OUT until a later run; 2 where the run had to stop; 130 after
Ctrl-C. What is finished is always kept.
"""

# Part of the key of a result: raise it with the wording below, or results of the old wording pass for new ones.
PROMPT_VERSION = 2
SYSTEM = "你是高中教材和科普读物的编者，文字准确、平实，严格按要求的格式作答。"
TASK = """下面是一道高考{subject}{type}。请写出命制这道题所依据的两段材料：读了它们的命题人，正好能命制出这一道题。

【题目】
{question}

【答案】
{answer}

【解析】
{analysis}

课本内容：用教科书的口吻，讲清解答这道题所需的概念、原理、方法或史实，写成一般性的知识，不涉及题中的具体情境；
课外内容：这道题取材的来源，如史料、报道、实验记录、数据或诗文片段。题干自带材料的，写出包含这些人物、地点、事件、数据的原始材料；题干不带材料的，写一段与题中对象相同的真实情境。

要求：
1. 每段80到300字（英文按词计），自成一体，各写成一个段落，不分点，不加小标题。
2. 不得给出答案：不出现答案或正确选项的原话，不写出这道题的结论、计算结果和推理过程。
3. 不出现任何选项和设问，不提“本题”“题目”“选项”“材料”。
4. 内容真实，题中没有的人名、机构和数据不编造；英语科目用英文写，其他科目用中文写，公式用LaTeX。

只输出下面两部分，标题照写，此外不要任何文字：
课本内容：……
课外内容：……"""
MALFORMED_NOTE = (
    "\n\n注意：上一次的回复不合要求。请只输出以“课本内容：”和“课外内容：”开头的两部分，每段80到300字，写完整。"
)
LEAK_NOTE = "\n\n注意：上一次的文字写出了答案中的原话。请换一个角度，只讲背景知识，不出现答案或正确选项中的任何语句。"

# Answers asked for per record, malformed and leaking ones together.
ASKS = 3
# The prompt says 80 to 300; models count badly, and punctuation is not counted here.
ACCEPTED_WORDS = (60, 400)
# Only words are counted, so that a model that falls into a loop of brackets or spaces has few of them.
MAX_CHARACTERS = 4000
# A file name has 255 bytes on all usual file systems, and what lies beside OUT has a longer one.
MAX_NAME_BYTES = 200

PASSAGE_SOURCE = "passage_source"
OPTIONS = OptionNames("--base-url", "--api-key-env", "--model", "--timeout", "--max-tokens")


class Passages(NamedTuple):
    """What the model wrote for one record, and the share of the answer that it contains, 0 to 1."""

    textbook: str
    outside: str
    leak: float

    @property
    def leaks(self) -> bool:
        """Whether they give the answer away."""
        return self.leak > LEAK_BOUND


@dataclass
class Summary:
    """Where the records of the input went, and what it cost."""

    usage: Usage
    kept: int = 0
    """Had passages already."""
    reused: int = 0
    """Were finished by an earlier run."""
    written: int = 0
    left: int = 0
    """Not asked for, because of the limit."""
    leaking: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Id -> reason."""
    set_aside: Path | None = None


# --- what is asked --------------------------------------------------------------------------------------------------


def result_key(record: Record, model: str) -> str:
    """What a result belongs to: the texts the model sees, the model, the version of the prompt; 16 hex digits."""
    seen = [record.subject, record.type, record.question, list(record.answer), record.analysis]
    text = json.dumps([PROMPT_VERSION, model, *seen], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def render_task(record: Record, note: str = "") -> list[Message]:
    """The messages that ask for the passages of a record; `note` says what was wrong with the answer before."""
    task = TASK.format(
        subject=record.subject,
        type=record.type,
        question=record.question,
        answer=join_answers(record.answer),
        analysis=record.analysis,
    )
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": task + note}]


# `课本内容：` `**课本内容**：` `## 课本内容` `【课本内容】` `一、课本内容（教材）：`, at line starts.
_HEAD = re.compile(
    rf"^[ \t#*>]*(?:[一二12][、.．)）][ \t]*)?(?P<open>[【\[「])?(?P<name>{TEXTBOOK}|{OUTSIDE})"
    r"(?(open)[】\]」][ \t*]*[：:；]?|[ \t*]{0,9}(?:[（(][^）)\n]{0,20}[）)])?[ \t*]{0,9}(?:[：:；]|$))[ \t*]*",
    re.MULTILINE,
)
_THOUGHT = re.compile(r"^.*</think>", re.DOTALL)
_FENCE = re.compile(r"^[ \t]*(?:```\w*|-{3,}|\*{3,})[ \t]*$", re.MULTILINE)


def parse_passages(text: str) -> tuple[str, str]:
    """Read 课本内容 and 课外内容 from an answer; text before the first head, thoughts and Markdown marks are passed over.

    Raises:
        MalformedError: a part is missing, too short or too long, or could not stand in a record.
    """
    text = _FENCE.sub("", _THOUGHT.sub("", text))
    heads = list(_HEAD.finditer(text))
    parts: dict[str, str] = {}
    for head, following in zip_longest(heads, heads[1:]):
        body = text[head.end() : following.start() if following else len(text)].strip().strip("*").strip()
        lines = (line.strip() for line in body.split("\n"))
        parts.setdefault(head["name"], "\n".join(line for line in lines if line))
    low, high = ACCEPTED_WORDS
    for name in (TEXTBOOK, OUTSIDE):
        part = parts.get(name, "")
        if not part:
            raise MalformedError(f"the answer has no {name}")
        if not low <= (words := count_words(part)) <= high:
            raise MalformedError(f"{name} has {words} characters or words instead of 80 to 300")
        if len(part) > MAX_CHARACTERS:
            raise MalformedError(f"{name} has {len(part)} characters, most of them no words")
        if found := CHAT_MARKER.search(part) or HEADER.search(part):
            raise MalformedError(f"{name} contains {found.group().strip()!r}, which no record may")
    return parts[TEXTBOOK], parts[OUTSIDE]


def count_words(text: str) -> int:
    """Length as word processors count Chinese: each Han character, and each run of other letters or digits, is one."""
    return len(re.findall(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+", text))


async def write_one(endpoint: Endpoint, record: Record) -> Passages:
    """Ask for the passages of one record, again where an answer is malformed or gives the answer away.

    Raises:
        UserError: the run must stop.
        RequestError: no answer could be used.
    """
    best: Passages | None = None
    note = reason = ""
    for ask in range(ASKS):
        endpoint.usage.asked_again += ask > 0
        try:
            textbook, outside = parse_passages(await endpoint.complete(render_task(record, note)))
        except MalformedError as problem:
            note, reason = MALFORMED_NOTE, str(problem)
            continue
        except RequestError:
            # A leaking answer that is paid for is worth more than none.
            if best:
                break
            raise
        passages = Passages(textbook, outside, round(leak_share(record, textbook, outside), 4))
        best = min(best or passages, passages, key=lambda one: one.leak)
        if not best.leaks:
            return best
        note = LEAK_NOTE
    if best:
        return best
    if not endpoint.answered.is_set():
        raise UserError(f"{endpoint.base_url}: {reason}; {OPTIONS.address} usually ends in /v1")
    raise RequestError(f"{reason} ({ASKS} answers)")


# --- the files ------------------------------------------------------------------------------------------------------


def load_items(path: Path) -> list[Record]:
    """The records of the input; unlike for training, they need not have the key 课本内容 yet.

    Raises:
        UserError: the file cannot be read, or holds no records, or bad ones: all of them, each with place and remedy.
    """
    records: dict[str, Record] = {}
    with collect_errors(path) as errors:
        for position, raw in enumerate(read_raw(path)):
            if isinstance(raw.value, dict):
                raw = raw._replace(value={TEXTBOOK: "", **raw.value})
            record, found = parse_record(raw, position, "train")
            errors.add(*found)
            if record and record.id in records:
                errors.add(f"{raw.where} (id {record.id}): the id is also that of another record; give it another")
            elif record:
                records[record.id] = record
    if not records:
        raise UserError(f"{path}: holds no records; {FORMATS}")
    return list(records.values())


def read_out(out: Path, source: Path) -> list[Any]:
    """The rows that an earlier run left in OUT, `None` for a damaged line; makes its folder where it is not there.

    Raises:
        UserError: OUT cannot be written, or is not a data file.
    """
    # The longest name that is written: a part of the partial file, or an earlier OUT that is set aside.
    if len(os.fsencode(out.name)) > MAX_NAME_BYTES:
        raise UserError(f"--out: the name of the file has more than {MAX_NAME_BYTES} bytes; choose a shorter one")
    if os.path.isdir(out):
        raise UserError(f"--out {out}: is a folder; name a file in it, such as {out / 'items.json'}")
    if os.path.exists(out):
        if out.samefile(source):
            raise UserError(f"--out {out}: is the input file; name another one")
        try:
            return [raw.value for raw in read_raw(out)]
        except UserError as error:
            raise UserError(f"--out {out}: is there and is not a data file; name another file ({error})") from None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out.parent}: cannot be made ({error.strerror}); choose another --out") from None
    return []


def finished(rows: Iterable[Any]) -> Iterator[tuple[str, Passages]]:
    """Results by key, from rows of OUT or of the partial file; other rows are passed over."""
    for row in rows:
        with suppress(LookupError, TypeError, ValueError, AttributeError):
            source = row.get(PASSAGE_SOURCE, row)
            if row[TEXTBOOK] and row[OUTSIDE]:
                yield str(source["key"]), Passages(str(row[TEXTBOOK]), str(row[OUTSIDE]), float(source["leak"]))


def with_passages(record: Record, passages: Passages, key: str, model: str) -> Record:
    """The record with its new passages and where they come from; marks of earlier passages are replaced."""
    extra = {name: value for name, value in record.extra.items() if name not in (PASSAGE_SOURCE, LEAKS)}
    extra[PASSAGE_SOURCE] = {"mode": "model", "model": model, "leak": round(passages.leak, 4), "key": key}
    if passages.leaks:
        extra[LEAKS] = True
    return replace(record, textbook=passages.textbook, outside=passages.outside, extra=extra)


def write_out(out: Path, records: list[Record], before: list[Any]) -> Path | None:
    """Write OUT, whole or not at all; set the earlier one aside if it holds passages that the new one does not."""
    rows = [record.to_dict() for record in records]
    carried = {(row[TEXTBOOK], row[OUTSIDE]) for row in rows}
    aside = None
    if not all(isinstance(row, dict) and (row.get(TEXTBOOK), row.get(OUTSIDE)) in carried for row in before):
        stamp = time.strftime("%Y%m%d-%H%M%S")
        aside = out.with_name(f"{out.stem}-{stamp}{out.suffix}")
        while aside.exists():
            aside = aside.with_stem(f"{aside.stem}-2")
        os.replace(out, aside)
    if out.suffix.lower() == ".jsonl":
        write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    else:
        write_json(out, rows)
    return aside


# --- the run --------------------------------------------------------------------------------------------------------


def write_passages(
    source: Path,
    out: Path,
    endpoint: Endpoint,
    *,
    concurrency: int = CONCURRENCY,
    limit: int | None = None,
    overwrite: bool = False,
    give_up_after: int = GIVE_UP_AFTER,
) -> Summary:
    """Write the passages that the records of `source` lack, and all finished records to `out`.

    Args:
        out: data file to write, with `out`.partial.jsonl beside it while the run lasts.
        endpoint: whom to ask.
        concurrency: maximum of records at a time.
        limit: maximum of records to ask for now; `None` for all.
        overwrite: ask for records that already have passages, too.
        give_up_after: so many records failing one after the other stop the run.

    Raises:
        UserError: bad input, or the run had to stop; the text says what is kept.
        Interrupted: Ctrl-C; the same.
    """
    records = load_items(source)
    before = read_out(out, source)
    lacking = [record for record in records if overwrite or not (record.textbook or record.outside)]
    wanted = {record.id: result_key(record, endpoint.model) for record in lacking}
    summary, done = Summary(endpoint.usage), []
    with Journal(out.with_name(out.name + ".partial.jsonl"), "choose another --out") as journal:
        if journal.damaged:
            print(f"{journal.path}: {len(journal.damaged)} damaged line(s) are passed over", file=sys.stderr)
        earlier = dict(finished([*before, *journal.rows]))
        # Two records with the same texts are one request.
        pending = {wanted[record.id]: record for record in lacking if wanted[record.id] not in earlier}
        pending = dict(islice(pending.items(), limit))
        failed = _ask(endpoint, pending, journal, concurrency, give_up_after) if pending else {}
        kept = dict(finished(journal.rows))
        results = earlier | kept
        for record in records:
            key = wanted.get(record.id)
            if key is None:
                summary.kept += 1
                done.append(record)
            elif passages := results.get(key):
                summary.reused += key in earlier
                summary.written += key not in earlier
                done.append(with_passages(record, passages, key, endpoint.model))
                if passages.leaks:
                    summary.leaking.append(record.id)
            elif key in failed:
                summary.failed[record.id] = failed[key]
            else:
                summary.left += 1
        if done:
            summary.set_aside = write_out(out, done, before)
            # All of it stands in OUT now; results of another model or of changed records stay.
            if set(kept) <= set(wanted.values()):
                journal.discard()
    return summary


def _ask(
    endpoint: Endpoint, pending: dict[str, Record], journal: Journal, concurrency: int, give_up_after: int
) -> dict[str, str]:
    """Ask for all of `pending` and keep each result; the reasons by key where it failed."""

    def keep(key: str, passages: Passages) -> None:
        journal.add({"key": key, TEXTBOOK: passages.textbook, OUTSIDE: passages.outside, "leak": passages.leak})

    run = ask_all(
        endpoint, pending, partial(write_one, endpoint), keep,
        unit="record", concurrency=concurrency, give_up_after=give_up_after,
    )  # fmt: skip
    try:
        return asyncio.run(run)
    except KeyboardInterrupt:
        raise Interrupted(_how_to_go_on(journal, endpoint.usage)) from None
    except UserError as error:
        raise UserError(f"{error}\n{_how_to_go_on(journal, endpoint.usage)}") from None


def _how_to_go_on(journal: Journal, usage: Usage) -> str:
    count = len(journal.rows)
    kept = f"{count} finished records are kept in {journal.path}; " if count else ""
    return f"{kept}the same command goes on with what is missing\ntokens    {usage}"


def report(summary: Summary, out: Path) -> str:
    """What a run did, and what it cost."""
    lines = [
        f"passages  {summary.written} written, {summary.reused} from an earlier run, {summary.kept} had some already, "
        f"{len(summary.failed)} failed" + (f", {summary.left} left by --limit" if summary.left else ""),
        f"tokens    {summary.usage}",
    ]
    if summary.leaking:
        some = " ".join(summary.leaking[:5]) + (" …" if len(summary.leaking) > 5 else "")
        lines.append(f'leaks     {len(summary.leaking)} give the answer away, marked "{LEAKS}": {some}')
    if summary.set_aside:
        lines.append(f"aside     the earlier {out.name} held other passages; it is now {summary.set_aside}")
    if summary.written + summary.reused + summary.kept:
        items = [Item.from_record(record) for record in load_records(out)]
        lines += [f"grounding {line}" for line in screen(grounding(items))]
        lines.append(f"written   {out}")
    return "\n".join(lines)


# --- the command line -----------------------------------------------------------------------------------------------


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m gaokao_data.write_passages",
        description=(__doc__ or "").split("\n")[0],
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add: Callable[..., Any] = parser.add_argument
    add("source", metavar="IN", type=Path, help="data file whose records have question, answer and 解析")
    add("--out", metavar="OUT", type=Path, required=True, help="data file to write; results so far: OUT.partial.jsonl")
    add("--base-url", metavar="URL", required=True, help="address of the API, such as http://127.0.0.1:8000/v1")
    add("--model", metavar="NAME", required=True, help="name of the model at the endpoint")
    add("--api-key-env", metavar="NAME", help="environment variable that holds the key; default: OPENAI_API_KEY if set")
    add("--concurrency", metavar="N", type=int, default=CONCURRENCY, help="requests at a time; default: %(default)s")
    add("--timeout", metavar="S", type=float, default=TIMEOUT, help="seconds for one answer; default: %(default)s")
    add("--max-tokens", metavar="N", type=int, default=MAX_TOKENS, help="length of one answer; default: %(default)s")
    add("--temperature", metavar="T", type=float, help="0 to 2; default: the endpoint's own")
    add("--limit", metavar="N", type=int, help="ask for at most that many records now; a later run goes on")
    add("--overwrite", action="store_true", help="ask for records that already have passages, too")
    chosen = parser.parse_args(arguments)
    for name in ("concurrency", "max_tokens", "limit"):
        value = getattr(chosen, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} {value}: must be 1 or more")
    if chosen.out.suffix.lower() not in (".json", ".jsonl"):
        parser.error(f"--out {chosen.out}: what is written is JSON; name it .json or .jsonl")
    # Bytes that are not UTF-8 arrive as halves of characters, which no request and no record can hold.
    if not chosen.model.strip() or any("\ud800" <= letter <= "\udfff" for letter in chosen.model):
        parser.error("--model: must be the name of a model, in UTF-8")
    if not 0 < chosen.timeout < math.inf:
        parser.error(f"--timeout {chosen.timeout}: must be above 0")
    if chosen.temperature is not None and not 0 <= chosen.temperature <= 2:
        parser.error(f"--temperature {chosen.temperature}: must be from 0 to 2")
    return chosen


def main(arguments: list[str]) -> None:
    """Ask, write, report."""
    chosen = parse_arguments(arguments)
    endpoint = Endpoint(
        check_url(chosen.base_url, OPTIONS),
        chosen.model,
        api_key=read_key(chosen.api_key_env, OPTIONS),
        timeout=chosen.timeout,
        max_tokens=chosen.max_tokens,
        temperature=chosen.temperature,
        names=OPTIONS,
    )
    summary = write_passages(
        chosen.source, chosen.out, endpoint,
        concurrency=chosen.concurrency, limit=chosen.limit, overwrite=chosen.overwrite,
    )  # fmt: skip
    print(report(summary, chosen.out))
    if summary.failed:
        reasons = [f"{identity}: {reason}" for identity, reason in summary.failed.items()]
        title = f"{len(reasons)} record(s) failed; the same command asks for them again:"
        print(faults_text(title, reasons), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
