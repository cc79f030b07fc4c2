"""The import of GAOKAO-Bench: every item accounted for, clean texts, a split by year, passages that give nothing away.

The fixtures are written here in the layout of the benchmark; none of its items is copied.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gaokao.checks import Item, run_checks, usable
from gaokao.errors import UserError
from gaokao.records import TYPES, Record, load_records
from gaokao.runs import write_text
from gaokao.text import near_duplicates_across
from gaokao_data import import_gaokao_bench as bench
from gaokao_data.exam_print import SET

# (year, what is asked about, true option, explanation): different enough that no two stems are near-duplicates.
FACTS = [
    (
        2011,
        "叶绿体中色素的提取与分离",
        "层析液用于分离四种光合色素",
        "叶绿体色素在层析液中的溶解度不同，扩散速度也就不同，滤纸条上便出现四条色素带",
    ),
    (
        2012,
        "细胞膜的流动镶嵌模型及其功能",
        "磷脂双分子层构成膜的基本支架",
        "细胞膜主要由脂质和蛋白质组成，蛋白质分子以不同的方式镶嵌在支架之中，膜因此具有一定的流动性",
    ),
    (
        2013,
        "酵母菌在两种条件下的呼吸方式",
        "有氧时酵母菌释放的能量更多",
        "酵母菌属于兼性厌氧微生物，缺氧时葡萄糖分解不彻底，产物是酒精和二氧化碳，大部分能量留在酒精里",
    ),
    (
        2015,
        "豌豆杂交实验中的分离现象",
        "等位基因随同源染色体而分开",
        "豌豆自花传粉、闭花受粉，自然状态下一般是纯种，有易于区分的相对性状，适合作为遗传学的研究材料",
    ),
    (
        2017,
        "草原生态系统中能量怎样流动",
        "能量沿营养级单向传递并逐级减少",
        "生产者固定的太阳能是流经生态系统的总能量，每一营养级都有一部分能量因呼吸作用而以热能的形式散失",
    ),
    (
        2019,
        "人体血糖平衡受激素调节的过程",
        "胰岛素促进组织细胞摄取葡萄糖",
        "血糖浓度升高时胰岛的分泌活动增强，肝脏和肌肉把多余的葡萄糖合成糖原储存起来，血糖浓度随之下降",
    ),
    (
        2021,
        "植物向光弯曲生长的原因",
        "单侧光使生长素分布不均匀",
        "生长素在胚芽鞘尖端产生，由形态学上端向下端运输，背光一侧浓度较高，细胞伸长较快，茎便弯向光源",
    ),
    (
        2022,
        "特异性免疫中淋巴细胞的作用",
        "浆细胞分泌的抗体与抗原结合",
        "体液免疫依靠抗体发挥作用，记忆细胞能在相同抗原再次入侵时迅速增殖分化，机体的反应更快更强",
    ),
]


def choice(year: int, topic: str, right: str, why: str, **changes: Any) -> dict[str, Any]:
    """A choice item as the benchmark writes it: numbering, marks, hard line breaks, stray spaces, verdicts."""
    item = {
        "year": str(year),
        "category": "（新课标Ⅰ）",
        "question": f"3．（ 6分）下列关于 {topic} 的叙述 ，正确的\n是（ \u3000\u3000） \n"
        f"A．{topic}与外界环境没有任何关系   \nB．{right} \n"
        f"C．{topic}只在夜间缓慢发生   \nD．{topic}不需要任何物质参加\n",
        "answer": ["B"],
        "analysis": f"【解答】解： A、{topic}受环境影响，A错误；\nB、{why}，B正确；\n"
        "C、与时间无关，C错误；\nD、需要物质，D错误．\n故选： B．\n【点评】\n",
        "index": 0,
        "score": 6,
    }
    return {**item, **changes}


def written(year: int, question: str, answer: str | list[str], analysis: str) -> dict[str, Any]:
    return {
        "year": str(year), "category": "（全国卷）", "question": question, "answer": answer, "analysis": analysis,
        "index": 0, "score": 5,
    }  # fmt: skip


def save(root: Path, name: str, items: list[dict[str, Any]], folder: str = "Objective_Questions") -> Path:
    """Write a data file of the benchmark; items get their index."""
    path = root / "Data" / folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{**item, "index": index} if isinstance(item, dict) else item for index, item in enumerate(items)]
    path.write_text(json.dumps({"keywords": name, "example": rows}, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small benchmark: biology over all years."""
    folder = tmp_path / "GAOKAO-Bench"
    save(folder, "2010-2022_Biology_MCQs", [choice(*fact) for fact in FACTS])
    return folder


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gaokao_data.import_gaokao_bench", *map(str, arguments)],
        capture_output=True, text=True, encoding="utf-8", cwd=Path(__file__).parents[1], check=False,
    )  # fmt: skip


