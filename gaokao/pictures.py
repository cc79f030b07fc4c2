"""PNG pictures of a run: its losses and learning rate, and the usable rate of questions by subject and type.

Their words are Chinese where a Chinese font is installed, and English otherwise: without one, every character would be
an empty box. Nothing here needs a display.
"""

import contextlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gaokao.figures import LEAST_ITEMS, too_few, usable_table
from gaokao.metrics import rate
from gaokao.records import SUBJECTS, TYPES
from gaokao.results import Generated
from gaokao.runs import write_bytes

# By how their names begin, the better ones first: what Linux, macOS and Windows have. A collection may be known by its
# Japanese font only, which has the Chinese characters too.
CHINESE_FONTS = (
    "Noto Sans SC", "Noto Sans CJK SC", "Source Han Sans SC", "Source Han Sans CN", "PingFang", "Microsoft YaHei", "WenQuanYi", "Noto Sans CJK",
    "Source Han Sans", "SimHei", "Hiragino Sans GB", "STHeiti", "Heiti", "DengXian", "Arial Unicode", "Droid Sans Fallback", "Noto Serif CJK",
    "Source Han Serif", "Songti", "SimSun", "AR PL",
)  # fmt: skip
LATIN_FONT = "DejaVu Sans"  # comes with matplotlib
USABLE_LABEL, FEW_LABEL = "可用率（通过全部硬性检查），横线为 95% 区间", f"少于 {LEAST_ITEMS} 题，不单列："
# Everything that a picture writes of its own.
ENGLISH = {
    "语文": "Chinese", "数学": "maths", "英语": "English", "物理": "physics", "化学": "chemistry", "生物": "biology", "政治": "politics",
    "历史": "history", "地理": "geography", "单选题": "single choice", "多选题": "multiple choice", "填空题": "fill-in", "主观题": "open-ended",
    "全部": "all", USABLE_LABEL: "usable (all hard checks passed), with 95% intervals", FEW_LABEL: f"fewer than {LEAST_ITEMS} questions: ",
    "训练，每一步": "training, each step", "训练，{} 步平均": "training, mean of {} steps", "验证": "validation", "通用对话": "general chats",
    "优化步": "optimizer step", "每个回答词元的损失": "loss per completion token", "学习率": "learning rate",
}  # fmt: skip
COLOURS = ("tab:blue", "tab:orange")


def chinese_font() -> str | None:
    """Name of an installed font that has every Chinese character of these pictures, or `None`."""
    from matplotlib import font_manager

    manager = font_manager.fontManager
    if found := _chinese(manager.ttflist):
        return found
    # Its list of fonts is of the day when matplotlib was first used; some may have been installed since.
    for file in set(font_manager.findSystemFonts()) - {font.fname for font in manager.ttflist}:
        # What cannot be read is no font to it either.
        with contextlib.suppress(Exception):
            manager.addfont(file)
    return _chinese(manager.ttflist)


def _chinese(fonts: Iterable[Any]) -> str | None:
    needed = {ord(letter) for text in ENGLISH for letter in text}
    files = {font.name: font.fname for font in fonts}
    names = [name for start in CHINESE_FONTS for name in sorted(files) if name.startswith(start)]
    return next((name for name in names if needed <= _letters(files[name])), None)


def _letters(file: str) -> set[int]:
    from matplotlib import font_manager

    try:
        return set(font_manager.get_font(file).get_charmap())
    except (OSError, RuntimeError):
        # Removed since the list of fonts was made, or of a kind that cannot be read.
        return set()


class Words:
    """The words of a picture in a language that an installed font can write."""

    def __init__(self) -> None:
        """Look for a font."""
        from matplotlib import font_manager

        self.font = chinese_font()
        self.families = [LATIN_FONT] if self.font is None else [self.font, LATIN_FONT]
        self._known = set().union(*(_letters(font_manager.findfont(family)) for family in self.families))

    def __call__(self, text: str) -> str:
        """A word of the picture itself."""
        return ENGLISH[text] if self.font is None else text

    def name(self, text: str) -> str:
        """A name that a user chose; what no font can write becomes a question mark."""
        # Between dollars stands a formula, to matplotlib.
        return "".join(letter if ord(letter) in self._known else "?" for letter in text).replace("$", r"\$")


