"""What the README and the other pages say is what the code does: commands, options, files, prompt, tree, both halves."""

import importlib
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import ROOT

from gaokao.checks import CHECKS
from gaokao.config import Config
from gaokao.endpoint import OPENAI_PIN
from gaokao.prompts import TYPE_HINTS, prepare_input
from gaokao.records import SUBJECTS, TYPES, Record, load_records
from gaokao.settings import KEYS, SECTIONS, load_config
from gaokao.trackers import PACKAGES

PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "gaokao_data/README.md", "tests/README.md")
}
README = PAGES["README.md"]
ENGLISH, CHINESE = README.split("\n# 使用说明\n")
HALVES = {"english": ENGLISH, "chinese": CHINESE}
TITLES = {
    "What it does, and what is unproven": "它做什么，哪些还没有证实",
    "Is it for you?": "适合你吗",
    "Requirements": "需要什么",
    "Install": "安装",
    "Linux": "Linux",
    "macOS": "macOS",
    "Windows (PowerShell)": "Windows（PowerShell）",
    "From mainland China": "在中国大陆",
    "Without internet": "不联网",
    "Try it without a GPU": "没有显卡先试一遍",
    "Your questions: from Excel to an adapter": "用自己的题目训练：从 Excel 到适配器",
    "1. The table": "1. 表格",
    "2. Check": "2. 检查",
    "3. Passages, where they are missing": "3. 补写缺少的材料",
    "4. Split": "4. 划分",
    "5. Train": "5. 训练",
    "6. Generate": "6. 出题",
    "7. Evaluate": "7. 评测",
    "Questions from your passages": "用自己的材料出题",
    "Without training": "不训练也能用",
    "Servers": "服务器",
    "Compared with LLaMA-Factory and ms-swift": "与 LLaMA-Factory、ms-swift 相比",
    "Results and scores": "结果与分数",
    "Measured": "实测",
    "Times": "用时",
    "Speed of generation": "出题的速度",
    "Speed of training": "训练的速度",
    "The tiny model": "小模型",
    "Made from its passages": "由材料而来",
    "The prompt": "提示词",
    "Hostile input and killed runs": "恶意输入与被杀死的运行",
    "Problems": "常见问题",
    "Tests": "测试",
    "Tree": "目录",
    "Licence": "许可证",
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SCRIPTS = ("train_qwen_gaokao.py", "infer_qwen_gaokao.py", "evaluate.py")
DATA_TOOLS = ("gaokao_data.check", "gaokao_data.import_gaokao_bench", "gaokao_data.write_passages")


# --- reading the pages ----------------------------------------------------------------------------------------------


def headings(page: str) -> list[tuple[int, str]]:
    """Level and title of every heading below the first level."""
    return [(len(a), b) for a, b in re.findall(r"^(##+) (.+)$", FENCE.sub("", page), re.MULTILINE)]


def section(half: str, title: str) -> str:
    """What stands below a heading, with the headings below it."""
    title = title if half == "english" else TITLES[title]
    found = re.search(rf"^(##+) {re.escape(title)}\n(.*?)(?=^\1 |\Z)", HALVES[half], re.MULTILINE | re.DOTALL)
    assert found, title
    return found[2]


def blocks(text: str, *languages: str) -> list[str]:
    """The code blocks of some languages, or of all."""
    return [body for language, body in FENCE.findall(text) if language in languages or not languages]


def inline(page: str) -> list[str]:
    """What stands in backticks within the text."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", page))


def commands(page: str) -> Iterator[str]:
    """Every command of a page: one line, without variables before it and redirections behind it."""
    for body in [*blocks(page, "bash", "powershell"), *inline(page)]:
        for line in re.sub(r"[\\`]\n\s*", "", body).splitlines():
            for part in line.split("&&"):
                part = re.sub(r"^(?:[A-Z_]+=\S* )+", "", part.strip())
                yield re.sub(r"\s+(?:&|> \S+)$", "", part)


def python_commands() -> list[tuple[str, list[str]]]:
    """Script or module, and arguments, of every `python ...` and `torchrun ...` in the pages."""
    found = []
    for page in PAGES.values():
        for command in commands(page):
            words = shlex.split(command) if re.match(r"(?:python|torchrun) ", command) else []
            if words[1:] and words[0] == "torchrun":
                # Its own options stand before the script.
                words = ["python", *words[next(at for at, word in enumerate(words) if word.endswith(".py")) :]]
            if words[:2] in (["python", "-m"], ["python3", "-m"]):
                found.append((words[2], words[3:]))
            elif words:
                found.append((words[1], words[2:]))
    return found


COMMANDS = python_commands()


# --- commands -------------------------------------------------------------------------------------------------------


class Parsed(Exception):
    """The command line was read; nothing behind it is wanted here."""


def parse(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the command itself read its command line, and stop there."""

    def read(*given: Any, **options: Any) -> None:
        load_config(*given, **options)
        raise Parsed

    module: ModuleType = importlib.import_module(name.removesuffix(".py"))
    if name in SCRIPTS:
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        monkeypatch.setattr(module, "load_config", read)
        with pytest.raises(Parsed):
            module.main(arguments)
    else:
        module.parse_arguments(arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [(name, arguments) for name, arguments in COMMANDS if name in (*SCRIPTS, *DATA_TOOLS)],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_the_command_reads_the_line_of_the_page(
    name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parse(name, arguments, monkeypatch)


def test_a_wrong_line_would_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, arguments in [
        ("train_qwen_gaokao.py", ["--train.epochs", "3"]),
        ("gaokao_data.check", ["a.csv", "--splt", "1"]),
    ]:
        with pytest.raises((Exception, SystemExit)) as raised:
            parse(name, arguments, monkeypatch)
        assert not isinstance(raised.value, Parsed)


def test_every_other_command_is_a_program_of_the_tests_with_these_options_or_a_known_one() -> None:
    for name, arguments in COMMANDS:
        if name in (*SCRIPTS, *DATA_TOOLS, "pytest", "venv"):
            continue
        file = ROOT / f"{name.replace('.', '/')}.py"
        assert name.startswith("tests.") and file.exists(), name
        source = file.read_text(encoding="utf-8") + (ROOT / "tests/fuzz/tally.py").read_text(encoding="utf-8")
        assert [word for word in arguments if word.startswith("--") and f'"{word}"' not in source] == [], name


def test_the_path_from_a_table_to_scores_is_there_in_its_order() -> None:
    names = [
        re.split(r"\s", command.removeprefix("python ").removeprefix("-m "))[0]
        for command in commands(section("english", "Your questions: from Excel to an adapter"))
        if command.startswith("python ")
    ]
    order = [
        "gaokao_data.check",
        "gaokao_data.write_passages",
        "train_qwen_gaokao.py",
        "infer_qwen_gaokao.py",
        "evaluate.py",
    ]
    assert sorted(set(names), key=names.index) == order


# Looked up in the help of vLLM 0.32.
VLLM = {
    "--max-lora-rank", "--data-parallel-size", "--tensor-parallel-size", "--headless",
    "--no-enable-chunked-prefill", "--max-num-batched-tokens",
}  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_options_and_keys_in_the_text_are_known(name: str) -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "gaokao_data").glob("*.py"))
    # Wherever a parser gets its options.
    files = [ROOT / "tests" / "gpu_check.py", *ROOT.glob("*.py"), *(ROOT / "gaokao").glob("*.py")]
    sources += "".join(path.read_text(encoding="utf-8") for path in files)
    known = {
        *re.findall(r'"(--[\w-]+)"', sources),
        "--adapter",
        "--without_gpu",
        "--help",
        "--nproc_per_node",
        "--shutdown_timeout",
    } | VLLM
    for code in inline(PAGES[name]):
        if code.startswith("--"):
            words = shlex.split(code)
            if words[0].startswith("--") and "." in words[0]:
                load_config(["--config", str(ROOT / "config.yaml"), *words, *([] if words[1:] else ["1"])], "test")
            else:
                assert words[0] in known, code
        elif found := re.fullmatch(rf"((?:{'|'.join(SECTIONS)})\.[a-z]\w*)(?:: (\S+))?", code):
            if (ROOT / found[1]).exists() or found[1].endswith((".py", ".json")):
                continue
            assert found[1] in KEYS, code
            if found[2]:
                load_config(["--config", str(ROOT / "config.yaml"), f"--{found[1]}", found[2]], "test")


@pytest.mark.parametrize("name", PAGES)
def test_files_of_the_project_that_are_named_are_there(name: str) -> None:
    paths = {code for code in inline(PAGES[name]) if re.fullmatch(r"[\w./-]+\.(?:py|yaml|md|txt)|\.ci/run", code)}
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_versions_in_the_pages_are_the_pinned_ones() -> None:
    pins = {OPENAI_PIN, *PACKAGES.values()}
    for name in ("requirements.txt", "tests/requirements.txt"):
        pins |= {line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if re.match(r"[\w-]+==", line)}
    named = {pin for page in PAGES.values() for pin in re.findall(r"[\w-]+==[\d.]+\d", page)}
    assert named and named <= pins


def test_powershell_gets_nothing_that_only_a_posix_shell_knows() -> None:
    shown = blocks(README, "powershell")
    assert shown
    for body in shown:
        assert "&&" not in body and "\\\n" not in body and "export " not in body and "bin/activate" not in body
    for body in blocks(README, "bash"):
        assert "`\n" not in body and "$env:" not in body


def test_ci_runs_the_test_command_word_for_word() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    for half in HALVES:
        assert blocks(section(half, "Tests"), "bash")[0].strip() in script


def test_what_requirements_leave_out_is_explained() -> None:
    for package in ("flash-attn", "modelscope", OPENAI_PIN):
        assert re.search(rf"pip install (?:-i \S+ )?{re.escape(package)}", README)


# --- what is said ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", HALVES)
def test_the_prompt_to_paste_is_what_the_program_sends(half: str) -> None:
    record = Record("r", "历史", "单选题", "（粘贴课本内容）", "（粘贴课外内容，没有就写“无”）")
    text = section(half, "Without training")
    assert blocks(text, "text") == ["\n\n".join(turn["content"] for turn in prepare_input(record)) + "\n"]
    others = {kind: hint for kind, hint in TYPE_HINTS.items() if kind != "单选题"}
    assert dict(re.findall(r"^\| (\S+题) \| (.+) \|$", text, re.MULTILINE)) == others


@pytest.mark.parametrize("half", HALVES)
def test_the_smallest_file_for_generation_is_read(half: str, tmp_path: Path) -> None:
    path = tmp_path / "chapter.csv"
    path.write_text(blocks(section(half, "Questions from your passages"), "csv")[0], encoding="utf-8")
    assert [record.type for record in load_records(path, "generate")] == ["单选题", "主观题"]


@pytest.mark.parametrize("half", HALVES)
def test_a_table_with_the_columns_of_the_page_is_read(half: str, tmp_path: Path) -> None:
    text = section(half, "1. The table")
    names = " ".join(re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)[2:]).split()
    cells = {name: "" for name in names} | {
        "科目": "生物", "题型": "单选题", "题干": "下列叙述正确的是", "选项A": "甲", "选项B": "乙", "选项C": "丙", "选项D": "丁",
        "参考答案": "B", "解析": "乙正确，故选B。",
    }  # fmt: skip
    path = tmp_path / "my.csv"
    path.write_text(",".join(cells) + "\n" + ",".join(cells.values()) + "\n", encoding="utf-8")
    (record,) = load_records(path, "train")
    assert record.question.endswith("A．甲\nB．乙\nC．丙\nD．丁") and not record.extra
    assert all(word in text for word in (*SUBJECTS, *TYPES))


