"""`python -m gaokao_data.check`: errors come first and set the exit code, everything else is a warning with evidence."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaokao import audit
from gaokao.checks import CHECKS
from gaokao.errors import MAX_FAULTS, UserError
from gaokao.prompts import format_chat, prepare_input
from gaokao.records import PASSAGES, load_records
from gaokao.settings import load_config
from gaokao.text import LEAK_BOUND
from gaokao_data import check

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = [str(ROOT / "gaokao_data" / name) for name in ("train.json", "test.json")]

# What is asked about, the true option, the explanation: different enough that no two stems are near-duplicates.
FACTS = [
    ("叶绿体中色素的提取与分离", "层析液用于分离四种光合色素", "色素在层析液中的溶解度不同，扩散速度也就不同"),
    ("细胞膜的流动镶嵌模型", "磷脂双分子层构成膜的基本支架", "蛋白质分子以不同的方式镶嵌在支架之中"),
    ("酵母菌在两种条件下的呼吸", "有氧时酵母菌释放的能量更多", "缺氧时葡萄糖分解不彻底，大部分能量留在酒精里"),
    ("豌豆杂交实验中的分离现象", "等位基因随同源染色体而分开", "豌豆自花传粉，自然状态下一般是纯种"),
    ("草原生态系统中的能量流动", "能量沿营养级单向传递并逐级减少", "每一营养级都有一部分能量以热能的形式散失"),
    ("人体血糖平衡受激素的调节", "胰岛素促进组织细胞摄取葡萄糖", "血糖升高时胰岛的分泌活动增强"),
]
LETTERS = "ABCD"


def row(number: int, **changes: Any) -> dict[str, Any]:
    """A valid record that passes every check; the key goes round A, B, C, D."""
    topic, truth, reason = FACTS[number % len(FACTS)]
    key = LETTERS[number % 4]
    options = {letter: f"{topic}与第{letter}种环境因素毫无关系可言" for letter in LETTERS} | {key: truth}
    lines = "\n".join(f"{letter}．{text}" for letter, text in options.items())
    made = {
        "id": f"item-{number}",
        "subject": "生物",
        "type": "单选题",
        "课本内容": "生物体的各种活动都离不开环境，环境的变化会影响生物。",
        "课外内容": "",
        "question": f"某校生物兴趣小组讨论了{topic}，下列叙述正确的是\n{lines}",
        "answer": key,
        "analysis": f"{reason}，因此{key}项符合事实。故选{key}。",
    }
    return {**made, **changes}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write rows as JSON Lines and give the file's name."""

    def write_lines(rows: list[Any], name: str = "items.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in rows), encoding="utf-8")
        return str(path)

    return write_lines


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command in this process, without a tokenizer; give the exit code and what it printed."""

    def run_command(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            check.main(["--tokens", "none", *arguments])
        assert isinstance(stop.value.code, int)
        return stop.value.code, capsys.readouterr().out

    return run_command


Run = Callable[..., tuple[int, str]]
Write = Callable[..., str]


def test_clean_records_give_no_error_and_no_warning(run: Run, write: Write) -> None:
    code, text = run(write([row(number) for number in range(4)]))
    assert code == 0
    assert text.startswith("errors    none")
    assert text.rstrip().endswith("result    no errors; no warnings")
    assert f"\n  nothing found by: {', '.join(entry.name for entry in CHECKS)}\n" in text


def test_every_error_is_located_with_its_remedy_before_all_else(run: Run, write: Write) -> None:
    bad = [row(0), row(1, subject="音乐"), row(2, analysis=""), ["not", "an", "object"], row(3, answer=7)]
    name = write(bad)
    code, text = run(name)
    assert code == 1
    assert text.startswith("errors    4 in the records")
    for line, words in (
        (2, 'subject (科目) is "音乐"; it must be one of'),
        (3, "analysis (解析) is empty; write it"),
        (4, "instead of an object"),
        (5, "answer (参考答案) is 7; it must be a text"),
    ):
        assert any(f"{name}:{line}" in found and words in found for found in text.splitlines()), words
    assert "records   1, by subject" in text


def test_errors_beyond_the_cap_are_counted_and_verbose_lists_them(run: Run, write: Write) -> None:
    name = write([row(0), *(row(number, type="") for number in range(1, MAX_FAULTS + 8))])
    assert "… and 7 more (--verbose lists all)" in run(name)[1]
    assert run(name)[1].count("\n  - ") == MAX_FAULTS
    assert run(name, "--verbose")[1].count("\n  - ") == MAX_FAULTS + 7
    assert len(json.loads(run(name, "--json")[1])["errors"]["entries"]) == MAX_FAULTS + 7


def test_an_id_twice_in_a_file_is_an_error_and_in_two_files_a_warning(run: Run, write: Write) -> None:
    name = write([row(0), row(1, id="item-0")])
    code, text = run(name)
    assert code == 1
    assert f"{name}:2 (id item-0): the id is also that of {name}:1; give it another" in text
    one, other = write([row(0)], "a.jsonl"), write([row(1, id="item-0")], "b.jsonl")
    code, text = run(one, other)
    assert code == 0
    assert f"item-0: {one}:1 and {other}:1" in text


def test_a_cut_off_last_line_is_an_error_and_the_lines_before_it_are_checked(run: Run, write: Write) -> None:
    name = write([row(0), row(1)])
    whole = Path(name).read_text(encoding="utf-8")
    Path(name).write_text(whole[:-60], encoding="utf-8")
    code, text = run(name)
    assert code == 1
    assert f"{name}:2: is not JSON" in text
    assert "records   1, by subject" in text


def test_gb18030_is_named_with_the_way_to_convert_it(write: Write) -> None:
    name = write([row(0)])
    path = Path(name)
    path.write_bytes(path.read_text(encoding="utf-8").encode("gb18030"))
    with pytest.raises(UserError, match=r"GB18030.*iconv -f GB18030 -t UTF-8"):
        check.main([name, "--tokens", "none"])


def test_an_unreadable_file_among_others_leaves_the_others_checked(run: Run, write: Write, tmp_path: Path) -> None:
    good = write([row(0)])
    broken = tmp_path / "broken.json"
    broken.write_text('[{"id": "a", "subject"', encoding="utf-8")
    code, text = run(good, str(broken), str(tmp_path / "nowhere.json"), write([row(1)], "last.jsonl"))
    assert code == 2
    assert f"unreadable  {broken}:1: is not JSON" in text
    assert "nowhere.json: there is no such data file" in text
    assert "records   2, by subject" in text
    assert "2 file(s) cannot be read; no errors" in text


def test_an_empty_list_is_an_error(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "empty.json"
    path.write_text("[]", encoding="utf-8")
    code, text = run(str(path))
    assert code == 1
    assert "holds no records" in text


def test_the_command_answers_a_missing_file_with_code_2_and_keeps_stdout_clean(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gaokao_data.check", str(tmp_path / "nowhere.json"), "--json"],
        cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "there is no such data file" in done.stderr


def test_a_reader_that_has_seen_enough_ends_the_report_quietly(write: Write) -> None:
    read, closed = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "gaokao_data.check", write([row(0)]), "--tokens", "none", "--verbose"],
        cwd=ROOT, stdout=closed, stderr=subprocess.PIPE, check=False,
    )  # fmt: skip
    os.close(closed)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("flag", ["--verb", "--js", "--conf=x.yaml", "--tok=none"])
def test_abbreviated_flags_are_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        check.main(["a.json", flag])
    assert stop.value.code == 2
    assert f"unrecognized arguments: {flag}" in capsys.readouterr().err


def test_names_that_no_file_can_have_are_missing_files(write: Write, tmp_path: Path) -> None:
    for name, said in (
        ("x" * 300, "File name too long"),
        ("~nobody-of-this-name/x", "there is no such data file; check"),
    ):
        with pytest.raises(UserError, match=said):
            check.main([name])
        assert check.find_tokenizer(name, None, tmp_path) is None
    with pytest.raises(UserError, match=r"the tokenizer in x+ cannot be read"):
        check.main([write([row(0)]), "--tokens", "x" * 300])


def test_started_from_another_folder_it_says_where_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"start from there: cd {ROOT}"):
        check.main(["gaokao_data/train.json"])


def test_the_table_counts_by_subject_and_type(run: Run, write: Write) -> None:
    other = row(1, subject="历史", type="主观题", answer=["第一问的要点。", "第二问的要点。"])
    text = run(write([row(0), other, row(2)]))[1]
    table = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith("  ") and line.strip()}
    assert table["生物"] == ["2", "-", "-", "-", "2"]
    assert table["历史"] == ["-", "-", "-", "1", "1"]
    assert table["all"] == ["2", "-", "-", "1", "3"]


def test_lengths_are_those_of_the_whole_example_and_compared_with_max_length(
    run: Run, write: Write, tmp_path: Path
) -> None:
    rows = [row(number) for number in range(4)]
    name = write(rows)
    config = tmp_path / "config.yaml"
    examples = [format_chat(record) for record in load_records(name)]
    lengths = sorted(sum(len(turn["content"]) for turn in [*a["prompt"], *a["completion"]]) for a in examples)
    config.write_text(f"train:\n  max_length: {lengths[-1] - 1}\n", encoding="utf-8")
    found = json.loads(run(name, "--json", "--config", str(config))[1])
    assert found["lengths"]["unit"] == "characters"
    assert found["lengths"]["max_length"] == lengths[-1] - 1
    figures = found["files"][0]["lengths"]
    assert (figures["minimum"], figures["p50"], figures["maximum"]) == (lengths[0], lengths[1], lengths[-1])
    assert figures["too_long"] == sum(length == lengths[-1] for length in lengths)
    # In characters it is no warning: a token holds more than one.
    assert found["warnings"] == []
    config.write_text(f"train:\n  max_length: {lengths[-1]}\n", encoding="utf-8")
    assert json.loads(run(name, "--json", "--config", str(config))[1])["files"][0]["lengths"]["too_long"] == 0


def test_without_a_tokenizer_on_the_machine_lengths_are_characters_and_say_why(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"model:\n  base: nobody/no-such-model\noutput:\n  dir: {tmp_path}\n", encoding="utf-8")
    measure = check.choose_measure("auto", load_config(["--config", str(config)], "test").config, "train")
    assert measure.unit == "characters"
    assert "nobody/no-such-model is not on this machine" in measure.reason
    config.write_text(f"model:\n  base: builtin:tiny\noutput:\n  dir: {tmp_path}\n", encoding="utf-8")
    measure = check.choose_measure("auto", load_config(["--config", str(config)], "test").config, "train")
    assert measure.unit == "characters"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml"]


def byte_tokenizer(folder: Path) -> None:
    """A tokenizer with one token per byte and Qwen's chat turns."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + ':' + m.content }}<|im_end|>{% endfor %}"
    tokenizer.save_pretrained(folder)


def test_tokens_are_counted_with_the_chat_template_where_the_tokenizer_is_there(
    run: Run, write: Write, tmp_path: Path
) -> None:
    byte_tokenizer(tmp_path / "tiny-0123456789ab")
    name = write([row(0)])
    record = load_records(name)[0]
    example = format_chat(record)
    # One token per byte, and one for the end of each of the three turns.
    messages = [*example["prompt"], *example["completion"]]
    expected = sum(len(f"{message['role']}:{message['content']}".encode()) + 1 for message in messages)
    config = tmp_path / "config.yaml"
    config.write_text(
        f"model:\n  base: builtin:tiny\noutput:\n  dir: {tmp_path}\ntrain:\n  max_length: 64\n", encoding="utf-8"
    )
    code, text = run(name, "--json", "--config", str(config), "--tokens", "auto")
    found = json.loads(text)
    assert code == 0
    assert found["lengths"]["unit"] == "tokens"
    assert found["all"]["lengths"]["maximum"] == expected
    assert found["lengths"]["too_long"] == {
        "count": 1,
        "entries": [{"where": f"{name}:1", "id": "item-0", "length": expected}],
    }
    assert found["warnings"] == ["1 records over 64 tokens, which a training leaves out"]


def test_a_named_folder_without_a_tokenizer_is_refused(write: Write, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"the tokenizer in {tmp_path} cannot be read"):
        check.main([write([row(0)]), "--tokens", str(tmp_path)])


def test_checks_are_ranked_with_ids_and_evidence_and_stay_warnings(run: Run, write: Write) -> None:
    bad = [row(number, answer=LETTERS[(number + 1) % 4]) for number in range(4)]
    worse = row(4, question="如图所示，" + row(4)["question"])
    name = write([*bad, worse])
    code, text = run(name)
    assert code == 0
    assert "checks    0 of 5 records pass every hard check; 5 are unusable" in text
    ranks = [line.split(":")[0].strip() for line in text.splitlines() if line.startswith(("  hard", "  soft"))]
    assert ranks[0] == "hard  key agrees"
    assert "hard  picture" in ranks
    assert f"{name}:1 (id item-0): the 解析 concludes “故选A”, the key is B" in text
    assert "… and 1 more (--verbose lists all)" in text
    assert f"{name}:4 (id item-3): the 解析 concludes" not in text
    assert f"{name}:4 (id item-3): the 解析 concludes" in run(name, "--verbose")[1]


def test_near_duplicates_are_found_within_and_across_files(run: Run, write: Write) -> None:
    twin = row(0, id="twin", question=row(0)["question"].replace("某校", "某中学"))
    one, other = write([row(1), row(2), row(0)], "a.jsonl"), write([twin, row(3), row(4), row(3, id="copy")], "b.jsonl")
    code, text = run(one, other)
    assert code == 0
    assert "1 near-duplicate pairs within a file, 1 across files" in text
    assert f"{one}:3 (id item-0) and {other}:1 (id twin)" in text
    assert f"  1.00  {other}:2 (id item-3) and {other}:4 (id copy)" in text
    pairs = json.loads(run(one, other, "--json")[1])["near_duplicates"]["entries"]
    assert [(pair["first"]["id"], pair["second"]["id"], pair["across"]) for pair in pairs] == [
        ("item-0", "twin", True),
        ("item-3", "copy", False),
    ]


def test_above_the_stated_size_the_duplicate_search_is_left_out_and_says_so(
    run: Run, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "DUPLICATE_CHARACTERS", 150)
    code, text = run(write([row(0), row(0, id="copy"), row(1)]))
    assert code == 0
    assert "not searched: the questions have more than 150 characters" in text


def test_keys_that_favour_a_letter_or_the_longest_option_are_reported(run: Run, write: Write) -> None:
    few = run(write([row(number) for number in range(4)], "few.jsonl"))[1]
    assert "few.jsonl: 4 single-answer choice items, 20 are needed" in few
    question = "第{}组同学的叙述正确的是\nA．细胞有核\nB．细胞壁由纤维素和果胶构成\nC．膜无蛋白\nD．水不能过膜"
    rows = [
        row(0, id=str(n), question=question.format(n), answer="B", analysis="B项符合事实。故选B。") for n in range(24)
    ]
    code, text = run(write(rows, "biased.jsonl"), "--json")
    keys = json.loads(text)["files"][0]["keys"]
    assert code == 0
    assert (keys["total"], keys["shares"]["B"], keys["longest"], keys["outcome"]) == (24, 1.0, 1.0, "fail")
    assert "biased.jsonl: biased: B is the key of 100%; the key is" in run(write(rows, "biased.jsonl"))[1]


def test_passages_that_contain_the_answer_are_listed_unless_marked(run: Run, write: Write) -> None:
    giving = f"教师指出，{FACTS[0][1]}，这一点已由实验证实。"
    rows = [row(0, 课本内容=giving), row(6, 课外内容=giving, leaks=True), row(1), row(2, 课本内容="")]
    name = write(rows)
    code, text = run(name)
    assert code == 0
    assert "1 records leak: their passages together contain more than 10% of the answer; 1 more are marked" in text
    assert f"leaks: {name}:1 (id item-0): 100% of the answer" in text
    found = json.loads(run(name, "--json")[1])
    textbook, outside = (found["files"][0]["passages"][passage] for passage in PASSAGES)
    assert (textbook["measured"], textbook["empty"], textbook["maximum"]) == (3, 1, 1.0)
    assert textbook["above_0"] == pytest.approx(1 / 3)
    assert (textbook["median"], textbook["p95"]) == (0.0, 1.0)
    assert (outside["measured"], outside["empty"], outside["above_0"]) == (1, 3, 1.0)
    assert {**found["all"], "name": name} == found["files"][0]
    assert found["leaks"] == {
        "bound": LEAK_BOUND,
        "marked": 1,
        "count": 1,
        "entries": [{"where": f"{name}:1", "id": "item-0", "share": 1.0}],
    }


def test_json_is_one_object_with_every_section(run: Run, write: Write) -> None:
    one, other = write([row(0), row(1, type="")], "a.jsonl"), write([row(2)], "b.jsonl")
    code, text = run(one, other, "--json")
    found = json.loads(text)
    assert code == found["exit_code"] == 1
    assert set(found) == {
        "exit_code", "errors", "warnings", "files", "all", "lengths", "checked", "usable", "checks", "near_duplicates",
        "shared_ids", "leaks", "grounding",
    }  # fmt: skip
    assert [file["name"] for file in found["files"]] == [one, other]
    assert found["all"]["subjects"] == {"生物": {"单选题": 2}}
    assert {entry["name"] for entry in found["checks"]} == {entry.name for entry in CHECKS}
    assert found["usable"] == 2


def test_the_bundled_set_has_no_error_no_failing_check_and_no_near_duplicate(run: Run) -> None:
    code, text = run(*BUNDLED, "--json")
    found = json.loads(text)
    assert code == 0
    assert found["errors"]["count"] == 0
    assert found["warnings"] == []
    assert [entry["name"] for entry in found["checks"] if entry["count"]] == []
    assert found["near_duplicates"] == {
        "threshold": 0.6,
        "left_out": "",
        "across": 0,
        "count": 0,
        "entries": [],
    }
    assert found["usable"] == found["all"]["records"] >= 396


# --- for generation -------------------------------------------------------------------------------------------------


def prompt_row(number: int) -> dict[str, Any]:
    """What generation needs of a record."""
    return {key: value for key, value in row(number).items() if key not in ("question", "answer", "analysis")}


def test_a_file_for_generation_is_checked_by_the_rules_of_generation(run: Run, write: Write) -> None:
    rows = [prompt_row(0), prompt_row(1), row(2), {**row(3), "answer": "D" if row(3)["answer"] != "D" else "A"}]
    name = write(rows)
    assert run(name)[0] == 1
    code, text = run(name, "--for", "generate")
    assert code == 0
    assert "checks    1 of 2 records pass every hard check; 1 are unusable; 2 without question, answer or 解析" in text
    assert "hard  key agrees: 1 of 2 that it applies to fail" in text
    assert "lengths   characters of a prompt (--tokens none)" in text and "over" not in text
    found = json.loads(run(name, "--for", "generate", "--json")[1])
    prompts = [sum(len(turn["content"]) for turn in prepare_input(record)) for record in load_records(name, "generate")]
    assert found["all"]["lengths"]["maximum"] == max(prompts)
    assert (found["checked"], found["usable"], found["lengths"]["max_length"]) == (2, 1, None)


def test_what_generation_needs_is_still_an_error_where_it_is_missing(run: Run, write: Write) -> None:
    bad = prompt_row(0)
    del bad["课本内容"]
    code, text = run(write([bad, prompt_row(1)]), "--for", "generate")
    assert code == 1
    assert "课本内容 is missing; add it (an empty text means none)" in text


# --- splitting ------------------------------------------------------------------------------------------------------


def test_a_split_writes_train_and_test_and_counts_them(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, out = write([row(number) for number in range(6)]), tmp_path / "a" / "b"
    check.main([name, "--split", "0.34", "--out", str(out)])
    text = capsys.readouterr().out
    train, test = load_records(out / "train.json"), load_records(out / "test.json")
    assert (len(train), len(test)) == (4, 2)
    assert sorted([*train, *test], key=lambda record: record.id) == load_records(name)
    assert f"records   4 in {out / 'train.json'}, by subject and type" in text
    assert f"records   2 in {out / 'test.json'}, by subject and type" in text
    counts = [line.split() for line in text.splitlines() if line.split()[0] == "生物"]
    assert counts == [["生物", "4", "-", "-", "-", "4"], ["生物", "2", "-", "-", "-", "2"]]


@pytest.mark.parametrize("there", ["train.json", "test.json"])
def test_a_split_overwrites_nothing(write: Write, tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=f"{there}: exists already and is not overwritten"):
        check.main([write([row(number) for number in range(6)]), "--split", "0.5", "--out", str(tmp_path)])
    assert (tmp_path / there).read_text(encoding="utf-8") == "mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_with_errors_is_not_split(write: Write, tmp_path: Path) -> None:
    name = write([*(row(number) for number in range(6)), row(7, type=""), row(8, id="item-0")])
    with pytest.raises(UserError, match=r"2 error\(s\) in the records"):
        check.main([name, "--split", "0.5", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_file_for_generation_is_split_by_its_own_rules(write: Write, tmp_path: Path) -> None:
    check.main(
        [write([prompt_row(n) for n in range(4)]), "--for", "generate", "--split", "0.5", "--out", str(tmp_path)]
    )
    assert len(load_records(tmp_path / "test.json", "generate")) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--split", "0.1"], "--split SHARE and --out DIR belong together"),
        (["--out", "x"], "--split SHARE and --out DIR belong together"),
        (["--split", "0", "--out", "x"], "argument --split: '0' is no share; give a number above 0 and below 1"),
        (["--split", "1", "--out", "x"], "argument --split: '1' is no share"),
        (["--split", "ten", "--out", "x"], "argument --split: 'ten' is no share"),
        (["--split", "nan", "--out", "x"], "argument --split"),
        (["--for", "training"], "argument --for: invalid choice"),
    ],
)
def test_a_command_line_that_means_nothing_is_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        check.main(["a.json", *arguments])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
