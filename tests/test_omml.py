"""Formulas for Word: each structure of LaTeX that questions use becomes the one that Word has for it."""

from xml.etree.ElementTree import Element

import pytest

from gaokao.blocks import Formula, Line, read_blocks
from gaokao.omml import NOTHING, OMML, office_math, width


def math(latex: str) -> Element:
    (line,) = read_blocks(f"${latex}$")
    assert isinstance(line, Line)
    (formula,) = line.pieces
    assert isinstance(formula, Formula) and formula.drawn is not None
    return formula.drawn


def short(element: Element) -> str:
    """Structures as `f[num|den]`, properties as `{key=value}`, letters as they are, an empty part as `.`."""
    name = element.tag.removeprefix(OMML)
    if name == "r":
        return (element.findtext(f"{OMML}t") or "").replace(NOTHING, ".")
    parts = [child for child in element if not child.tag.endswith("Pr")]
    values = [
        f"{child.tag.removeprefix(OMML)}={child.get(OMML + 'val')}"
        for properties in element
        if properties.tag.endswith("Pr")
        for child in properties
        if child.get(OMML + "val") is not None
    ]
    said = "{" + " ".join(values) + "}" if values else ""
    holds_parts = name not in ("oMath", "e", "num", "den", "sub", "sup", "deg", "lim")
    inner = ("|" if holds_parts else "").join(map(short, parts))
    return f"{name}{said}[{inner}]" if holds_parts else inner


@pytest.mark.parametrize(
    ("latex", "word"),
    [
        (r"\frac{1}{2}", "f[1|2]"),
        (r"\binom{n}{k}", "d{begChr=( endChr=)}[f{type=noBar}[n|k]]"),
        (r"x_1^2", "sSubSup[x|1|2]"),
        (r"a_n", "sSub[a|n]"),
        (r"f'(x)", "sSup[f|′]d{begChr=( endChr=)}[x]"),
        (r"{}_{6}^{14}C", "sSubSup[.|6|14]C"),
        (r"\sqrt{x}", "rad{degHide=1}[.|x]"),
        (r"\sqrt[3]{x}", "rad[3|x]"),
        (r"\left(\frac{1}{2}\right]", "d{begChr=( endChr=]}[f[1|2]]"),
        (r"\left|x\right|+1", "d{begChr=| endChr=|}[x]+1"),
        (r"\left\{\begin{array}{l}x=1\\y\end{array}\right.", "d{begChr={ endChr=}[m[mr[x=1]|mr[y]]]"),
        (r"\begin{cases} x>1 \\ y<2 \end{cases}", "d{begChr={ endChr=}[m[mr[x>1]|mr[y<2]]]"),
        (r"\begin{pmatrix}1&2\\3\end{pmatrix}", "d{begChr=( endChr=)}[m[mr[1|2]|mr[3|.]]]"),
        (r"\sum_{i=1}^{n} a_i+1", "nary{chr=∑ limLoc=undOvr}[i=1|n|sSub[a|i]]+1"),
        (r"\int_0^1 x", "nary{chr=∫ limLoc=subSup}[0|1|x]"),
        (r"\int^1 x", "nary{chr=∫ limLoc=subSup subHide=1}[.|1|x]"),
        (r"\lim_{x\to 0} x", "limLow[lim|x→0]x"),
        (r"\vec{a}\cdot\overrightarrow{AB}", "acc{chr=\u20d7}[a]·acc{chr=\u20d7}[AB]"),
        (r"\bar{x}+\overline{AB}", "bar{pos=top}[x]+bar{pos=top}[AB]"),
        (r"\hat{y}", "acc{chr=\u0302}[y]"),
        (r"\underbrace{a}_{b}", "limLow[groupChr{chr=⏟ pos=bot}[a]|b]"),
        (r"\stackrel{a}{=}", "limUpp[=|a]"),
        (r"\xrightarrow[a]{b}", "limUpp[limLow[→|a]|b]"),
        (r"\boxed{x}", "borderBox[x]"),
        (r"\phantom{x}y", "phant{show=0}[x]y"),
        (r"a\not=b", "a=\u0338b"),
        (r"(\quad)", "d{begChr=( endChr=)}[\u2003]"),
        (r"2\times10^{-3}\,\mathrm{m}", "2×sSup[10|−3]\u2009m"),
        (r"20\%", "20%"),
        (r"(a+b)^2", "sSup[d{begChr=( endChr=)}[a+b]|2]"),
        (r"[0,(1))_n", "sSub[d{begChr=[ endChr=)}[0,d{begChr=( endChr=)}[1]]|n]"),
        (r"\{x||x|>1\}", "d{begChr={ endChr=}}[xd{begChr=| endChr=|}[.]x|>1]"),
        (r"|x|^2+|y|", "sSup[d{begChr=| endChr=|}[x]|2]+d{begChr=| endChr=|}[y]"),
        (r"\{x|x>0\}", "d{begChr={ endChr=}}[x|x>0]"),
        (r"=(", "=("),
        (r")^2(|", "sSup[)|2](|"),
        (r"\begin{aligned} a&=b \\ &=c \end{aligned}", "m[mr[a|=b]|mr[.|=c]]"),
        (r"\begin{gathered} a \\ b \end{gathered}", "m[mr[a]|mr[b]]"),
    ],
)  # fmt: skip
def test_each_structure_has_its_own_in_word(latex: str, word: str) -> None:
    assert short(office_math(math(latex))) == word