def test_counts_in_the_pages_are_those_of_the_code_and_the_data() -> None:
    counts = [len(load_records(ROOT / "gaokao_data" / name)) for name in ("train.json", "test.json")]
    assert counts == [324, 72] and "396 bundled items" in ENGLISH and "396 道题" in CHINESE
    for half, words in ((ENGLISH, " checks"), (CHINESE, " 项检查"), (PAGES["gaokao_data/README.md"], " checks")):
        assert set(re.findall(rf"(\d+){words}", half)) == {str(len(CHECKS))}
    assert re.search(r"\| 3,000 \| 3 \| 1e-4 \| 8 \|", ENGLISH)
    train = Config().train
    assert (train.num_train_epochs, train.learning_rate, train.effective_batch) == (3, 1e-4, 8)


def test_the_variables_of_the_tests_stand_in_their_own_page_and_nowhere_else() -> None:
    used = set()
    for path in (ROOT / "tests").rglob("*.py"):
        used |= (
            set(re.findall(r"GAOKAO_[A-Z_]+[A-Z]", path.read_text(encoding="utf-8")))
            if path != Path(__file__)
            else set()
        )
    assert set(re.findall(r"GAOKAO_[A-Z_]+[A-Z]", PAGES["tests/README.md"])) == used
    assert "GAOKAO_" not in README


