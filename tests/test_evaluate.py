"""getTotalScore and its siblings: bounds, sections, chance level, checks, results files, and the command."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, run_script

import evaluate
from evaluate import getTotalScore, summarize, summary_text
from gaokao import metrics
from gaokao.checks import CHECKS
from gaokao.errors import UserError
from gaokao.metrics import score_parts, similarity, usable_rate
from gaokao.prompts import render
from gaokao.records import load_records
from gaokao.results import read_results

TEXT = "题干：下列正确的是\nA．甲\nB．乙\nC．丙\nD．丁\n参考答案：B\n解析：乙符合事实。故选B。"


def entry(text: Any = TEXT, **changes: Any) -> dict[str, Any]:
    """An entry of a results file."""
    return {
        "id": "r0",
        "subject": "生物",
        "type": "单选题",
        "课本内容": "细胞是生物体结构和功能的基本单位。",
        "课外内容": "",
        "text": text,
        "finish_reason": "stop",
        "reference": TEXT,
        "adapter": "a",
        **changes,
    }


def stem(text: str, reference: str, **changes: Any) -> dict[str, Any]:
    """An entry of which only stems are compared, whose chrF is 0 where they share no character."""
    return entry(f"题干：{text}", reference=f"题干：{reference}", type="主观题", **changes)


# --- getTotalScore --------------------------------------------------------------------------------------------------


def test_identical_texts_score_100() -> None:
    texts = [render(record) for record in load_records(ROOT / "gaokao_data" / "test.json")]
    assert getTotalScore(texts, texts) == pytest.approx(100)


def test_an_empty_prediction_scores_0() -> None:
    assert getTotalScore([""], [TEXT]) == 0
    assert getTotalScore(["  \n"], [TEXT]) == 0
    assert getTotalScore([], []) == 0


@pytest.mark.parametrize("text", ["", " \n\t", "题干：\n参考答案：\n解析："])
def test_two_texts_without_content_are_nothing_alike(text: str) -> None:
    assert getTotalScore([text], [text]) == 0


def test_white_space_does_not_count() -> None:
    loose = TEXT.replace("下列正确的是", " 下列 正确\u3000的是").replace("乙符合", "乙\n符 合").replace("：B", "：\tB ")
    assert getTotalScore([loose], [TEXT]) == pytest.approx(100)


def test_unequal_lengths_raise_and_say_how_many() -> None:
    with pytest.raises(ValueError, match="2 predictions for 1 references"):
        getTotalScore([TEXT, TEXT], [TEXT])


@pytest.mark.parametrize(
    ("pred", "label", "said"),
    [
        (TEXT, [TEXT], "pred is .* give a list of texts"),
        ([TEXT], TEXT, "label is .* give a list of texts"),
        (None, [TEXT], "pred is 'None'"),
        ({TEXT}, [TEXT], "pred is .* give a list of texts"),
        ([TEXT, None], [TEXT, TEXT], r"pred\[1\] is 'None' \(NoneType\); give a text"),
        ([TEXT], [TEXT.encode()], r"label\[0\] is .*\(bytes\)"),
        ([TEXT], [["B"]], r"label\[0\] is .*\(list\)"),
    ],
)
def test_texts_for_lists_and_items_that_are_no_texts_are_named(pred: Any, label: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        getTotalScore(pred, label)


def test_headers_are_normalised_before_texts_are_compared() -> None:
    other = TEXT.replace("：", ":").replace("题干", "**题干").replace("题干:", "题干:** ")
    assert getTotalScore([other], [TEXT]) == pytest.approx(100)


def test_rouge_l_and_chrf_of_a_known_pair() -> None:
    # LCS of 甲乙丙丁 and 甲丙丁戊 is 甲丙丁: F1 = 2 * 3 / 8.
    parts = score_parts(["题干：甲乙丙丁"], ["题干：甲丙丁戊"])
    assert parts.rouge_l == pytest.approx(75)
    # 3 of 4 characters, 1 of 3 pairs, 0 of 2 triples and 0 of 1 quadruple: F2 of the mean precision and recall.
    assert parts.chrf == pytest.approx(100 * (3 / 4 + 1 / 3) / 4)
    assert parts.sections["题干"] == pytest.approx((parts.rouge_l + parts.chrf) / 2)


def test_each_section_is_scored_on_its_own_and_a_missing_one_costs_its_share() -> None:
    without = TEXT.split("\n解析")[0]
    parts = score_parts([without], [TEXT])
    assert parts.sections == pytest.approx({"题干": 100, "参考答案": 100, "解析": 0})
    assert parts.total == pytest.approx(200 / 3)
    assert score_parts([TEXT], [without]).total == pytest.approx(200 / 3)


def test_sections_that_neither_text_has_do_not_count() -> None:
    without = TEXT.split("\n解析")[0]
    parts = score_parts([without], [without])
    assert parts.sections == pytest.approx({"题干": 100, "参考答案": 100})
    assert parts.total == pytest.approx(100)


def test_text_without_any_header_is_compared_as_the_question() -> None:
    parts = score_parts(["下列正确的是\nA．甲\nB．乙\nC．丙\nD．丁"], [TEXT])
    assert parts.sections["题干"] == pytest.approx(100)
    assert parts.sections["解析"] == 0


def test_a_better_text_scores_higher() -> None:
    worse, better = TEXT.replace("乙符合事实", "天气很好啊"), TEXT.replace("乙符合事实", "乙符合实际")
    assert getTotalScore([worse], [TEXT]) < getTotalScore([better], [TEXT]) < 100


def test_the_key_letter_counts_in_the_total_score() -> None:
    assert score_parts([TEXT.replace("参考答案：B", "参考答案：C")], [TEXT]).sections["参考答案"] == 0


# --- similarity beside its chance level -----------------------------------------------------------------------------


def test_chance_level_and_paired_difference_of_a_worked_example() -> None:
    # Own references: 100, 100, 0. The first item scores 100 against the third's reference and 0 against the second's,
    # so 50 by chance; the second 0; the third 50 (100 against the first's, 0 against the second's).
    found = similarity(
        [stem("甲甲甲甲", "甲甲甲甲"), stem("乙乙乙乙", "乙乙乙乙"), stem("甲甲甲甲", "甲甲 甲甲丁丁丁丁丁丁丁丁")]
    )
    third = score_parts(["题干：甲甲甲甲"], ["题干：甲甲甲甲丁丁丁丁丁丁丁丁"]).total
    assert 0 < third < 100
    assert found.similarity == pytest.approx((100 + 100 + third) / 3)
    chance = [third / 2, 0, 50]
    differences = [100 - chance[0], 100 - chance[1], third - chance[2]]
    mean = sum(differences) / 3
    assert found.chance_level == pytest.approx(sum(chance) / 3)
    assert found.difference == pytest.approx(mean)
    assert found.standard_error == pytest.approx((sum((d - mean) ** 2 for d in differences) / 2 / 3) ** 0.5)
    assert (found.compared_items, found.compared_pairs) == (3, 6)


def test_wrong_references_are_those_of_other_items_of_the_same_subject_only() -> None:
    entries = [stem(text, text, subject=subject) for text, subject in zip("甲乙丙丁戊", "生生史史政", strict=True)]
    assert sorted(metrics.wrong_pairs(entries, 20, 0)) == [(0, 1), (1, 0), (2, 3), (3, 2)]


def test_another_item_with_the_same_reference_is_no_wrong_reference() -> None:
    entries = [stem("甲", "甲"), stem("乙", "甲"), stem("丙", "丙")]
    assert sorted(metrics.wrong_pairs(entries, 20, 0)) == [(0, 2), (1, 2), (2, 0), (2, 1)]


def test_every_item_and_every_reference_is_used_as_often_as_the_others() -> None:
    pairs = metrics.wrong_pairs([stem(str(n), str(n)) for n in range(30)], 4, 0)
    assert len(set(pairs)) == 120
    for side in (0, 1):
        assert {sum(pair[side] == n for pair in pairs) for n in range(30)} == {4}
    assert all(item != other for item, other in pairs)


@pytest.mark.parametrize(("items", "rounds"), [(100, 1000), (2500, 1)])
def test_no_more_than_2000_pairs_are_compared_whatever_the_rounds(items: int, rounds: int) -> None:
    pairs = metrics.wrong_pairs([stem(str(n), str(n)) for n in range(items)], rounds, 0)
    assert len(set(pairs)) == 2000


def test_the_wrong_references_are_the_same_for_a_seed() -> None:
    entries = [stem(str(n), str(n)) for n in range(30)]
    assert metrics.wrong_pairs(entries, 2, 1) == metrics.wrong_pairs(entries, 2, 1)
    assert metrics.wrong_pairs(entries, 2, 1) != metrics.wrong_pairs(entries, 2, 2)


def test_without_a_second_reference_in_a_subject_there_is_no_chance_level() -> None:
    summary = summarize([entry(), entry(subject="政治")])
    assert summary["similarity"]["chance_level"] is None
    assert "similarity 100.0, no chance level" in summary_text(summary)


def test_the_key_letter_of_a_choice_item_is_left_out_of_similarity() -> None:
    # Stem and analysis are alike, the key is not: that says nothing, for the options are other ones.
    other = TEXT.replace("参考答案：B", "参考答案：C")
    for kind in ("单选题", "多选题"):
        found = similarity([entry(other, type=kind)])
        assert found.similarity == pytest.approx(100)
        assert set(found.sections) == {"题干", "解析"}
    assert similarity([entry(other, type="填空题")]).sections["参考答案"] == 0


def test_the_key_letter_is_left_out_of_the_chance_level_too() -> None:
    first, second = ("题干：{0}\n参考答案：B\n解析：{0}".format(letter * 4) for letter in "甲乙")
    found = similarity([entry(first, reference=first), entry(second, reference=second)])
    assert found.chance_level == 0


def test_texts_like_their_references_are_above_chance_and_shuffled_ones_are_not() -> None:
    texts = [render(record) for record in load_records(ROOT / "gaokao_data" / "test.json")][:12]
    right = summarize([entry(text, reference=text) for text in texts])
    assert right["similarity"]["above_chance"] is True
    assert ": above chance (difference +" in summary_text(right)
    wrong = summarize([entry(text, reference=other) for text, other in zip(texts, texts[1:] + texts[:1], strict=True)])
    assert wrong["similarity"]["above_chance"] is False
    assert "no similarity above chance" in summary_text(wrong)


def test_a_difference_counts_from_1_96_standard_errors_on(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["甲甲甲甲", "乙乙乙乙", "丙丙丙丙", "丁丁丁丁"]
    entries = [stem(text, text) for text in texts[:3]] + [stem("戊", texts[3])]
    found = similarity(entries)
    assert found.difference and found.standard_error
    sigmas = found.difference / found.standard_error
    assert found.above_chance is (sigmas > 1.96) is True
    monkeypatch.setattr(metrics, "SIGNIFICANT", sigmas)
    assert similarity(entries).above_chance is False


# --- checks and form ------------------------------------------------------------------------------------------------


def test_summary_counts_sections_and_stops() -> None:
    three = TEXT.replace("\n解析：乙符合事实。故选B。", "")
    summary = summarize([entry(), entry(finish_reason="length"), entry(three), entry("乱", type="主观题")])
    assert (summary["items"], summary["adapter"]) == (4, ["a"])
    assert summary["three_sections"] == 0.5
    assert summary["stopped_by_end_token"] == 0.75
    assert summary["three_sections_and_stopped"] == 0.25


def test_every_check_is_counted_where_it_applies() -> None:
    no_key, twice = TEXT.replace("参考答案：B", "参考答案：乙"), TEXT.replace("D．丁", "D．丙")
    summary = summarize([entry(), entry(no_key), entry(twice), entry(type="主观题")])
    assert list(summary["checks"]) == [check.name for check in CHECKS]
    assert summary["checks"]["options"] == {"hard": True, "passed": 2, "applicable": 3}
    assert summary["checks"]["key"] == {"hard": True, "passed": 2, "applicable": 3}
    assert summary["checks"]["copied"]["hard"] is False
    assert (summary["usable"]["passed"], summary["usable"]["items"]) == (2, 4)


@pytest.mark.parametrize("key", ["Ｂ", "(B)", "B，", " B 。"])
def test_a_key_letter_is_valid_whatever_stands_around_it(key: str) -> None:
    summary = summarize([entry(TEXT.replace("参考答案：B", f"参考答案：{key}"))])
    assert summary["checks"]["key"]["passed"] == 1


def test_letters_without_a_mark_are_no_options() -> None:
    summary = summarize([entry("题干：下列正确的是 A甲 B乙 C丙 D丁\n参考答案：B\n解析：乙符合事实。")])
    assert summary["checks"]["options"] == {"hard": True, "passed": 0, "applicable": 1}


def test_the_passages_and_the_finish_reason_reach_the_checks() -> None:
    passage = "线粒体是细胞进行有氧呼吸的主要场所，为生命活动提供能量，其内膜向内折叠形成嵴。"
    copied = f"题干：{passage}\n参考答案：略\n解析：见教材所述，符合事实。"
    for key in ("课本内容", "课外内容"):
        assert summarize([entry(copied, type="主观题", **{key: passage})])["checks"]["copied"]["passed"] == 0
    assert summarize([entry(finish_reason="length")])["usable"]["passed"] == 0


def test_a_failed_soft_check_leaves_an_item_usable() -> None:
    soft = TEXT.replace("乙符合事实", "$x$ 与 $y")
    summary = summarize([entry(soft)])
    assert summary["checks"]["latex"] == {"hard": False, "passed": 0, "applicable": 1}
    assert summary["usable"]["rate"] == 1
    assert "worst: latex 0/1 (soft)" in summary_text(summary)


def test_the_screen_names_the_three_checks_that_most_items_fail() -> None:
    failing = TEXT.replace("参考答案：B", "参考答案：乙")
    summary = summarize([entry()] * 4)
    assert "checks    all passed" in summary_text(summary)
    for number, name in enumerate(("key", "picture", "copied", "language"), 1):
        summary["checks"][name] |= {"applicable": 5, "passed": 5 - number}
    assert "worst: language 1/5, copied 2/5 (soft), picture 3/5" in summary_text(summary)
    assert "worst: key 0/1" in summary_text(summarize([entry(failing)]))


def test_the_usable_rate_has_a_wilson_interval() -> None:
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for passed, items, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        rate = usable_rate([True] * passed + [False] * (items - passed))
        assert rate["interval_95"] == pytest.approx([low, high], abs=1e-4)
        assert (rate["passed"], rate["items"], rate["rate"]) == (passed, items, round(passed / items, 4))
    assert "usable    1 of 1 pass every hard check: 100% (95% interval 21% to 100%)" in summary_text(
        summarize([entry()])
    )


def test_items_without_reference_are_counted_but_not_scored() -> None:
    assert summarize([entry(), entry(reference=None), entry(reference="")])["scored"] == 1
    summary = summarize([entry(reference=None)])
    assert (summary["items"], summary["scored"], summary["similarity"]) == (1, 0, None)
    assert "no references in the data" in summary_text(summary)


def test_no_items_have_no_rates() -> None:
    summary = summarize([])
    assert summary["three_sections"] is None
    assert summary["usable"] == {"passed": 0, "items": 0, "rate": None, "interval_95": None}
    assert "three sections -" in summary_text(summary)


# --- results files --------------------------------------------------------------------------------------------------


def write(path: Path, entries: list[Any], **options: Any) -> Path:
    lines = [json.dumps(value, ensure_ascii=False, **options) for value in entries]
    text = "\n".join(lines) + "\n" if path.suffix == ".jsonl" else f"[{', '.join(lines)}]"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["q.json", "q.jsonl"])
def test_line_separators_within_a_text_are_read_back(tmp_path: Path, name: str) -> None:
    odd = TEXT.replace("乙符合事实", "乙\u2028符\u2029合\u0085事\x0b实\x1e。\r")
    assert read_results(write(tmp_path / name, [entry(odd), entry()])) == [entry(odd), entry()]


def test_lines_may_end_as_windows_ends_them(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps(entry()).encode() + b"\r\n\r\n" + json.dumps(entry()).encode() + b"\r\n"
    )
    assert len(read_results(path)) == 2


def test_half_a_last_line_is_left_out_and_a_whole_one_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", [entry(), entry()])
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.rstrip("\n"), encoding="utf-8")
    assert len(read_results(path)) == 2
    path.write_text(whole[:-40], encoding="utf-8")
    assert len(read_results(path)) == 1


def test_half_a_line_before_the_last_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", [entry(), entry(), entry()])
    lines = path.read_text(encoding="utf-8").split("\n")
    path.write_text("\n".join([lines[0], lines[1][:40], lines[2], ""]), encoding="utf-8")
    with pytest.raises(UserError, match=r"q\.jsonl:2: is not JSON"):
        read_results(path)
    # A line end behind it says that it is no line that was being written.
    path.write_text("\n".join([lines[0], lines[1][:40], ""]), encoding="utf-8")
    with pytest.raises(UserError, match=r"q\.jsonl:2: is not JSON"):
        read_results(path)


FAULTY: list[tuple[Any, str]] = [
    (entry(text=5), r"text is '5' \(int\), not a text"),
    (entry(text=None), r"text is 'None' \(NoneType\), not a text"),
    (entry(finish_reason=["stop"]), r"finish_reason is .*\(list\)"),
    (entry(reference=7), r"reference is '7' \(int\)"),
    (entry(adapter={}), r"adapter is '\{\}' \(dict\)"),
    (entry(subject="体育"), r"subject is '体育' \(str\), not one of 语文"),
    (entry(type="单选"), r"type is '单选' \(str\), not one of 单选题"),
    ({key: value for key, value in entry().items() if key not in ("课外内容", "id")}, "lacks id, 课外内容"),
    ([entry()], r"holds .*\(list\) instead of an entry"),
    ("x" * 100_000, r"holds 'x{40}' \(str\) instead of an entry"),
    (None, r"holds 'None' \(NoneType\) instead of an entry"),
]


@pytest.mark.parametrize(("value", "said"), FAULTY)
@pytest.mark.parametrize(("name", "where"), [("q.json", r"q\.json\[1\]: "), ("q.jsonl", r"q\.jsonl:2: ")])
def test_a_faulty_entry_is_named(tmp_path: Path, name: str, where: str, value: Any, said: str) -> None:
    with pytest.raises(UserError, match=where + said):
        read_results(write(tmp_path / name, [entry(), value]))


@pytest.mark.parametrize("key", ["id", "text", "reference", "课本内容", "adapter"])
def test_half_a_character_is_named(tmp_path: Path, key: str) -> None:
    path = tmp_path / "q.json"
    path.write_text(json.dumps([entry(), entry(**{key: "题\ud83d"})]), encoding="ascii")
    with pytest.raises(UserError, match=rf"q\.json\[1\]: {key} holds half a character .* at position 1"):
        read_results(path)


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "Infinity"])
def test_numbers_that_json_does_not_have_are_named(tmp_path: Path, number: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps(entry()) + "\n" + json.dumps(entry())[:-1] + f', "x": {number}}}\n', encoding="utf-8")
    with pytest.raises(UserError, match=rf"q\.jsonl:2: is not JSON \({number} "):
        read_results(path)


@pytest.mark.parametrize("content", ["[" * 100_000, '[{"a":' * 50_000, '{"a":' * 100_000, '{"text": ' + "[" * 100_000])
def test_deep_nesting_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "q.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"q\.json.*(nested too deep|not JSON)"):
        read_results(tmp_path / "q.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such results file"),
        (b"[", "is not JSON"),
        (b"[]", "holds no results"),
        (b" \n", "holds no results"),
        (b"\xff\xfe[", "is not UTF-8 text"),
        (b'{"a": 1}', "lacks id"),
        (b'{"text": ', "q.json:1: is not JSON"),
    ],
)
def test_a_file_that_is_no_results_file_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "q.json").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_results(tmp_path / "q.json")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_folder_is_no_results_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_results(tmp_path)


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("questions.json", "scores.json"),
        ("questions.jsonl", "scores.json"),
        ("mine.json", "mine.scores.json"),
        ("mine.jsonl", "mine.jsonl.scores.json"),
        ("mine", "mine.scores.json"),
    ],
)
def test_scores_go_beside_the_results_and_not_over_others(tmp_path: Path, name: str, scores: str) -> None:
    write(tmp_path / name, [entry(), entry()])
    if scores != "scores.json":
        (tmp_path / "scores.json").write_text("of another file", encoding="utf-8")
    for _ in range(2):
        evaluate.main([str(tmp_path / name)])
    assert json.loads((tmp_path / scores).read_text(encoding="utf-8"))["similarity"]["similarity"] == 100
    if scores != "scores.json":
        assert (tmp_path / "scores.json").read_text(encoding="utf-8") == "of another file"


def test_scores_do_not_replace_a_file_that_is_none_of_ours(tmp_path: Path) -> None:
    write(tmp_path / "mine.json", [entry()])
    for content in ("[]", "{}", "keep me"):
        (tmp_path / "mine.scores.json").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match="mine.scores.json: is not a file that this command wrote"):
            evaluate.main([str(tmp_path / "mine.json")])
        assert (tmp_path / "mine.scores.json").read_text(encoding="utf-8") == content


def test_a_scores_file_is_refused_as_input_and_stays_as_it_is(tmp_path: Path) -> None:
    evaluate.main([str(write(tmp_path / "questions.json", [entry()]))])
    content = (tmp_path / "scores.json").read_bytes()
    (tmp_path / "copy.json").write_bytes(content)
    with pytest.raises(UserError, match="is the name of the file that this command writes"):
        evaluate.main([str(tmp_path / "scores.json")])
    with pytest.raises(UserError, match="copy.json: holds scores, not results"):
        evaluate.main([str(tmp_path / "copy.json")])
    assert (tmp_path / "scores.json").read_bytes() == content
    # Results under that name would be overwritten by their scores.
    results = write(tmp_path / "scores.json", [entry()]).read_bytes()
    with pytest.raises(UserError, match="is the name of the file that this command writes"):
        evaluate.main([str(tmp_path / "scores.json")])
    assert (tmp_path / "scores.json").read_bytes() == results


def test_the_command_prints_the_figures_and_where_all_of_them_are(tmp_path: Path) -> None:
    done = run_script("evaluate.py", write(tmp_path / "questions.json", [entry(), entry()]), "--chance-rounds", "3")
    assert done.returncode == 0, done.stderr
    starts = [line.split()[0] for line in done.stdout.splitlines()]
    assert starts == ["form", "usable", "checks", "similarity", "files"]
    assert done.stdout.splitlines()[-1].endswith("scores.json")


@pytest.mark.parametrize(
    "arguments", [("--chance-rounds", "-1"), ("--chance-rounds", "0"), ("--chance-rounds", "1e3"), ("--chance", "3")]
)
def test_bad_options_are_refused(
    tmp_path: Path, arguments: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "questions.json", [entry()])
    with pytest.raises(SystemExit) as caught:
        evaluate.main([str(path), *arguments])
    assert caught.value.code == 2
    assert not (tmp_path / "scores.json").exists()


def test_a_fault_ends_the_command_with_code_2_and_no_traceback(tmp_path: Path) -> None:
    done = run_script("evaluate.py", tmp_path / "q.json")
    assert done.returncode == 2
    assert "there is no such results file" in done.stderr
    assert "Traceback" not in done.stderr