@pytest.mark.parametrize(
    ("latex", "styles"),
    [
        ("x", ["i"]),
        (r"\mathrm{m}", [None]),
        (r"\sin x", ["p", "i"]),
        (r"2=3", ["p"]),
        (r"\mathbf{R}", ["b"]),
        (r"\boldsymbol{a}", ["bi"]),
        (r"\text{温度}", [None]),
        ("温度", [None]),
    ],
)
def test_letters_stand_upright_slanted_or_bold_as_latex_has_them(latex: str, styles: list[str | None]) -> None:
    runs = [run for run in office_math(math(latex)).iter(f"{OMML}rPr")]
    assert [properties[0].get(f"{OMML}val") for properties in runs] == styles
    assert all((properties[0].tag == f"{OMML}nor") == (style is None) for properties, style in zip(runs, styles, strict=True))  # fmt: skip


@pytest.mark.parametrize(
    ("latex", "texts"),
    [(r"x^{2+}", ["+"]), ("x^+", ["+"]), ("|x|=", ["="]), ("=x", ["="]), ("=", ["="]), ("-x", []), ("a=b", []), (r"60^\circ", ["∘"])],
)  # fmt: skip
def test_an_operator_without_its_operand_is_a_text(latex: str, texts: list[str]) -> None:
    runs = office_math(math(latex)).iter(f"{OMML}r")
    assert [run.findtext(f"{OMML}t") for run in runs if run.find(f"{OMML}rPr/{OMML}nor") is not None] == texts


def test_no_part_is_empty() -> None:
    # Word draws a dotted box there, as if something were to be filled in.
    for latex in (r"\frac{}{2}", "^2", r"\sqrt{}", r"{}^{2}", r"\begin{matrix}1&\\&2\end{matrix}", r"\left(\right)"):
        for element in office_math(math(latex)).iter():
            if element.tag.removeprefix(OMML) in ("e", "num", "den", "sub", "sup", "deg", "lim"):
                assert len(element), latex


def test_what_is_nested_too_deeply_to_be_read_again_is_refused() -> None:
    office_math(math(r"\sqrt{" * 15 + "x" + "}" * 15))
    with pytest.raises(ValueError, match="nested too deeply"):
        office_math(math(r"\sqrt{" * 100 + "x" + "}" * 100))


def test_the_longer_half_of_a_fraction_counts_for_its_width() -> None:
    assert width(math("12345")) == 5
    assert width(math(r"\frac{12345}{2}")) == 5
    assert width(math(r"\text{温度}")) == 4
    assert width(math("a+b")) > 3
