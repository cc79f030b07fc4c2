"""Formulas as Word keeps them: MathML to Office Math (OMML, ECMA-376 part 1, chapter 22.1)."""

import unicodedata
from collections.abc import Iterator, Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from gaokao.blocks import NAMESPACE

OMML = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
# Readers of Word files refuse XML that is nested deeper than 256; a fraction alone takes three levels.
DEEPEST = 40
# Word draws a dotted box for a part that holds nothing.
NOTHING = "\u200b"
_INTEGRALS = "∫∬∭∮"
_SUMS = "∑∏∐⋃⋂⋁⋀" + _INTEGRALS
# What LaTeX's accents are in MathML, and the combining character that Word has for each.
_ACCENTS = {
    "→": "\u20d7",
    "←": "\u20d6",
    "^": "\u0302",
    "~": "\u0303",
    "\u02d9": "\u0307",
    "¨": "\u0308",
    "ˇ": "\u030c",
}
_BARS = "¯―_\u0332\u203e"
_BRACES = "⏞⏟"
# What stands between two operands; the first few may also stand before one.
_SIGNS = "+−±∓"
_OPERATORS = _SIGNS + "-×÷·∗/=<>≤≥⩽⩾≠≈≡∼≅∈∉⊂⊆⊊∪∩→←⇒⇔⇌↔⊥∥∣∧∨∘"
_BRACKETS = tuple("()[]{}|")
_SLASH = "\u29f8"
_SCRIPTS = {"msub": ("sSub", "e", "sub"), "msup": ("sSup", "e", "sup"), "msubsup": ("sSubSup", "e", "sub", "sup")}


ElementTree.register_namespace("m", OMML.strip("{}"))


def office_math(math: Element) -> Element:
    """A formula as an `m:oMath` element.

    Args:
        math: as latex2mathml makes it.

    Raises:
        ValueError: it is nested too deeply, or holds what Word has nothing for.
    """
    if _depth(math) > DEEPEST:
        raise ValueError("nested too deeply")
    return _with(_new("oMath"), _ends(_row(math)))


def width(math: Element) -> int:
    """About how many half-width characters a formula takes in a line; of a fraction the longer half counts."""
    name, parts = _name(math), [width(child) for child in math]
    if name in ("mfrac", "munder", "mover", "munderover", "mtable"):
        return max(parts, default=0)
    wide = sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in math.text or "")
    # Operators have room on both sides.
    return sum(parts) + wide + (1 if name in ("mo", "msqrt", "mroot", "mspace", "mtd") else 0)


def _name(element: Element) -> str:
    return element.tag.removeprefix(NAMESPACE)


def _depth(element: Element) -> int:
    level, depth = [element], 0
    while level:
        level, depth = [child for parent in level for child in parent], depth + 1
    return depth


def _new(name: str, **attributes: str) -> Element:
    return Element(OMML + name, {OMML + key: value for key, value in attributes.items()})


def _with(parent: Element, children: Sequence[Element]) -> Element:
    parent.extend(children)
    return parent


def _structure(name: str, parts: Sequence[tuple[str, Sequence[Element]]], *properties: Element) -> list[Element]:
    """One of Word's structures: its properties, then its parts, none of them empty."""
    structure = _new(name)
    if properties:
        structure.append(_with(_new(f"{name}Pr"), properties))
    for part, content in parts:
        structure.append(_with(_new(part), _ends(content)))
    return [structure]


def _ends(content: Sequence[Element]) -> list[Element]:
    """What stands in one part, which is never empty; an operator at its end is a text, as in Fe with 2+.

    LibreOffice draws no operator without what it works on, and nothing that stands behind it.
    """
    content = list(content) or [_run(NOTHING)]
    last, first = _letters_of(content[-1]), _letters_of(content[0])
    if last and last[-1] in _OPERATORS:
        content[-1:] = [*([_run(last[:-1])] if last[:-1] else []), _run(last[-1], "nor")]
    elif first and first[0] in _OPERATORS and first[0] not in _SIGNS:
        content[:1] = [_run(first[0], "nor"), *([_run(first[1:])] if first[1:] else [])]
    return content


def _letters_of(element: Element) -> str:
    """The letters of an upright run; empty for all else."""
    is_upright = element.tag == OMML + "r" and _style(element)[1] == "p"
    return (element[1].text or "") if is_upright else ""