def draw_losses(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the losses (training, validation, general chats) and the learning rate over the steps, whole or not at all.

    Args:
        history: the Trainer's log history.
        path: of the PNG; the name of its folder becomes the title.
    """
    words = Words()

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        trained = curve(history, "loss")
        steps, losses = [step for step, _ in trained], [loss for _, loss in trained]
        # Single steps jump with the rows that they happen to hold; their running mean shows where the loss goes.
        window = max(1, len(losses) // 20)
        means = [sum(losses[max(0, end - window) : end]) / min(end, window) for end in range(1, len(losses) + 1)]
        axes.plot(steps, losses, label=words("训练，每一步"), color=COLOURS[0], linewidth=0.8, alpha=0.3)
        axes.plot(steps, means, label=words("训练，{} 步平均").format(window), color=COLOURS[0], linewidth=1.4)
        if validation := curve(history, "eval_loss"):
            axes.plot(*zip(*validation, strict=True), label=words("验证"), color=COLOURS[1], marker="o", markersize=4)
        if general := curve(history, "general_loss"):
            axes.plot(
                *zip(*general, strict=True), label=words("通用对话"), color="tab:green", marker="s", linestyle=":"
            )
        axes.set(
            xlabel=words("优化步"), ylabel=words("每个回答词元的损失"), title=words.name(path.resolve().parent.name)
        )
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        lines = [*axes.get_lines()]
        if rates := curve(history, "learning_rate"):
            right = axes.twinx()
            lines += right.plot(
                *zip(*rates, strict=True), label=words("学习率"), color="grey", linewidth=1, linestyle="--"
            )
            right.set_ylabel(words("学习率"))
            right.set_ylim(bottom=0)
            right.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        # On the axes in front, so that no line runs through it.
        figure.axes[-1].legend(handles=lines, loc="upper right")

    _write(draw, words, path, (7, 4))


def curve(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """(step, value) of the entries of a Trainer's log history that have the key."""
    return [(entry["step"], entry[key]) for entry in history if key in entry]


def draw_usable(results: Sequence[tuple[Path, Sequence[Generated]]], path: Path) -> None:
    """Draw the usable rate of all questions, by subject and by type with 95% intervals, whole or not at all.

    Args:
        results: a results file and its questions, at least one; or two files and their questions for the same records.
        path: of the PNG.
    """
    words = Words()
    tables = [{"全部": rate([item.usable for item in items]), **usable_table(items)} for _, items in results]
    names = [name for name in ("全部", *SUBJECTS, *TYPES) if name in tables[0]]
    few = [f"{words(name)} {count}" for name, count in too_few(tables[0]).items()]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for number, (table, (file, _)) in enumerate(zip(tables, results, strict=True)):
            rows = [table[name] for name in names]
            places = [place + 0.28 * (number - (len(results) - 1) / 2) for place in range(len(rows))]
            low, high = ([100 * row["interval_95"][side] for row in rows] for side in (0, 1))
            colour = COLOURS[number]
            axes.hlines(places, low, high, color=colour, linewidth=2, alpha=0.5)
            # What begins with an underscore is left out of a legend.
            label = words.name("/".join(file.resolve().parts[-3:])[-60:].lstrip("_"))
            axes.plot([100 * row["rate"] for row in rows], places, "o", color=colour, clip_on=False, label=label)
            for place, row in zip(places, rows, strict=True):
                # Beside the plot: beside its mark it would stand on an interval.
                axes.text(102, place, f"{row['passed']}/{row['items']}", va="center", fontsize=8, color=colour)
        axes.set(xlim=(0, 100), ylim=(len(names) - 0.5, -0.5))
        axes.set_xlabel("\n".join([words(USABLE_LABEL), *([words(FEW_LABEL) + ", ".join(few)] if few else [])]))
        axes.set_yticks(range(len(names)), [words(name) for name in names])
        axes.xaxis.set_major_formatter("{x:.0f}%")
        axes.grid(axis="x", alpha=0.3)
        figure.legend(loc="outside upper center", frameon=False)

    _write(draw, words, path, (7, 1.5 + 0.45 * len(names)))


def _write(draw: Callable[[Any], None], words: Words, path: Path, size: tuple[float, float]) -> None:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.family": words.families}):
        figure = Figure(figsize=size, dpi=120, layout="constrained")
        draw(figure)
        content = io.BytesIO()
        FigureCanvasAgg(figure).print_png(content)  # type: ignore[no-untyped-call]
    write_bytes(path, content.getvalue())
