"""Pictures are whole PNGs without an empty box, with and without a Chinese font, and show the figures they are given."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TEXT, entry, item, write_results
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg

import evaluate
from gaokao import pictures
from gaokao.pictures import Words, chinese_font, draw_losses, draw_usable
from gaokao.records import SUBJECTS, TYPES

BAD = TEXT.replace("参考答案：B", "参考答案：乙")
HISTORY = [
    *({"step": step, "loss": 3.0 / step, "learning_rate": 1e-4 * (1 - step / 40)} for step in range(1, 41)),
    {"step": 20, "eval_loss": 1.5},
    {"step": 40, "eval_loss": 1.0},
    {"step": 0, "general_loss": 2.0},
    {"step": 30, "general_loss": 2.2},
]
NEEDS_FONT = "needs a Chinese font, such as Debian's fonts-noto-cjk"
# A missing glyph, which would be a box, is a warning to matplotlib.
pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(params=["with a Chinese font", "without"])
def fonts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "without":
        monkeypatch.setattr(pictures, "CHINESE_FONTS", ())
    elif chinese_font() is None:
        pytest.skip(NEEDS_FONT)
    return str(request.param)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The figures behind the files that are written."""
    figures: list[Any] = []
    original = FigureCanvasAgg.print_png

    def kept(canvas: Any, target: Any) -> None:
        figures.append(canvas.figure)
        original(canvas, target)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(FigureCanvasAgg, "print_png", kept)
    yield figures


def texts(axes: Any) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def test_no_word_and_no_name_becomes_a_box(fonts: str, tmp_path: Path, drawn: list[Any]) -> None:
    folder = tmp_path / "历史_$x$ \U0010fff0"
    folder.mkdir()
    items = [item(id=f"{s}{t}{n}", subject=s, type=t) for s in SUBJECTS for t in TYPES for n in range(5)]
    items += [item(id="one", subject="地理")]
    draw_usable([(folder / "questions.json", items), (folder / "_questions.json", items)], folder / "usable.png")
    draw_usable([(folder / "questions.json", items[-1:])], folder / "usable.png")
    draw_losses(HISTORY, folder / "loss.png")
    names = {path.name: path.read_bytes()[:4] for path in folder.iterdir()}
    assert names == {"usable.png": b"\x89PNG", "loss.png": b"\x89PNG"}
    assert texts(drawn[0].axes[0])[:3] == (
        ["all", "Chinese", "maths"] if fonts == "without" else ["全部", "语文", "数学"]
    )
    assert drawn[2].axes[0].get_title() == ("??" if fonts == "without" else "历史") + r"_\$x\$ " + "?"


def test_the_usable_rate_stands_by_subject_and_type_with_its_interval_and_both_files(
    tmp_path: Path, drawn: list[Any]
) -> None:
    first = [item(TEXT if n < 6 else BAD, id=f"r{n}", subject="历史" if n < 8 else "地理") for n in range(10)]
    second = [item(BAD, id=one.record.id, subject=one.record.subject) for one in first]
    draw_usable([(tmp_path / "a.json", first), (tmp_path / "b.json", second)], tmp_path / "usable.png")
    (axes,) = drawn[0].axes
    assert texts(axes) == [Words()(name) for name in ("全部", "历史", "单选题")]
    assert [list(line.get_xdata()) for line in axes.get_lines()] == [[60.0, 75.0, 60.0], [0.0, 0.0, 0.0]]
    # Wilson's interval of 6 of 10.
    assert axes.collections[0].get_segments()[0][:, 0] == pytest.approx([31.27, 83.18], abs=0.01)
    assert [text.get_text() for text in axes.texts] == ["6/10", "6/8", "6/10", "0/10", "0/8", "0/10"]
    assert axes.get_xlabel().endswith(f"{Words()('地理')} 2")
    assert [text.get_text()[-6:] for text in drawn[0].legends[0].get_texts()] == ["a.json", "b.json"]


def test_the_losses_stand_over_the_steps_with_the_learning_rate(tmp_path: Path, drawn: list[Any]) -> None:
    draw_losses(HISTORY, tmp_path / "loss.png")
    left, right = drawn[0].axes
    each, mean, validation, general = left.get_lines()
    assert (list(general.get_xdata()), list(general.get_ydata())) == ([0, 30], [2.0, 2.2])
    assert list(each.get_xdata()) == list(range(1, 41)) and each.get_ydata()[1] == 1.5
    assert list(mean.get_ydata()[:2]) == [3.0, 2.25]
    assert list(validation.get_ydata()) == [1.5, 1.0]
    assert list(right.get_lines()[0].get_ydata())[-1] == 0 and len(right.get_legend().get_texts()) == 5
    draw_losses([{"step": 1, "loss": 2.0}], tmp_path / "loss.png")
    assert len(drawn[1].axes) == 1
    # An interval of logs that is longer than the run.
    draw_losses([{"step": 5, "eval_loss": 2.0}], tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size


def test_a_font_installed_after_the_list_of_fonts_was_made_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    if (name := chinese_font()) is None:
        pytest.skip(NEEDS_FONT)
    manager = font_manager.fontManager
    monkeypatch.setattr(manager, "ttflist", [font for font in manager.ttflist if "CJK" not in font.name])
    assert chinese_font() == name


def test_a_font_without_one_of_the_characters_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "CHINESE_FONTS", (pictures.LATIN_FONT,))
    assert chinese_font() is None


def test_the_evaluation_draws_what_both_files_have(tmp_path: Path, drawn: list[Any]) -> None:
    first = write_results(tmp_path / "mine.json", [entry(id=f"r{n}") for n in range(7)])
    second = write_results(tmp_path / "other.json", [entry(BAD, id=f"r{n}") for n in range(6)])
    evaluate.main([str(first)])
    assert (tmp_path / "mine.usable.png").read_bytes()[:4] == b"\x89PNG"
    evaluate.main([str(first), "--against", str(second)])
    counts = [[text.get_text() for text in figure.axes[0].texts] for figure in drawn]
    assert counts == [["7/7"] * 3, ["6/6"] * 3 + ["0/6"] * 3]