def _run(text: str, style: str = "p") -> Element:
    """Letters in one style: `p` upright, `i` italic, `b` bold, `bi` both, `nor` a text that is no mathematics."""
    run, properties = _new("r"), _new("rPr")
    properties.append(_new("nor") if style == "nor" else _new("sty", val=style))
    letters = _new("t")
    letters.text = text
    letters.set("{http://www.w3.org/XML/1998/namespace}space", "preserve")
    return _with(run, [properties, letters])


def _row(parent: Element) -> list[Element]:
    """What stands beside each other, one structure after the other; letters of one style in one run."""
    children, place = _in_brackets(list(parent)), 0
    found: list[Element] = []
    while place < len(children):
        child, after = children[place], children[place + 1] if place + 1 < len(children) else None
        place += 1
        if after is not None and _is_sum(child):
            found += _sum(child, after)
            place += 1
        elif after is not None and _name(child) == "mpadded" and "".join(child.itertext()) == _SLASH:
            found.append(_run("".join(after.itertext()) + "\u0338"))
            place += 1
        elif _name(child) == "mo" and after is not None and _grows(after) and place + 1 < len(children):
            found += _fence(child.text or "", _one(after), children[place + 1].text or "")
            place += 2
        else:
            found += _one(child)
    return list(_merged(found))


def _in_brackets(children: list[Element]) -> list[Element]:
    """The children with each pair of brackets and what is between them as one, an exponent at the end around all of it.

    LaTeX hangs the exponent of `(a+b)^2` on the last bracket alone; Word can be asked to let the pair grow, and
    LibreOffice draws no bracket without its partner.
    """
    opened: list[int] = []
    done: list[Element] = []
    for child in children:
        last = child[0] if _name(child) in _SCRIPTS and len(child) else child
        sign = (last.text or "-") if _name(last) == "mo" and last.get("fence") is None else "-"
        while opened and sign in ")]}" and done[opened[-1]].text == "|":
            # It stood alone, as in the set {x|x>0}.
            opened.pop()
        if opened and (sign in ")]}" or sign == "|" == done[opened[-1]].text):
            begin = opened.pop()
            pair = Element(NAMESPACE + "mrow")
            pair.append(_fence_mark("prefix", done[begin].text or ""))
            pair.extend(done[begin + 1 :])
            pair.append(_fence_mark("postfix", sign))
            whole = pair if last is child else _with(Element(child.tag), [pair, *child[1:]])
            done[begin:] = [whole]
            continue
        if sign in "([{|" and last is child:
            opened.append(len(done))
        done.append(child)
    return done


def _fence_mark(form: str, sign: str) -> Element:
    mark = Element(NAMESPACE + "mo", {"fence": "true", "form": form})
    mark.text = sign
    return mark


def _merged(elements: Sequence[Element]) -> Iterator[Element]:
    before: Element | None = None
    for element in elements:
        if before is not None and element.tag == OMML + "r" == before.tag and _style(before) == _style(element):
            before[1].text = (before[1].text or "") + (element[1].text or "")
            continue
        if before is not None:
            yield before
        before = element
    if before is not None:
        yield before


def _style(run: Element) -> tuple[str, str | None]:
    return run[0][0].tag, run[0][0].get(OMML + "val")


def _one(element: Element) -> list[Element]:
    """One element of MathML; what it says of sizes and places is left to Word."""
    name, children = _name(element), list(element)
    if name in ("mi", "mn", "mo", "mtext"):
        text = element.text or ""
        if "\U0001d400" <= text < "\U0001d434":
            # Bold has letters of its own in Unicode, which few fonts hold.
            return [_run(unicodedata.normalize("NFKC", text), "b")]
        return [_run(text, _letters(name, element))] if text else []
    if name == "mspace":
        return _space(element.get("width", ""))
    if name == "msub" and len(children[0].text or "") > 1 and _name(children[0]) == "mo":
        # lim, max, min
        return _over_and_under("munder", children)
    if name in _SCRIPTS:
        kind, *parts = _SCRIPTS[name]
        return _structure(kind, [(part, _one(child)) for part, child in zip(parts, children, strict=True)])
    if name in ("munder", "mover", "munderover"):
        return _over_and_under(name, children)
    if name == "mfrac":
        bar = [_new("type", val="noBar")] if element.get("linethickness") == "0" else []
        return _structure("f", [("num", _one(children[0])), ("den", _one(children[1]))], *bar)
    if name == "msqrt":
        return _structure("rad", [("deg", []), ("e", _row(element))], _new("degHide", val="1"))
    if name == "mroot":
        return _structure("rad", [("deg", _one(children[1])), ("e", _one(children[0]))])
    if name == "mtable":
        return [_matrix(element)]
    if name == "menclose" and element.get("notation") == "box":
        return _structure("borderBox", [("e", _row(element))])
    if name == "mphantom":
        return _structure("phant", [("e", _row(element))], _new("show", val="0"))
    if name in ("mmultiscripts", "mprescripts"):
        raise ValueError(name)
    if children and children[0].get("form") == "prefix" and children[0].get("fence") == "true":
        return _fenced(children)
    return _row(element)