@pytest.mark.parametrize("name", [*PAGES, "config.yaml"])
def test_no_path_of_a_machine_and_no_word_that_was_given_up(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"/(?:home|root|work|tmp|Users)/", text)
    assert not re.search(r"底线|\b(?:floor|faulty?|mend(?:ed)?|flatter|riddle)\b", text)


# --- the two halves, links, tree ------------------------------------------------------------------------------------


def test_both_halves_have_the_same_headings_in_the_same_order() -> None:
    assert [(level, TITLES[title]) for level, title in headings(ENGLISH)] == headings(CHINESE)
    assert [title for _, title in headings(ENGLISH)] == [*TITLES]


@pytest.mark.parametrize("title", [title for level, title in headings(ENGLISH) if level == 2])
def test_both_halves_show_the_same_code_and_the_same_figures(title: str) -> None:
    english, chinese = section("english", title), section("chinese", title)
    if title != "Tree":
        assert blocks(english) == blocks(chinese)
    rows = [
        [
            sorted(re.findall(r"\d(?:[\d.,]*\d)?", row))
            for row in re.findall(r"^\|.*\|$", FENCE.sub("", text), re.MULTILINE)
        ]
        for text in (english, chinese)
    ]
    assert rows[0] == rows[1]


def test_the_chinese_half_is_full() -> None:
    assert len(re.findall(r"[\u4e00-\u9fff]", FENCE.sub("", CHINESE))) > 4000
    for half in HALVES.values():
        assert len(half.splitlines()) > 250