def one(root: Path, name: str, item: dict[str, Any], folder: str = "Objective_Questions") -> Record:
    """Import one item alone."""
    save(root, name, [item], folder)
    result = bench.import_bench(root, passages="none")
    (record,) = [*result.train, *result.test]
    return record


# --- the whole way --------------------------------------------------------------------------------------------------


def test_the_command_writes_records_that_load_and_pass_the_checks(root: Path, tmp_path: Path) -> None:
    done = run(root, "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    train = load_records(tmp_path / "out" / "train.json")
    test = load_records(tmp_path / "out" / "test.json")
    assert [record.extra["year"] for record in train] == [2011, 2012, 2013, 2015, 2017, 2019]
    assert [record.extra["year"] for record in test] == [2021, 2022]
    assert all(usable(run_checks(Item.from_record(record))) for record in [*train, *test])
    assert all(record.outside == "" for record in [*train, *test])
    lines = done.stdout.splitlines()
    total = next(line for line in lines if line.startswith("items read"))
    assert total.split()[-1] == "8"
    assert "95th percentile" in done.stdout


def test_a_record_is_clean_and_keeps_where_it_comes_from(root: Path) -> None:
    record = bench.import_bench(root).train[0]
    topic, right, why = FACTS[0][1:]
    assert record.question == (
        f"下列关于{topic}的叙述，正确的是（　）\nA．{topic}与外界环境没有任何关系\nB．{right}\n"
        f"C．{topic}只在夜间缓慢发生\nD．{topic}不需要任何物质参加"
    )
    assert record.analysis.startswith(f"A、{topic}受环境影响，A错误；\nB、{why}，B正确；")
    assert record.analysis.endswith("\n故选：B。")
    row = record.to_dict()
    assert row["id"] == "2011-biology-mcq-000"
    assert (row["year"], row["category"], row["source"]) == (2011, "新课标Ⅰ", "2010-2022_Biology_MCQs.json")
    assert row["answer"] == "B"


def test_every_item_is_imported_or_counted(root: Path) -> None:
    fact = FACTS[0]
    other = "关于种群密度的调查方法"
    save(
        root,
        "2010-2022_History_MCQs",
        [
            choice(2014, "明代海禁政策的影响", "民间贸易转入走私", "海禁限制了合法贸易"),
            choice(2014, "明代海禁政策的影响", "民间贸易转入走私", "海禁限制了合法贸易", score=4),
            choice(*fact, analysis=""),
            choice(*fact, analysis="\n"),
            choice(
                *fact, question="如图所示，下列叙述正确的是（ ）\nA．甲是对的\nB．乙是对的\nC．丙是对的\nD．丁是对的\n"
            ),
            choice(
                2014,
                other,
                "样方要随机选取",
                "随机取样使数据可靠",
                question=f"关于$\x08ar{{x}}$的叙述，{other}\nA．甲\nB．乙\nC．丙\nD．丁\n",
            ),
            choice(
                2014, other, "样方要随机选取", "随机取样", question=f"{other}正确的是\nA．甲\nB．甲\nC．丙\nD．丁\n"
            ),
            choice(2014, other, "样方要随机选取", "随机取样", analysis="随机取样使数据可靠，故选：D。\n"),
            choice(2014, other, "样方要随机选取", "设 $x=\\frac{1}{2 为半径的大小"),
            choice(2014, other, "样方要随机选取", "随机取样\x08使数据可靠"),
            choice(
                2014,
                other,
                "样方要随机选取",
                "随机取样",
                question=f"{other}正确的是\nA．甲\nB．乙\nC．丙\nD．丁\nE．戊\n",
            ),
            {"year": "2014", "question": "没有答案的题目"},
            "not an item",  # type: ignore[list-item]
        ],
    )
    result = bench.import_bench(root)
    assert result.items == 8 + 13
    assert len(result.train) + len(result.test) + result.dropped.total() == result.items
    assert {reason: number for reason, number in result.dropped.items() if number} == {
        "no 解析": 2,
        "missing picture or table": 1,
        "near-duplicate": 1,
        "damaged: control characters": 2,
        "more than four options": 1,
        "damaged: options missing, empty or alike": 1,
        "damaged: 解析 concludes another key": 1,
        "damaged: unbalanced LaTeX": 1,
        "damaged: year, question or answer missing": 1,
        "damaged: not an item": 1,
    }
    assert bench.report(result).count(f"{result.items:>7,}") == 1


def test_the_same_source_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    # Two processes: sets of texts have another order in each.
    bench.main([str(root), "--out", str(tmp_path / "first")])
    assert run(root, "--out", tmp_path / "second").returncode == 0
    for file in ("train.json", "test.json"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_items_that_two_files_share_a_number_of_get_ids_of_their_own(tmp_path: Path) -> None:
    save(tmp_path, "2010-2022_Biology_MCQs", [choice(*FACTS[6])])
    save(tmp_path, "2021_Biology_MCQs", [choice(2021, *FACTS[3][1:])], "GAOKAO-Bench-2021")
    assert [record.id for record in bench.import_bench(tmp_path).test] == [
        "2021-biology-mcq-000",
        "2021-biology-mcq-000-2",
    ]


# --- what is read ---------------------------------------------------------------------------------------------------


def test_later_releases_of_the_layout_are_read_and_answers_of_models_are_not(root: Path) -> None:
    save(
        root,
        "2023_Biology_MCQs",
        [choice(2023, "减数分裂时的染色体变化", "着丝粒在第二次分裂时断开", "姐妹染色单体分离")],
        "GAOKAO-Bench-2023",
    )
    save(root, "gemini-pro_2010-2022_Biology_MCQs", [choice(*FACTS[0])])
    result = bench.import_bench(root)
    assert result.items == 9
    assert result.test[-1].id == "2023-biology-mcq-000"


@pytest.mark.parametrize(
    ("name", "answer", "kind", "subject"),
    [
        ("2010-2022_Physics_MCQs", ["AC"], "多选题", "物理"),
        ("2010-2022_Math_II_MCQs", ["B"], "单选题", "数学"),
        ("2010-2022_Geography_MCQs", ["A", "B"], SET, "地理"),
        ("2010-2022_Math_I_Fill-in-the-Blank", "$\\frac{1}{2}$\n", "填空题", "数学"),
        ("2014-2022_English_Language_Cloze_Passage", "built\n", "填空题", "英语"),
        ("2010-2022_Political_Science_Open-ended_Questions", "（1）一点\n（2）两点\n", "主观题", "政治"),
    ],
)
def test_subject_and_type_come_from_file_and_answer(
    tmp_path: Path, name: str, answer: Any, kind: str, subject: str
) -> None:
    path = save(tmp_path, name, [])
    (source,) = bench.find_sources(tmp_path)
    question = "据此完成下题。\nA．一\nB．二\nC．三\nD．四\n"
    record = bench.read_item(written(2014, question, answer, "解析的文字说明了理由。"), source, 0)
    assert (bench.kind_of(record), record.subject, path.name) == (kind, subject, record.extra["source"])
    assert record.type in TYPES


def test_sub_questions_are_numbered_from_one_and_answers_stay_a_list(tmp_path: Path) -> None:
    question = (
        "某地修建水库后，下游河道的流量变化趋于平缓。据此完成 6～7 题．\n6．（4 分）水库的主要作用是（ ） "
        "A．调节径流 B．增加降水\nC．升高气温 D．改变地形\n7．（4 分）下游受到的影响是（ ） A．洪峰增高 "
        "B．枯水期水量增加 C．泥沙增多 D．水温不变\n"
    )
    analysis = "【6题详解】\n水库拦蓄洪水。故选 A。\n【7题详解】\n枯水期放水。故选 B。\n"
    record = one(tmp_path, "2010-2022_Geography_MCQs", written(2014, question, ["A", "B"], analysis))
    assert record.question == (
        "某地修建水库后，下游河道的流量变化趋于平缓。据此完成下列各题．\n（1）水库的主要作用是（　）\n"
        "A．调节径流\nB．增加降水\nC．升高气温\nD．改变地形\n"
        "（2）下游受到的影响是（　）\nA．洪峰增高\nB．枯水期水量增加\nC．泥沙增多\nD．水温不变"
    )
    assert record.analysis == "（1）水库拦蓄洪水。故选：A。\n（2）枯水期放水。故选：B。"
    assert record.answer == ("A", "B")


def test_written_answers_become_one_text_per_sub_question(tmp_path: Path) -> None:
    item = written(
        2014,
        "16．（12分）回答问题。\n（1）指出原因。（6分）\n（2）说明影响。",
        "（1）人口增长（4分）\n（2）市场扩大\n",
        "从材料概括。\n",
    )
    record = one(tmp_path, "2010-2022_History_Open-ended_Questions", item, "Subjective_Questions")
    assert record.question == "回答问题。\n（1）指出原因。\n（2）说明影响。"
    assert record.answer == ("人口增长", "市场扩大")


# --- split and passages ---------------------------------------------------------------------------------------------


def test_the_split_is_by_year_and_near_duplicates_stay_on_one_side(root: Path) -> None:
    twin = choice(2022, *FACTS[1][1:])
    twin["question"] = twin["question"].replace("3．（ 6分）", "5．（ 4分）")
    save(root, "2022_Biology_MCQs", [twin], "GAOKAO-Bench-2022")
    result = bench.import_bench(root, test_from_year=2019)
    assert (
        max(record.extra["year"] for record in result.train)
        < 2019
        <= min(record.extra["year"] for record in result.test)
    )
    assert result.dropped["near-duplicate"] == 1
    assert FACTS[1][1] in result.train[1].question
    train, test = ([record.question for record in part] for part in (result.train, result.test))
    assert near_duplicates_across(train, test) == []


TOLD = "1931年春，某县的布商联名上书，说洋布的价格不及土布的一半，织户纷纷停机。县署派人查访，所得与呈文相同。"


def told(year: int, text: str, right: str, why: str, wrong: str = "官府鼓励进口") -> dict[str, Any]:
    """A choice item that brings its material along."""
    options = f"A．{wrong}的政策\nB．{right}\nC．{wrong}的结果\nD．{wrong}的意图\n"
    return choice(
        year, "", right, why, question=f"7．（4分）{text}这反映出（ ）\n{options}", analysis=f"B、{why}，B正确；\n"
    )


WHY = "机器生产的效率远高于手工劳动，工业革命以后各国的家庭手工业者在竞争中往往处于不利的地位"


def test_the_material_of_a_stem_is_the_outside_passage_and_its_analysis_the_textbook_one(root: Path) -> None:
    save(root, "2010-2022_History_MCQs", [told(2012, TOLD, "手工棉纺走向衰落", WHY)])
    result = bench.import_bench(root)
    records = {record.id: record for record in [*result.train, *result.test]}
    row = records["2012-history-mcq-000"].to_dict()
    assert (row["课外内容"], row["课本内容"]) == (TOLD, WHY + "。")
    assert row["question"].startswith(TOLD + "这反映出（　）")
    assert row["passage_source"] == {"mode": "material", "items": ["2012-history-mcq-000"]}
    assert FACTS[6][3] in records["2021-biology-mcq-006"].textbook
    assert [record.id for record in records.values() if record.outside] == ["2012-history-mcq-000"]
    sides = {record.id for record in result.train}
    for record in records.values():
        assert set(record.extra["passage_source"]["items"]) <= sides | {record.id}
        assert not any(word in record.textbook for word in ("正确", "错误", "故选", "A、", "B、", "本题", "选项"))


def test_a_stem_that_is_all_material_gives_none(root: Path) -> None:
    item = told(2012, TOLD, "手工棉纺走向衰落", WHY)
    item["question"] = f"{TOLD}此（ ）\nA．1\nB．2\nC．3\nD．4\n"
    save(root, "2010-2022_History_MCQs", [item])
    (history,) = (record for record in bench.import_bench(root).train if record.subject == "历史")
    assert history.outside == ""


def test_a_material_used_up_in_an_earlier_year_comes_no_second_time(root: Path) -> None:
    save(
        root,
        "2010-2022_History_MCQs",
        [
            told(2012, TOLD, "手工棉纺走向衰落", WHY),
            told(2012, TOLD, "中外贸易日益频繁", WHY, "沿海与内地之间运输条件的显著改善"),
            told(2021, TOLD, "洋货改变衣着习惯", WHY, "乡村妇女不再以纺织补贴家用的风气"),
        ],
    )
    result = bench.import_bench(root)
    assert [record.id for record in result.train if record.outside] == ["2012-history-mcq-000", "2012-history-mcq-001"]
    assert [record.outside for record in result.test] == ["", ""]
    assert result.dropped["near-duplicate"] == 1


def test_without_passages_they_are_empty(root: Path) -> None:
    save(root, "2010-2022_History_MCQs", [told(2012, TOLD, "手工棉纺走向衰落", WHY)])
    result = bench.import_bench(root, passages="none")
    rows = [record.to_dict() for record in result.train]
    assert len(rows) == 7 and all(row["课本内容"] == row["课外内容"] == "" for row in rows)
    assert "passage_source" not in rows[0]
    assert "all                      -" in bench.passage_report(result)


def test_the_figures_of_the_passages_stand_by_subject(root: Path) -> None:
    texts = [TOLD, TOLD.replace("布", "茶").replace("织户", "茶农").replace("1931年春", "1887年秋天")]
    texts.append(
        "宋代的州县学堂多设在孔庙旁边。学田的租米供给教师与学生的饭食，遇到荒年则由乡里富户捐助，历代相沿不改。"
    )
    save(
        root,
        "2010-2022_History_MCQs",
        [
            told(2012 + n, text, right, f"{right}是市场不断扩大的结果，也是生产工具长期改进的结果")
            for n, (text, right) in enumerate(zip(texts, ["织布业的衰落", "茶业的衰落", "由乡里富户捐助"], strict=True))
        ],
    )
    report = bench.passage_report(bench.import_bench(root))
    (history,) = (line for line in report.splitlines() if line.startswith("历史"))
    assert history.split(maxsplit=1)[1].split("  ")[-1].strip() == "3 of 3, 53, 100% (chance 33.3%)"
    (everything,) = (line for line in report.splitlines() if line.startswith("all"))
    assert everything.endswith("3 of 11, 53, 100% (chance 33.3%)")
    assert "数学" not in report
    assert "as the material holds the answer (reading, translation): 1" in report


# --- filters --------------------------------------------------------------------------------------------------------


def test_a_small_set_is_spread_over_the_subjects_and_the_rest_is_counted(root: Path) -> None:
    topics = ["商鞅变法的历史作用", "丝绸之路的开通过程", "科举制度的创立时间", "活字印刷术的推广"]
    save(
        root,
        "2010-2022_History_MCQs",
        [
            choice(2012 + n, topic, f"{topic}有深远影响", f"{topic}改变了当时的社会结构")
            for n, topic in enumerate(topics)
        ]
        + [written(2015, "多项问题\n（1）甲\n（2）乙", ["A", "B"], "说明理由的文字。")],
    )
    result = bench.import_bench(
        root, types=["单选题"], subjects=["生物", "历史"], max_chars=1000, limit_train=4, limit_test=1
    )
    assert [record.subject for record in result.train].count("历史") == 2
    assert (len(result.train), len(result.test)) == (4, 1)
    assert all(len(record.answer) == 1 for record in result.train)
    assert result.dropped["filtered: --types"] == 1
    assert result.dropped["filtered: --limit-train"] == 6
    assert result.dropped["filtered: --limit-test"] == 1
    assert len(result.train) + len(result.test) + result.dropped.total() == result.items
    lengths = sorted(
        len(record.question + record.answer[0] + record.analysis) for record in bench.import_bench(root).test
    )
    assert len(bench.import_bench(root, max_chars=lengths[0]).test) == 1, "the maximum itself is not too long"
    assert bench.import_bench(root, max_chars=10).dropped["filtered: --max-chars"] == 13
    assert bench.import_bench(root, subjects=["数学"]).dropped["filtered: --subjects"] == 13


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--limit-train", "0"], "--limit-train 0: must be 1 or more"),
        (["--limit-test", "-3"], "--limit-test -3: must be 1 or more"),
        (["--max-chars", "-1"], "--max-chars -1: must be 1 or more"),
        (["--test-from-year", "-2021"], "--test-from-year -2021: must be a year from 1900 to 2100"),
        (["--test-from-year", "21"], "must be a year from 1900 to 2100"),
        (["--passage-chars", "-5", "100"], "--passage-chars -5 100: MIN must be above 0 and below MAX"),
        (["--passage-chars", "100", "100"], "MIN must be above 0 and below MAX"),
        (["--limit-tr", "5"], "unrecognized arguments: --limit-tr 5"),
        (["--types", "判断题"], "invalid choice"),
    ],
)
def test_numbers_out_of_range_and_short_flags_are_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        bench.parse_arguments(["SRC", "--out", "DIR", *arguments])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_a_small_set_prefers_items_with_passages(root: Path) -> None:
    bare = choice(2014, "样方法调查种群密度", "样方要随机选取", "随机取样", analysis="随机取样。\n故选： B．\n")
    save(root, "2014_Biology_MCQs", [bare, told(2014, TOLD, "手工棉纺走向衰落", WHY)], "GAOKAO-Bench-2014")
    train = bench.import_bench(root).train
    given = [bool(record.textbook) + bool(record.outside) for record in train]
    assert (given.count(2), given.count(0)) == (1, 2)
    assert [record.id for record in bench.spread(train, 1)] == ["2014-biology-mcq-001"]
    assert all(record.textbook for record in bench.spread(train, len(train) - 2))
    assert bench.spread(train, 9) == train


