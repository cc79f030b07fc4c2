"""Have a large model behind any OpenAI-compatible endpoint write 课本内容 and 课外内容 for the records of a data file.

    pip install openai==3.54.0
    export OPENAI_API_KEY=...        # or another variable: --api-key-env NAME; a local server needs none
    python -m gaokao_data.write_passages items.json --out data/train.json \
        --base-url https://api.openai.com/v1 --model gpt-4.1-mini --limit 5
    python -m gaokao_data.write_passages items.json --out data/train.json \
        --base-url http://127.0.0.1:8000/v1 --model Qwen/Qwen2.5-72B-Instruct --concurrency 16

Records that already have a passage are kept untouched (`--overwrite` asks for them too). The others must have question,
answer and 解析: these are sent to the endpoint as the source of the topic, and nothing else of the record is.

Paid once. Each result goes at once, as a whole line on the disk, to OUT.partial.jsonl; a run that was killed goes on
from there. OUT is written at the end, in the order of the input, and the partial file is removed: the next run reads
what is finished from OUT. A result belongs to what was asked (the texts of the record, the model, the version of the
prompt), not to a position, so records may be added, moved or changed. An earlier OUT with passages that the new one
does not have (another model, another input) is set aside beside it. OUT named .jsonl is JSON Lines, else a JSON list.

Written into each record: "passage_source": {"mode": "model", "model": ..., "leak": ..., "key": ...}, where leak is the
share of the answer's 8-grams that the passages contain. A passage that gives the answer away is asked for again; if
none is clean, the best is kept and the record gets "leaks": true.

Exit code 0; 1 where records failed: they stay out of OUT, and a later run asks for just them; 2 where the run had to
stop (wrong command line, key refused, unknown model, endpoint down); 130 after Ctrl-C. What is finished is kept always.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gaokao.endpoint import BACKOFF, RETRIES, Endpoint, MalformedError, RecordError, Usage, check_url, read_key
from gaokao.errors import Interrupted, UserError, elsewhere, faults_text, run_script
from gaokao.prompts import Message
from gaokao.records import (
    LEAKS,
    CHAT_MARKER,
    HEADER,
    OUTSIDE,
    TEXTBOOK,
    Raw,
    Record,
    join_answers,
    parse_record,
    read_raw,
)
from gaokao.runs import write_json, write_text
from gaokao.text import LEAK_BOUND, leak_share

# Part of the key of a result: raise it with the wording below, or results of the old wording pass for new ones.
PROMPT_VERSION = 1
SYSTEM = "你是高中教材和科普读物的编者，文字准确、平实，严格按要求的格式作答。"
TASK = """下面是一道高考{subject}{type}，只用来确定选题范围。

【题目】
{question}

【答案】
{answer}

【解析】
{analysis}

请围绕它所考查的知识写两段互相独立的文字：
课本内容，用教科书的口吻，讲清有关的概念、原理、方法或史实；
课外内容，用新闻报道或研究介绍的口吻，写一个与这些知识有关的现实情境。

要求：
1. 每段80到300字（英文按词计），自成一体，各写成一个段落，不分点，不加小标题。
2. 不得给出答案：不出现答案或正确选项的原话，不写出这道题的结论、计算结果和推理过程。
3. 不得引用或改写题干、选项和所给材料中的句子，不提“本题”“题目”“选项”。
4. 内容真实，不编造人名、机构和数据；英语科目用英文写，其他科目用中文写，公式用LaTeX。

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

CONCURRENCY = 8
TIMEOUT = 120.0
MAX_TOKENS = 2048
# So many failures one after the other mean that the endpoint, not a record, is at fault; each may cost money.
GIVE_UP_AFTER = 20

# A file name has 255 bytes on all usual file systems, and what lies beside OUT has a longer one.
MAX_NAME_BYTES = 200

PASSAGE_SOURCE = "passage_source"


@dataclass(frozen=True)
class Passages:
    """What the model wrote for one record."""

    textbook: str
    outside: str
    leak: float
    """Share of the answer's 8-grams that the passages contain, 0 to 1."""

    @property
    def leaks(self) -> bool:
        """Whether they give the answer away."""
        return self.leak > LEAK_BOUND


@dataclass
class Summary:
    """Where the records of the input went, and what it cost."""

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
    usage: Usage = field(default_factory=Usage)


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


