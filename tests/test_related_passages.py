"""Passages from the 解析 of other items read as exposition and give no answer away."""

from gaokao_data.related_passages import exposition


def test_exposition_drops_verdicts_and_words_about_the_item() -> None:
    analysis = (
        "A、血糖浓度升高时，胰岛素的分泌量增加，A正确；\nB．胰高血糖素能促进肝糖原分解为葡萄糖，故B错误；\n"
        "本题考查血糖调节的有关知识和应用能力。\n故选：A。"
    )
    assert exposition(analysis) == [
        "血糖浓度升高时，胰岛素的分泌量增加。",
        "胰高血糖素能促进肝糖原分解为葡萄糖。",
    ]
