"""The material that a stem brings along: the text and nothing that the paper says about it or asks of it."""

import pytest

from gaokao.records import Record
from gaokao_data.exam_material import MATERIAL_CHARS, material

TOLD = "1931年春，某县的布商联名上书，说洋布的价格不及土布的一半，织户纷纷停机。县署派人查访，所得与呈文相同。"
SECOND = "次年冬，县里三百余户织户改种棉花，原料由轮船运往上海的纱厂，当地的布市从此只卖洋布。"
OPTIONS = "\nA．自然经济开始解体\nB．民族工业得到发展\nC．政府鼓励进口洋布\nD．棉花种植受到限制"
POEM = "夜渡\n无名氏\n渡口风急夜潮生，\n独客凭栏听雨声。\n灯火隔江三四点，\n不知何处是归程。"
ENGLISH = (
    "The old mill by the river stood empty for years. Last spring some neighbours cleaned it and opened a small library.\n"
    "Children now read there after school, and the wheel turns again."
)


def item(question: str, subject: str = "历史", kind: str = "单选题", *answers: str) -> Record:
    return Record("a", subject, kind, "", question=question, answer=answers or ("A",), analysis="解析。")


def written(question: str, subject: str = "历史") -> str:
    return material(item(question, subject, "主观题", "答案。"))


def test_what_stands_before_the_sentence_that_asks_is_the_material_and_the_stem_keeps_it() -> None:
    record = item(f"{TOLD}这反映出当时（　）{OPTIONS}")
    assert material(record) == TOLD
    assert TOLD in record.question
    assert (
        material(item(f"{TOLD}{SECOND}据此可知，当地（　）\n①布市萧条\n②种棉\n③停机\n④进口{OPTIONS}")) == TOLD + SECOND
    )


def test_a_clause_that_asks_is_cut_off_its_sentence() -> None:
    open_end = TOLD + SECOND.removesuffix("。")
    assert material(item(f"{open_end}，这一变化说明，当地（　）{OPTIONS}")) == TOLD + SECOND
    assert material(item(f"{open_end}，其根本原因在于（　）{OPTIONS}")) == TOLD + SECOND
    assert material(item(f"{open_end}，这表明（　）\n①布市萧条\n②织户种棉{OPTIONS}")) == TOLD + SECOND
    assert material(item(f"{TOLD}{SECOND}织户改种棉花，这是因为（　）{OPTIONS}")) == TOLD + SECOND, "too little is told"


@pytest.mark.parametrize(
    "stem",
    [
        "下列关于土布与洋布的叙述，符合史实并且能够说明近代农村经济变化趋势的一项是（　）",
        "某县的布商联名上书，说洋布便宜。这反映出（　）",
        "根据当时的史实，下列对于近代中国农村手工业走向衰落的原因所作的解释中，最为恰当的一项是哪一项（　）",
    ],
)
def test_a_stem_that_only_asks_or_tells_little_has_no_material(stem: str) -> None:
    assert material(item(stem + OPTIONS)) == ""


def test_a_material_is_of_the_minimum_length_or_longer() -> None:
    told = "甲" * (MATERIAL_CHARS - 1) + "。"
    assert material(item(f"{told}这说明（　）{OPTIONS}")) == told
    assert material(item(f"{told[1:]}这说明（　）{OPTIONS}")) == ""


def test_a_full_stop_of_the_print_ends_a_sentence_unless_it_is_in_a_number_or_a_formula() -> None:
    told = f"某县的织机由每百户14.6台降到3．2台，比率约为 $x=1.5．$ 倍．{TOLD}".replace("。", "．")
    assert material(item(f"{told}这反映出（　）{OPTIONS}", "政治")) == told
    assert material(item(f"{told}布价之比由4：1改为2：1．这反映出（　）{OPTIONS}")) == f"{told}布价之比由4：1改为2：1．"


