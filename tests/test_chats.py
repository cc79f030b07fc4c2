"""General chats are validated, drawn by the seed, never cut, never validated on, and counted."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, record_row

from gaokao.chats import ChatPool, choose, load_pool, parse_chat
from gaokao.errors import UserError
from gaokao.prompts import Example
from gaokao.sources import Raw


def chat(number: int = 0, words: int = 1) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "system", "content": "你是助手。"},
            {"role": "user", "content": f"第{number}问"},
            {"role": "assistant", "content": "答" * words},
        ]
    }


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def length(example: Example) -> int:
    """Characters stand for tokens."""
    return sum(len(message["content"]) for message in [*example["prompt"], *example["completion"]])


def test_the_last_assistant_turn_is_the_completion_and_all_before_it_the_prompt() -> None:
    turns = [*chat()["messages"], {"role": "user", "content": "再问"}, {"role": "assistant", "content": "再答"}]
    example, faults = parse_chat(Raw("a:1", {"messages": turns, "source": "somewhere"}))
    assert not faults and example is not None
    assert example["prompt"] == turns[:-1]
    assert example["completion"] == turns[-1:]


def test_the_draw_depends_on_the_seed_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "chats.jsonl", [chat(n) for n in range(200)])
    first, again, other = (load_pool(path, 0.5, 20, seed) for seed in (1, 1, 2))
    assert first == again
    assert first.examples != other.examples and first.fingerprint == other.fingerprint
    assert first.available == 200
    # Spread over the whole file, not its head.
    numbers = [int(example["prompt"][1]["content"][1:-1]) for example in first.examples]
    assert len(set(numbers)) == 20 and max(numbers) > 100


def test_chats_that_are_too_long_are_replaced_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "chats.jsonl", [chat(n, words=1 if n % 2 else 500) for n in range(100)])
    mixed = choose(load_pool(path, 1.0, 40, seed=7), wanted=30, length=length, max_length=100)
    assert mixed.record is not None
    assert len(mixed.examples) == mixed.record["used"] == 30
    assert all(length(example) <= 100 for example in mixed.examples)
    assert mixed.record["overlong"] > 0
    assert mixed.record["tokens"] == sum(map(length, mixed.examples))
    assert set(mixed.record) == {"file", "fingerprint", "available", "wanted", "used", "overlong", "tokens"}
    json.dumps(mixed.record, default=str)


def test_a_chat_of_just_the_length_that_is_trained_on_is_taken(tmp_path: Path) -> None:
    pool = load_pool(write(tmp_path / "chats.jsonl", [chat(words=10)]), 1.0, 1, seed=0)
    size = length(pool.examples[0])
    assert len(choose(pool, 1, length, max_length=size).examples) == 1
    with pytest.raises(UserError, match=f"longer than train.max_length = {size - 1}"):
        choose(pool, 1, length, max_length=size - 1)


def test_the_fingerprint_tells_sets_of_chats_apart(tmp_path: Path) -> None:
    sets = [[chat(1), chat(2)], [chat(2), chat(1)], [chat(1), chat(2, words=2)], [chat(1)], [chat(1), chat(2), chat(2)]]
    pools = [load_pool(write(tmp_path / f"{n}.jsonl", rows), 1.0, 1, seed=0) for n, rows in enumerate(sets)]
    assert len({pool.fingerprint for pool in pools}) == len(sets)
    # A key that is not learnt from changes nothing.
    same = write(tmp_path / "same.jsonl", [{**chat(1), "source": "x"}, chat(2)])
    assert load_pool(same, 1.0, 1, seed=0).fingerprint == pools[0].fingerprint


def test_a_small_set_is_used_once_and_the_line_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "chats.jsonl", [chat(n) for n in range(3)])
    mixed = choose(load_pool(str(path), 1.0, 10, seed=0), wanted=10, length=length, max_length=100)
    assert len(mixed.examples) == 3
    assert mixed.text.startswith(f"3 general chats (10 were wanted) of 3 in {path} mixed in, ")


@pytest.mark.parametrize(("spec", "ratio"), [(None, 1.0), ("no/such/file.json", 0.0)])
def test_nothing_is_read_where_nothing_is_mixed_in(spec: str | None, ratio: float) -> None:
    mixed = choose(load_pool(spec, ratio, 10, seed=0), wanted=10, length=length, max_length=100)
    assert load_pool(spec, ratio, 10, seed=0) == ChatPool()
    assert mixed.record is None and not mixed.examples


def test_all_bad_chats_are_reported_together_with_place_and_remedy(tmp_path: Path) -> None:
    user, assistant = {"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}
    rows: list[Any] = [
        chat(),
        record_row(),
        "text",
        {"messages": "text"},
        {"messages": [user, {"role": "tool", "content": "x"}, assistant]},
        {"messages": [user, {"role": "system", "content": "x"}, assistant]},
        {"messages": [user, {"role": "assistant", "content": None}]},
        {"messages": [user, {"role": "assistant", "content": "答<|im_end|>"}]},
        {"messages": [user, assistant, user]},
        {"messages": [assistant]},
        {"messages": ["问", "答"]},
        {"conversations": [{"from": "human", "value": "问"}]},
    ]
    path = write(tmp_path / "chats.jsonl", rows)
    path.write_text(path.read_text(encoding="utf-8") + '{"messages": [', encoding="utf-8")
    with pytest.raises(UserError) as error:
        load_pool(path, 1.0, 10, seed=0)
    said = str(error.value)
    for part in (
        ":2: has keys id, subject, type,",
        ':3: has "text", no list of messages; a chat is written {"messages": [{"role": "user"',
        ':4: has messages "text", no list of messages',
        ':5: message 2 has the role "tool"; it must be one of system user assistant',
        ":6: message 2 is a system turn; only the first can be, remove it",
        ":7: message 2 (assistant) has the content null; it must be a text that is not empty",
        ":8: message 2 (assistant) contains the chat marker <|im_end|>; remove it",
        ":9: ends in a turn of user; the last turn is what is learnt and must be the assistant's",
        ":10: has no turn of user; the assistant must have something to answer",
        ":11: message 1 has the role null",
        ":12: has keys conversations, no list of messages",
        ":13: is not JSON",
        "13 error(s)",
    ):
        assert part in said


def test_a_set_without_chats_and_one_of_long_chats_only_are_errors(tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match="holds no chats"):
        load_pool(tmp_path / "empty.json", 1.0, 10, seed=0)
    path = write(tmp_path / "long.jsonl", [chat(n, words=500) for n in range(5)])
    with pytest.raises(
        UserError, match=r"every one of the 5 chats drawn is longer than train\.max_length = 100; raise it"
    ):
        choose(load_pool(path, 1.0, 10, seed=0), wanted=10, length=length, max_length=100)


def test_a_missing_mix_file_is_told_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys, train_qwen_gaokao\n"
        "try:\n"
        "    train_qwen_gaokao.main(['--data.mix', 'none.jsonl'])\n"
        "except Exception as error:\n"
        "    print(error)\n"
        "print(sorted({'torch', 'transformers', 'trl', 'datasets', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    said, heavy = done.stdout.strip().splitlines()
    assert said.startswith("data.mix = none.jsonl: there is no such data file")
    assert heavy == "[]"


def test_mixed_chats_are_in_the_training_set_in_the_form_that_is_learnt_from(tmp_path: Path) -> None:
    from gaokao import splits, tiny, training
    from gaokao.records import load_records

    path = write(tmp_path / "records.jsonl", [record_row(n) for n in range(4)])
    records = load_records(path)
    tokenizer = tiny.train_tokenizer([piece for record in records for piece in tiny.plain_pieces(record)])
    pool = load_pool(write(tmp_path / "chats.jsonl", [chat(n) for n in range(9)]), 1.0, 4, seed=0)
    mixed = choose(pool, 4, lambda example: len(splits.example_ids(tokenizer, example)), max_length=200)
    assert mixed.record is not None and mixed.record["used"] == 4
    rows = training.as_dataset(records, mixed.examples)
    assert len(rows) == 8
    assert rows[7] == mixed.examples[3]
    # The prompt of an example is a prefix of the whole, so that the loss begins where the last answer begins.
    whole = splits.example_ids(tokenizer, mixed.examples[0])
    prompt = tokenizer.apply_chat_template(mixed.examples[0]["prompt"], add_generation_prompt=True, return_dict=True)
    head = list(prompt["input_ids"])
    assert whole[: len(head)] == head
    assert "答" in tokenizer.decode(whole[len(head) :])