# --- asking --------------------------------------------------------------------------------------------------------


async def write_one(endpoint: Endpoint, record: Record) -> Passages:
    """Ask for the passages of one record, again where an answer is malformed or gives the answer away.

    Raises:
        UserError: the run must stop.
        RecordError: no answer could be used.
    """
    best: Passages | None = None
    note = reason = ""
    for ask in range(ASKS):
        endpoint.usage.asked_again += ask > 0
        try:
            textbook, outside = parse_passages(await endpoint.complete(render_task(record, note)))
        except MalformedError as fault:
            note, reason = MALFORMED_NOTE, str(fault)
            continue
        except RecordError:
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
        raise UserError(f"{endpoint.place}: {reason}; --base-url usually ends in /v1")
    raise RecordError(f"{reason} ({ASKS} answers)")


async def write_all(
    endpoint: Endpoint,
    pending: Mapping[str, Record],
    keep: Callable[[str, Passages], None],
    *,
    concurrency: int,
    give_up_after: int,
) -> dict[str, str]:
    """Ask for the passages of all `pending` records and hand each result to `keep` as it comes.

    Args:
        endpoint: whom to ask.
        pending: result key -> record.
        keep: called with key and passages; what it has taken is safe.
        concurrency: greatest number of requests at a time. The first record is asked for alone, so that a wrong key or
            model costs one request.
        give_up_after: so many records failing one after the other stop the run.

    Returns:
        Key -> reason, for the records that failed.

    Raises:
        UserError: the run had to stop.
    """
    from tqdm import tqdm

    failed: dict[str, str] = {}
    in_a_row = 0
    queue = iter(pending.items())

    async def work(first: bool) -> None:
        nonlocal in_a_row
        if not first:
            await endpoint.answered.wait()
        for key, record in queue:
            try:
                passages = await write_one(endpoint, record)
            except RecordError as reason:
                failed[key] = str(reason)
                in_a_row += 1
                if in_a_row >= give_up_after:
                    raise UserError(
                        f"{endpoint.place}: {in_a_row} records failed one after the other, the last with: {reason}"
                    ) from None
            else:
                in_a_row = 0
                keep(key, passages)
            bar.set_postfix_str(f"{len(failed)} failed" if failed else "", refresh=False)
            bar.update()
        # Where every record was refused, nothing has opened the way for the others; nothing is left for them either.
        endpoint.answered.set()

    with tqdm(total=len(pending), desc="passages", unit="record") as bar:
        tasks = [asyncio.create_task(work(number == 0)) for number in range(min(concurrency, len(pending)))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await endpoint.close()
    return failed


# --- what is kept ---------------------------------------------------------------------------------------------------


class Journal:
    """The partial file: results as they come, one line each, on the disk before the next request is paid for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: dict[str, Passages] = {}
        try:
            self._file = path.open("a+b")
            self._read()
        except OSError as error:
            raise UserError(f"{path}: cannot be written to ({error.strerror}); choose another --out") from None

    def _read(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        # A killed run may leave a torn last line: it is cut off, or the next line would be glued to it.
        whole = content.rfind(b"\n") + 1
        self._file.truncate(whole)
        for line in content[:whole].splitlines():
            with suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
                row = json.loads(line)
                self.results[row["key"]] = Passages(str(row[TEXTBOOK]), str(row[OUTSIDE]), float(row["leak"]))

    def keep(self, key: str, passages: Passages) -> None:
        """Add one result.

        Raises:
            UserError: it cannot be written (disk full).
        """
        row = {"key": key, TEXTBOOK: passages.textbook, OUTSIDE: passages.outside, "leak": passages.leak}
        try:
            self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written to ({error.strerror}); make room") from None
        self.results[key] = passages

    def discard(self) -> None:
        """Forget all results, which stand in OUT now; the file goes when the journal is closed."""
        self.results.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        if not self.results:
            self.path.unlink(missing_ok=True)


def load_items(path: Path) -> list[Record]:
    """The records of the input; unlike for training, they need not have the key 课本内容 yet.

    Raises:
        UserError: the file cannot be read, or holds faulty records: all of them, each with place and remedy.
    """
    if not os.path.exists(path):
        raise UserError(f"{path}: there is no such data file{elsewhere(path)}; check the name")
    records: dict[str, Record] = {}
    faults: list[str] = []
    for position, raw in enumerate(read_raw(path)):
        if isinstance(raw.value, dict):
            raw = Raw(raw.where, {TEXTBOOK: "", **raw.value})
        record, found = parse_record(raw, position, "train")
        faults += found
        if record and record.id in records:
            faults.append(f"{raw.where} (id {record.id}): the id is also that of another record; give it another")
        elif record:
            records[record.id] = record
    if faults:
        raise UserError(faults_text(f"{path}: {len(faults)} fault(s) in the records:", faults))
    if not records:
        raise UserError(f"{path}: holds no records; a data file is a JSON list or JSON Lines of records")
    return list(records.values())


def read_out(out: Path) -> list[Any]:
    """The rows an earlier run left in OUT, `None` for a damaged line; no rows where it is not there.

    Raises:
        UserError: it is there, but is not a data file.
    """
    if not os.path.exists(out):
        return []
    try:
        return [raw.value for raw in read_raw(out)]
    except UserError as error:
        raise UserError(f"--out {out}: is there and is not a data file; name another file ({error})") from None


def _finished(rows: list[Any]) -> Iterator[tuple[str, Passages]]:
    for row in rows:
        with suppress(LookupError, TypeError, ValueError):
            source = row[PASSAGE_SOURCE]
            if row[TEXTBOOK] and row[OUTSIDE]:
                yield str(source["key"]), Passages(str(row[TEXTBOOK]), str(row[OUTSIDE]), float(source["leak"]))


def with_passages(record: Record, passages: Passages, key: str, model: str) -> Record:
    """The record with its new passages and where they come from; marks of earlier passages are replaced."""
    extra = {name: value for name, value in record.extra.items() if name not in (PASSAGE_SOURCE, LEAKS)}
    extra[PASSAGE_SOURCE] = {"mode": "model", "model": model, "leak": round(passages.leak, 4), "key": key}
    if passages.leaks:
        extra[LEAKS] = True
    return replace(record, textbook=passages.textbook, outside=passages.outside, extra=extra)


def _write_out(out: Path, records: list[Record], before: list[Any]) -> Path | None:
    """Write OUT, whole or not at all; set the earlier one aside if it holds passages that the new one does not."""
    rows = [record.to_dict() for record in records]
    carried = {(row[TEXTBOOK], row[OUTSIDE]) for row in rows}
    aside = None
    if not all(isinstance(row, dict) and (row.get(TEXTBOOK), row.get(OUTSIDE)) in carried for row in before):
        stamp = time.strftime("%Y%m%d-%H%M%S")
        aside = out.with_name(f"{out.stem}-{stamp}{out.suffix}")
        os.replace(out, aside)
    if out.suffix == ".jsonl":
        write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    else:
        write_json(out, rows)
    # The partial file goes next: what was paid for must be on the disk before.
    with out.open("r+b") as file:
        os.fsync(file.fileno())
    return aside


# --- the run --------------------------------------------------------------------------------------------------------


def write_passages(
    source: Path,
    out: Path,
    *,
    base_url: str,
    model: str,
    api_key: str = "",
    concurrency: int = CONCURRENCY,
    timeout: float = TIMEOUT,
    max_tokens: int = MAX_TOKENS,
    temperature: float | None = None,
    limit: int | None = None,
    overwrite: bool = False,
    retries: int = RETRIES,
    backoff: float = BACKOFF,
    give_up_after: int = GIVE_UP_AFTER,
) -> Summary:
    """Write the passages that the records of `source` lack, and all finished records to `out`.

    Args:
        source: data file with question, answer and 解析.
        out: data file to write, with `out`.partial.jsonl beside it while the run lasts.
        base_url: address of the API, as a rule ending in /v1.
        model: name of the model at the endpoint.
        api_key: sent to the endpoint and nowhere else; empty for none.
        concurrency: greatest number of requests at a time.
        timeout: seconds for one answer, from the first byte sent to the last received.
        max_tokens: greatest length of one answer, thoughts included.
        temperature: of sampling; `None` leaves it to the endpoint.
        limit: greatest number of records to ask for now; `None` for all.
        overwrite: ask for records that already have passages, too.
        retries: after 408, 409, 429, 5xx, timeouts and broken connections, per answer.
        backoff: seconds before the first retry, doubled each time; less a random share of up to half.
        give_up_after: so many records failing one after the other stop the run.

    Raises:
        UserError: bad input, or the run had to stop; the text says what is kept.
        Interrupted: Ctrl-C; the same.
    """
    # The longest name that is written: a part of the partial file, or an earlier OUT that is set aside.
    if len(os.fsencode(out.name)) > MAX_NAME_BYTES:
        raise UserError(f"--out: the name of the file has more than {MAX_NAME_BYTES} bytes; choose a shorter one")
    records = load_items(source)
    if os.path.exists(out) and out.samefile(source):
        raise UserError(f"--out {out}: is the input file; name another one")
    if os.path.isdir(out):
        raise UserError(f"--out {out}: is a folder; name a file in it, such as {out / 'items.json'}")
    before = read_out(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out.parent}: cannot be made ({error.strerror}); choose another --out") from None

    summary = Summary()
    with Journal(out.with_name(out.name + ".partial.jsonl")) as journal:
        done = {**dict(_finished(before)), **journal.results}
        wanted = {record.id: result_key(record, model) for record in records if overwrite or not _has_passage(record)}
        # Two records with the same texts are one request.
        pending: dict[str, Record] = {}
        for record in records:
            key = wanted.get(record.id)
            if key is not None and key not in done:
                pending.setdefault(key, record)
        asked = dict(list(pending.items())[:limit])
        failed: dict[str, str] = {}
        if asked:
            endpoint = Endpoint(
                base_url=base_url,
                model=model,
                api_key=api_key,
                timeout=timeout,
                max_tokens=max_tokens,
                temperature=temperature,
                retries=retries,
                backoff=backoff,
            )
            summary.usage = endpoint.usage
            try:
                failed = asyncio.run(
                    write_all(endpoint, asked, journal.keep, concurrency=concurrency, give_up_after=give_up_after)
                )
            except KeyboardInterrupt:
                raise Interrupted(_how_to_go_on(journal, endpoint.usage)) from None
            except UserError as error:
                raise UserError(f"{error}\n{_how_to_go_on(journal, endpoint.usage)}") from None

        finished: list[Record] = []
        for record in records:
            key = wanted.get(record.id)
            if key is None:
                summary.kept += 1
                finished.append(record)
            elif passages := done.get(key) or journal.results.get(key):
                summary.reused += key in done
                summary.written += key not in done
                finished.append(with_passages(record, passages, key, model))
                if passages.leaks:
                    summary.leaking.append(record.id)
            elif key in failed:
                summary.failed[record.id] = failed[key]
            else:
                summary.left += 1
        if finished:
            summary.set_aside = _write_out(out, finished, before)
            # All of it stands in OUT now; results of another model or of changed records stay.
            if set(journal.results) <= set(wanted.values()):
                journal.discard()
    return summary


def _has_passage(record: Record) -> bool:
    return bool(record.textbook or record.outside)


def _how_to_go_on(journal: Journal, usage: Usage) -> str:
    count = len(journal.results)
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
        lines.append(
            f'leaks     {len(summary.leaking)} give the answer away, marked "{LEAKS}": {_some(summary.leaking)}'
        )
    if summary.set_aside:
        lines.append(f"aside     the earlier {out.name} held other passages; it is now {summary.set_aside}")
    if summary.written + summary.reused + summary.kept:
        lines.append(f"written   {out}")
    return "\n".join(lines)


def _some(ids: list[str]) -> str:
    return " ".join(ids[:5]) + (" …" if len(ids) > 5 else "")


# --- the command line -----------------------------------------------------------------------------------------------


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m gaokao_data.write_passages", description=(__doc__ or "").split("\n")[0], allow_abbrev=False
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
    summary = write_passages(
        chosen.source,
        chosen.out,
        base_url=check_url(chosen.base_url),
        model=chosen.model,
        api_key=read_key(chosen.api_key_env),
        concurrency=chosen.concurrency,
        timeout=chosen.timeout,
        max_tokens=chosen.max_tokens,
        temperature=chosen.temperature,
        limit=chosen.limit,
        overwrite=chosen.overwrite,
    )
    print(report(summary, chosen.out))
    if summary.failed:
        faults = [f"{identity}: {reason}" for identity, reason in summary.failed.items()]
        print(
            faults_text(f"{len(faults)} record(s) failed; the same command asks for them again:", faults),
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