def test_rows_of_a_table_belong_to_the_material() -> None:
    table = "表 某县布市的成交（单位：匹）\n年份 土布 洋布\n1921 43200 5100\n1926 28700 21300\n1931 9600 40800\n"
    assert material(item(f"{table}表中的变化说明（　）{OPTIONS}")) == table.strip()


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        ("阅读材料，完成下列要求。\n", ""),
        ("阅读材料，回答问题。\n材料\n", ""),
        ("中外历史人物评说\n材料 ", ""),
        ("材料", ""),
        ("", "\n据此回答下列问题："),
        ("", "\n请回答："),
    ],
)
def test_what_the_paper_says_to_the_candidates_is_no_material(head: str, tail: str) -> None:
    ask = "\n（1）根据材料，概括布市的变化。\n（2）说明变化的原因。"
    assert written(f"{head}{TOLD}\n——据《某县志》{tail}{ask}") == f"{TOLD}\n——据《某县志》"


def test_a_task_inside_the_material_is_taken_out() -> None:
    told = TOLD.removesuffix("。")
    assert material(item(f"{told}，据此回答问题。\n{SECOND}这反映出（　）{OPTIONS}")) == f"{TOLD}\n{SECOND}"


def test_labels_of_several_materials_stay() -> None:
    both = f"材料一 {TOLD}\n材料二 {SECOND}"
    assert written(f"阅读材料，完成下列要求。\n{both}\n（1）概括变化。\n（2）说明原因。") == both


def test_a_written_question_without_numbers_loses_its_asks_and_what_they_require() -> None:
    assert written(f"{TOLD}{SECOND}指出布市的变化，并说明其原因。", "地理") == TOLD + SECOND
    asked = "\n从材料中提炼一个观点，并加以论述。（要求：观点明确，史论结合。）"
    assert written(f"阅读材料，完成下列要求。\n{TOLD}\n——据《某县志》{asked}") == f"{TOLD}\n——据《某县志》"


def test_the_text_of_a_set_is_its_material() -> None:
    part = "\n（1）布市变化的主要原因是（　）\nA．价格\nB．气候\nC．人口\nD．政策"
    question = f"{TOLD}据此完成下列各题。{part}{part.replace('（1）', '（2）')}"
    assert material(item(question, "地理", "单选题", "A", "B")) == TOLD


def test_questions_of_a_set_that_cannot_be_told_apart_are_no_material() -> None:
    inline = "1．布市变化的共同特点是（　）A．价格上升B．价格下降C．布匹增加D．布匹减少2．主要原因是（　）A．甲乙B．丙丁C．戊己D．庚辛"
    assert material(item(f"{TOLD}{SECOND}据此完成下面小题。{inline}", "地理", "单选题", "A", "B", "C")) == TOLD + SECOND


def test_poems_and_texts_of_the_languages_are_material_without_their_tasks() -> None:
    poem = f"阅读下面这首宋诗，完成各题。\n{POEM}\n（1）下列对这首诗的赏析，不正确的一项是\nA．写景\nB．抒情\nC．叙事\nD．议论"
    assert written(poem, "语文") == POEM
    unnumbered = f"请对下面这段新闻进行压缩，不超过40个字。{TOLD}{SECOND}"
    assert written(unnumbered, "语文") == TOLD + SECOND, (
        "the task stands in front, so the last sentence is told as well"
    )
    assert (
        written(f"阅读下面的文字，完成下面小题。\n{TOLD}\n4.下列理解不正确的一项是\nA.甲\n5.请概括大意。", "语文")
        == TOLD
    )
    unsplit = f"B\n{ENGLISH}\n53. What was opened in the mill?____\nA. A shop. B. A library. C. A school. D. A bank."
    assert material(item(unsplit, "英语", "单选题", "B", "C")) == ENGLISH


def test_numbers_of_blanks_are_taken_out() -> None:
    cloze = ENGLISH.replace("empty", "__41__").replace("turns", "__42__ (turn)")
    told = written(f"阅读下面短文，在空白处填入1个适当的单词或括号内单词的正确形式。\n{cloze}", "英语")
    assert told == ENGLISH.replace("empty", "____").replace("turns", "____ (turn)")


def test_conditions_of_a_calculation_and_examples_of_a_language_are_no_material() -> None:
    assert material(item(f"{TOLD}这反映出（　）{OPTIONS}", "物理")) == ""
    assert material(item(f"{ENGLISH} The library is ____ now.{OPTIONS}", "英语")) == ""