@pytest.mark.parametrize("name", PAGES)
def test_links_and_anchors_resolve(name: str) -> None:
    page = FENCE.sub("", PAGES[name])
    for target in re.findall(r"\]\(([^)\s]+)\)", page):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", FENCE.sub("", file.read_text(encoding="utf-8")), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target


@pytest.mark.parametrize("half", HALVES)
def test_the_tree_names_every_file_of_the_code_once_with_a_phrase(half: str) -> None:
    (tree,) = blocks(section(half, "Tree"), "text")
    rooms, data = (
        re.search(rf"^{folder}/.*?\n((?: .*\n)+)", tree, re.MULTILINE)[1]  # type: ignore[index]
        for folder in ("gaokao", "gaokao_data")
    )
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    for folder, lines in (("gaokao", rooms), ("gaokao_data", data)):
        tracked = {path.rpartition("/")[2] for path in listed if re.fullmatch(rf"{folder}/(?!__)\w+\.py", path)}
        phrases = re.findall(r"(\w+\.py) +\S", lines)
        assert tracked <= {*phrases} and len({*phrases}) == len(phrases)
        assert [name for name in phrases if not (ROOT / folder / name).exists()] == []
    named = re.findall(r"^([\w.]+(?:/run)?)/? ", tree, re.MULTILINE)
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert {path.name for path in ROOT.glob("*.py")} | {"config.yaml", "requirements.txt"} <= set(named)
