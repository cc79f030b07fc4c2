"""The page that a teacher reads: what it shows, that a text stays text, and how it behaves in a browser."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import NEWS, PASSAGE, TEXT, entry, item, write_results

import evaluate
from gaokao.checks import CHECKS
from gaokao.report import FAILURES, card, marked_passage, marked_up, write_report
from gaokao.results import OFF_PASSAGES, REPEATS, SOLVE_BACK, Generated, text_digest

EVIL = '<script>document.title="broken"</script></template><img src="http://127.0.0.1:9/x" onerror="alert(1)">'
FORMULA = TEXT.replace("A．甲", r"A．$\frac{1}{2}$").replace("B．乙", r"B．$\sqrt{x}<y$")
TABLE = "题干：下表是某地的产量。\n| 年份 | 产量 |\n|---|---|\n| 2012 | $40$ |\n| 2022 | 860 |\n下列正确的是\nA．甲\nB．乙\nC．丙\nD．丁\n参考答案：B\n解析：乙。故选B。"
BAD = TEXT.replace("参考答案：B", "参考答案：乙")


def page(folder: Path, items: list[Generated], against: tuple[str, ...] = ()) -> str:
    path = folder / "gaokao" / "generated" / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_report(path, items, evaluate.summarize(items), against)
    return path.read_text(encoding="utf-8")


def test_every_check_has_words_for_a_teacher() -> None:
    assert set(FAILURES) == {*(check.name for check in CHECKS), REPEATS, OFF_PASSAGES, SOLVE_BACK}


def test_options_stand_on_lines_of_their_own_and_tables_are_tables() -> None:
    shown = marked_up(TABLE.removeprefix("题干："))
    assert shown.count('<p class="option">') == 4
    assert "<th>年份</th><th>产量</th>" in shown and "<td>2022</td><td>860</td>" in shown
    assert "|" not in shown
    assert re.search(r"<td><math[^>]*><mrow><mn>40</mn>", shown)


def test_the_lines_of_a_dialogue_are_no_options_and_those_of_a_choice_are_whatever_mark_they_have() -> None:
    dialogue = "补全对话。\nA: Hi, Tom.\nB: Hello!\nA: How are you?\nB: ____"
    assert marked_up(dialogue, latex=False).count('<p class="option">') == 0
    options = "\n".join(f" {letter}：{text}" for letter, text in zip("ABCD", "甲乙丙丁", strict=True))
    assert marked_up(f"{dialogue}\n{options}").count('<p class="option">') == 4
    assert marked_up(f"1．甲\n{options}\n2．乙\n{options}").count('<p class="option">') == 8


@pytest.mark.parametrize(
    "latex", [r"\frac{1}{2}", r"v^2-v_0^2=2ax", "x<y", "a>b", r"\begin{cases} x>1 \\ y<2 \end{cases}", r"\mathrm{CO_2}"]
)
def test_formulas_are_drawn(latex: str) -> None:
    shown = marked_up(f"已知${latex}$，求")
    assert shown.count("<math") == shown.count("</math>") == 1 and "broken" not in shown and "$" not in shown


@pytest.mark.parametrize(
    "latex",
    [r"\frac{1}{", r"\text{<script>alert(1)</script>}", "{" * 50, "&", r"\href{javascript:x}{y}", "x" * 3 + r"\left("],
)
def test_formulas_that_cannot_be_drawn_are_shown_as_they_are_written(latex: str) -> None:
    shown = marked_up(f"已知${latex}$，求")
    assert "<script" not in shown and "href" not in shown.replace(r"\href", "")
    assert "已知" in shown and "求" in shown


def test_formulas_over_several_lines_stay_one() -> None:
    shown = marked_up("已知$$\n\\frac{1}{2}\n$$\n求值")
    assert "<mfrac>" in shown and shown.count("<p") == 2


def test_percent_signs_stay_in_formulas() -> None:
    for latex in ("20%", r"20\%", r"\frac{20%}{3}", "10%<x<20%"):
        shown = marked_up(f"已知${latex}$，求")
        assert shown.count("%") == latex.count("%") and "broken" not in shown


def test_money_in_english_is_no_formula_and_an_odd_dollar_makes_none() -> None:
    question = "How much is it?\nA. $5\nB. $10\nC. $15\nD. $20"
    shown = card(1, item(f"题干：{question}\n参考答案：B\n解析：故选B。", subject="英语"))["question"]
    assert "<math" not in shown and shown.count('class="option"') == 4 and "$10" in shown
    assert "<math" not in marked_up("共$5，又$x$元")


def test_options_on_one_line_are_put_on_four() -> None:
    shown = marked_up("下列正确的是\nA．甲　　B．乙\nC．丙  D．丁")
    assert re.findall(r'<p class="option">(.*?)</p>', shown) == ["A．甲", "B．乙", "C．丙", "D．丁"]


def test_definitions_in_a_formula_are_not_followed() -> None:
    bomb = (
        r"\def\a{x}"
        + "".join(rf"\def\{chr(98 + n)}{{{{\{chr(97 + n)}}}{{\{chr(97 + n)}}}}}" for n in range(24))
        + r"\y"
    )
    assert "broken" in marked_up(f"求${bomb}$")


def test_a_dollar_without_a_partner_takes_nothing_along() -> None:
    assert marked_up("价格为$5\n甲\n乙").count('<p class="line">') == 3


def test_what_the_question_takes_up_is_marked_in_the_passage() -> None:
    question = f"材料：{NEWS[10:40]}。这说明（  ）"
    shown = marked_passage(NEWS, question)
    (found,) = re.findall("<mark>(.*?)</mark>", shown)
    assert found == NEWS[10:40].rstrip("，")
    assert re.sub("</?mark>", "", shown) == NEWS
    assert "<mark>" not in marked_passage(PASSAGE, question)


def test_texts_of_a_model_stay_text_wherever_they_stand(tmp_path: Path) -> None:
    evil = item(TEXT.replace("下列正确的是", EVIL), id=EVIL, topic="x", 课外内容=EVIL, reference=EVIL, adapter=EVIL)
    html = page(tmp_path, [evil], (EVIL,))
    assert html.count("<script") == 1 and html.count("<img") == 0 and "</template>" not in html
    assert html.count("&lt;script&gt;") >= 5


def test_the_page_has_figures_failures_and_sentences_of_a_comparison(tmp_path: Path) -> None:
    items = [item(TEXT if n < 6 else BAD, id=f"r{n}", subject="历史" if n < 5 else "生物") for n in range(10)]
    html = page(tmp_path, items, ("可用率：更好",))
    assert "10 道，由 a 生成" in html and "6/10" in html and "可用率：更好" in html
    assert 'data-check="key" aria-pressed="false">答案不是选项字母 4</button>' in html
    assert html.count("<article") == 10 and "<title>gaokao/generated" in html
    assert 'aria-label="历史 100%"' in html and "不单列" not in html
    assert not re.search(r'(?:src|href)="(?!data:)', html)


def test_groups_of_too_few_questions_are_named_with_their_numbers(tmp_path: Path) -> None:
    items = [item(id=f"r{n}", subject="历史" if n < 5 else "地理" if n < 7 else "化学") for n in range(8)]
    assert '<p class="meta">少于 5 道，不单列：地理 2，化学 1。</p>' in page(tmp_path, items)


def test_a_text_without_its_parts_is_shown_raw(tmp_path: Path) -> None:
    shown = card(1, item("没有分成三部分"))
    assert "没有分成三部分" in shown["question"] and not shown["answer"]
    assert shown["failures"][0][1] == "缺少题干、参考答案或解析"


@pytest.mark.parametrize("text", ["题干：\ud800", "\u2028\x00x", "题干：" + "很长" * 100_000])
def test_hard_texts_make_a_page_all_the_same(tmp_path: Path, text: str) -> None:
    assert "<article" in page(tmp_path, [item(text)])


def test_the_evaluation_writes_the_page_beside_the_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.main([str(write_results(tmp_path / "mine.json", [entry(), entry(id="r1")]))])
    names = ", ".join(str(tmp_path / f"mine.{name}") for name in ("scores.json", "usable.png", "report.html"))
    assert f"files     {names}\n" in capsys.readouterr().out
    assert (tmp_path / "mine.report.html").read_text(encoding="utf-8").count("<article") == 2


# --- in a browser -----------------------------------------------------------------------------------------------------

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not BROWSER or not DRIVER, reason="needs a browser: Debian's chromium and chromium-driver"
)


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(downloads: Path) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,1600"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Any:
    items = [
        item(FORMULA, id="formula", subject="数学"),
        item(TEXT.replace("下列正确的是", EVIL), id="evil", 课外内容=EVIL),
        item(BAD, id="bad", subject="历史", type="主观题"),
        item(BAD, id="bad choice", subject="历史"),
        item(TABLE, id="table", subject="地理"),
    ]
    page(tmp_path, items, ("比较的一句话",))
    browser.get_log("performance")
    browser.get((tmp_path / "gaokao" / "generated" / "report.html").as_uri())
    return browser


def visible(browser: Any) -> list[str]:
    cards = browser.find_elements("css selector", "article")
    return [card.get_attribute("data-id") for card in cards if card.is_displayed()]


def choose(browser: Any, name: str, text: str) -> None:
    from selenium.webdriver.support.select import Select

    Select(browser.find_element("id", name)).select_by_visible_text(text)


@needs_browser
def test_filters_and_search_narrow_the_page(opened: Any) -> None:
    assert len(visible(opened)) == 5
    opened.find_element("id", "search").send_keys("产量")
    assert visible(opened) == ["table"]
    opened.find_element("id", "search").clear()
    opened.find_element("id", "search").send_keys(" ")
    choose(opened, "subject", "历史")
    assert visible(opened) == ["bad", "bad choice"]
    opened.find_element("css selector", '[data-check="key"]').click()
    assert visible(opened) == ["bad choice"]
    assert opened.find_element("id", "count").text == "1 / 5"
    opened.find_element("css selector", '[data-check="key"]').click()
    choose(opened, "subject", "全部科目")
    choose(opened, "state", "不可用")
    assert visible(opened) == ["evil", "bad choice"]


@needs_browser
def test_marked_questions_are_saved_and_printed_with_answers_behind_them(opened: Any, downloads: Path) -> None:
    boxes = opened.find_elements("css selector", ".choose")
    boxes[0].click()
    boxes[4].click()
    assert opened.find_element("id", "save").text == "保存选用的 2 题"
    opened.find_element("id", "save").click()
    saved = downloads / "marked.json"
    until = time.time() + 20
    while not saved.exists() and time.time() < until:
        time.sleep(0.1)
    assert json.loads(saved.read_text(encoding="utf-8")) == {
        "ids": ["formula", "table"],
        "texts": [text_digest(item(text)) for text in (FORMULA, TABLE)],
    }
    # A filter hides what is on the screen, not what is chosen for the paper.
    choose(opened, "subject", "历史")
    opened.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert visible(opened) == ["formula", "table"]
        answers = opened.find_element("id", "answers")
        assert answers.is_displayed() and answers.text.startswith("参考答案与解析") and answers.text.count("故选B") == 2
        assert not opened.find_element("css selector", ".tools").is_displayed()
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@needs_browser
def test_formulas_have_size_texts_stay_text_and_nothing_is_fetched(opened: Any) -> None:
    sizes = [formula.size for formula in opened.find_elements("css selector", "article#q1 math")]
    assert len(sizes) == 2 and all(size["width"] > 5 and size["height"] > 8 for size in sizes)
    assert opened.title == "gaokao/generated · 生成的高考题"
    assert "<script>document.title" in opened.find_element("css selector", "article#q2").text
    assert not opened.find_elements("css selector", "img")
    sent = [json.loads(row["message"])["message"] for row in opened.get_log("performance")]
    urls = [row["params"]["request"]["url"] for row in sent if row["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if not url.startswith(("file:", "data:"))] == []
    assert [row for row in opened.get_log("browser") if row["level"] == "SEVERE"] == []


@needs_browser
def test_the_keyboard_moves_marks_and_searches(opened: Any) -> None:
    body = opened.find_element("css selector", "body")
    body.send_keys("j")
    opened.switch_to.active_element.send_keys("j")
    assert opened.switch_to.active_element.get_attribute("data-id") == "evil"
    opened.switch_to.active_element.send_keys("x")
    assert "chosen" in opened.find_element("id", "q2").get_attribute("class")
    opened.switch_to.active_element.send_keys("k")
    assert opened.switch_to.active_element.get_attribute("data-id") == "formula"
    opened.switch_to.active_element.send_keys("/")
    assert opened.switch_to.active_element.get_attribute("id") == "search"


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(opened: Any, width: int) -> None:
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