def _letters(name: str, element: Element) -> str:
    text, variant = element.text or "", element.get("mathvariant")
    # LibreOffice knows no upright letters but those of a text, nor a bracket without its partner.
    if (
        name == "mtext"
        or variant == "normal"
        or text in _BRACKETS
        or any(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    ):
        return "nor"
    if name != "mi":
        return "p"
    if variant in ("bold", "bold-italic"):
        return "b" if variant == "bold" else "bi"
    # Names of functions are upright.
    return "i" if len(text) == 1 else "p"


def _space(size: str) -> list[Element]:
    """A blank about as wide as `1em` says; a negative one, and what is no such size, is left out."""
    number = size.removesuffix("em")
    wide = float(number) if number.replace(".", "", 1).isdigit() else 0.0
    return [_run("\u2003" * round(wide) if wide >= 0.75 else "\u2005" if wide > 0.2 else "\u2009")] if wide else []


def _is_sum(element: Element) -> bool:
    scripts = _name(element) in (*_SCRIPTS, "munder", "mover", "munderover")
    return scripts and len(element[0]) == 0 and (element[0].text or "-") in _SUMS


def _sum(element: Element, operand: Element) -> list[Element]:
    """A sum or an integral with its limits; Word wants what is summed within it."""
    name = _name(element)
    below = _one(element[1]) if "sub" in name or "under" in name else []
    above = _one(element[-1]) if "sup" in name or "over" in name else []
    sign = element[0].text or ""
    properties = [_new("chr", val=sign), _new("limLoc", val="subSup" if sign in _INTEGRALS else "undOvr")]
    properties += [] if below else [_new("subHide", val="1")]
    properties += [] if above else [_new("supHide", val="1")]
    return _structure("nary", [("sub", below), ("sup", above), ("e", _one(operand))], *properties)


def _over_and_under(name: str, children: Sequence[Element]) -> list[Element]:
    # What is no single sign, nor nothing, is in none of the tables.
    base, sign = _one(children[0]), "".join(children[1].itertext()) or NOTHING
    side = "top" if name == "mover" else "bot"
    if name != "munderover" and sign in _BARS:
        return _structure("bar", [("e", base)], _new("pos", val=side))
    if name != "munderover" and sign in _BRACES:
        return _structure("groupChr", [("e", base)], _new("chr", val=sign), _new("pos", val=side))
    if name == "mover" and sign in _ACCENTS and _name(children[0]) != "mo":
        return _structure("acc", [("e", base)], _new("chr", val=_ACCENTS[sign]))
    if name != "mover":
        base = _structure("limLow", [("e", base), ("lim", _one(children[1]))])
    return base if name == "munder" else _structure("limUpp", [("e", base), ("lim", _one(children[-1]))])


def _grows(element: Element) -> bool:
    """Whether brackets around it grow: a matrix, or the stack of a binomial coefficient."""
    return _name(element) == "mtable" or element.get("linethickness") == "0"


def _fenced(children: Sequence[Element]) -> list[Element]:
    closed = children[-1].get("form") == "postfix"
    inner = _with(Element(NAMESPACE + "mrow"), children[1 : len(children) - closed])
    return _fence(children[0].text or "", _row(inner), (children[-1].text or "") if closed else "")


def _fence(begin: str, inner: list[Element], end: str) -> list[Element]:
    return _structure("d", [("e", inner)], _new("begChr", val=begin), _new("endChr", val=end))


def _matrix(table: Element) -> Element:
    wide = max((len(row) for row in table), default=0)
    sides = [cell.get("columnalign", "center") for cell in table[0]] if wide else []
    columns = [
        _with(_new("mc"), [_with(_new("mcPr"), [_new("count", val="1"), _new("mcJc", val=side)])])
        for side in (*sides, *(["center"] * (wide - len(sides))))
    ]
    matrix = _with(_new("m"), [_with(_new("mPr"), [_with(_new("mcs"), columns)])])
    for row in table:
        parts = [_row(cell) for cell in row] + [[]] * (wide - len(row))
        matrix.append(_with(_new("mr"), [_with(_new("e"), _ends(part)) for part in parts]))
    return matrix