# --- what is not overwritten ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", bench.WRITTEN)
def test_a_file_that_no_import_wrote_is_not_overwritten(root: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("[]", encoding="utf-8")
    with pytest.raises(
        UserError, match=f"{name}: was not written by an import, or was changed since.*give --out another"
    ):
        bench.main([str(root), "--out", str(out)])
    assert {path.name: path.read_text(encoding="utf-8") for path in out.iterdir()} == {name: "[]"}


def test_an_import_replaces_what_an_import_wrote_and_nothing_that_was_changed_since(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    bench.main([str(root), "--out", str(out)])
    bench.main([str(root), "--out", str(out), "--limit-train", "2"])
    assert len(load_records(out / "train.json")) == 2
    bench.main([str(root), "--out", str(out)])
    assert len(load_records(out / "train.json")) == 6
    # The folder is a data set: what knows the files is not read as one of them.
    assert len(load_records(out)) == 8
    train = out / "train.json"
    train.write_text(train.read_text(encoding="utf-8").replace("第", "弟") + " ", encoding="utf-8")
    changed = train.read_bytes()
    with pytest.raises(UserError, match="changed since"):
        bench.main([str(root), "--out", str(out)])
    assert train.read_bytes() == changed


def test_an_import_that_was_killed_while_writing_can_be_repeated(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    bench.main([str(root), "--out", str(out)])

    def killed(path: Path, text: str) -> None:
        if path.name == "test.json":
            raise KeyboardInterrupt
        write_text(path, text)

    monkeypatch.setattr(bench, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        bench.main([str(root), "--out", str(out), "--limit-train", "2", "--limit-test", "1"])
    monkeypatch.undo()
    assert (len(load_records(out / "train.json")), len(load_records(out / "test.json"))) == (2, 2)
    bench.main([str(root), "--out", str(out)])
    assert len(load_records(out)) == 8


def test_a_folder_in_the_place_of_a_file_is_told_before_the_work(root: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "test.json").mkdir(parents=True)
    with pytest.raises(UserError, match=r"test\.json: is a folder; give --out another one"):
        bench.main([str(root), "--out", str(tmp_path / "out")])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["test.json"]


def test_where_no_item_is_left_nothing_is_written(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no item is left, so nothing is written\n(.|\n)*filtered: --max-chars"):
        bench.main([str(root), "--out", str(tmp_path / "out"), "--max-chars", "1"])
    assert list((tmp_path / "out").iterdir()) == []


# --- bad input ------------------------------------------------------------------------------------------------------


def test_a_truncated_file_is_named_and_the_others_are_imported(root: Path, tmp_path: Path) -> None:
    path = save(root, "2010-2022_Chemistry_MCQs", [choice(*FACTS[0])])
    path.write_text(path.read_text(encoding="utf-8")[:200], encoding="utf-8")
    done = run(root, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "2010-2022_Chemistry_MCQs.json: is not JSON in UTF-8" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(json.loads((tmp_path / "out" / "train.json").read_text(encoding="utf-8"))) == 6


@pytest.mark.parametrize("key", ["question", "answer", "analysis", "category"])
def test_an_item_with_half_of_a_character_is_left_out_and_counted(root: Path, tmp_path: Path, key: str) -> None:
    item = choice(2014, "样方法调查种群密度", "样方要随机选取", "随机取样使数据可靠")
    item[key] = ["\ud83d"] if key == "answer" else "\ud83d" + item[key]
    path = save(root, "2014_Biology_MCQs", [], "GAOKAO-Bench-2014")
    path.write_text(json.dumps({"example": [item]}), encoding="utf-8")
    bench.main([str(root), "--out", str(tmp_path / "out")])
    assert bench.import_bench(root).dropped["damaged: half of a character"] == 1
    assert len(load_records(tmp_path / "out")) == 8


@pytest.mark.parametrize(
    "changes", [{"answer": ["A", 5]}, {"answer": {"1": "A"}}, {"answer": []}, {"question": ["甲"]}]
)
def test_an_item_whose_texts_are_none_is_left_out_and_counted(tmp_path: Path, changes: dict[str, Any]) -> None:
    save(tmp_path, "2010-2022_Biology_MCQs", [choice(*FACTS[0], **changes), choice(*FACTS[1])])
    result = bench.import_bench(tmp_path)
    assert len(result.train) == 1
    assert result.dropped[bench.MISSING_FIELD] == 1


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe{", b"[1, 2]", b'{"example": 3}', b"", b'{"example":' + b"[" * 100_000, b'{"example":' + b"9" * 5000],
)
def test_only_unreadable_files_is_an_error_with_their_names(tmp_path: Path, content: bytes) -> None:
    save(tmp_path, "2010-2022_Biology_MCQs", []).write_bytes(content)
    with pytest.raises(UserError, match="2010-2022_Biology_MCQs"):
        bench.import_bench(tmp_path)


def test_a_folder_that_is_not_the_benchmark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("[]", encoding="utf-8")
    done = run(tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "is not GAOKAO-Bench" in done.stderr
    assert "2010-2022_History_MCQs.json" in done.stderr
    assert not (tmp_path / "out").exists()
    for name in ("nowhere", "x" * 300):
        with pytest.raises(UserError, match="there is no such folder"):
            bench.main([name, "--out", str(tmp_path / "out")])


def test_wrong_options_are_refused(root: Path, tmp_path: Path) -> None:
    done = run(root, "--out", tmp_path / "out", "--passage-chars", "400", "100")
    assert done.returncode == 2
    assert "--passage-chars 400 100" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_output_folder_that_cannot_be_written_to_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    done = run(root, "--out", tmp_path / "file" / "out")
    assert done.returncode == 2
    assert "give --out a folder" in done.stderr
