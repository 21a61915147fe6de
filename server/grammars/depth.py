"""How deep schemas, regular expressions and grammars are nested, without parsing them.

Whoever parses them may do so recursively, and in another dialect than the next. So the text is only cut into
tokens, and where dialects differ about what closes a bracket, it is taken to stay open: the figure is never
too low.
"""

import re
from collections.abc import Iterator

# What is opened and not closed is read to its end, or each opening would be looked at again.
_STRING = r'"(?:[^"\\]|\\.)*"?'
_LINE_STRING = r'"(?:[^"\\\n]|\\.)*"?'
_CLASS = r"\[(?:[^\]\\\n]|\\.)*\]?"
# What is opaque in each language, and its brackets.
_TOKENS = {
    "json": re.compile(rf"{_STRING}|[\[\]{{}}]", re.DOTALL),
    "ebnf": re.compile(rf"{_LINE_STRING}|{_CLASS}|#[^\n]*|[()\[\]{{}}]", re.DOTALL),
    "lark": re.compile(
        rf"{_LINE_STRING}|(?P<regex>/(?![/*])(?:[^/\\\n]|\\.)+/?)|(?://|#)[^\n]*|[()\[\]{{}}]", re.DOTALL
    ),
}
# A class that ends at the same place in every dialect: no bracket in it, and none at its beginning.
_ITEM = r"(?:[^\[\]\\]|\\.)"
_REGEX = re.compile(rf"\\.|\[(?:\^{_ITEM}|(?!\^){_ITEM}){_ITEM}*\]|\[\^?\]|[()\[\]]", re.DOTALL)
_VERBOSE = re.compile(r"\(\?[a-zA-Z]*x")  # comments, in which no bracket closes


def depth(kind: str, spec: str) -> int:
    """How deep brackets outside strings, classes and comments are nested.

    Args:
        kind: "regex", "ebnf", "lark", or JSON: "json", "structural_tag".
    """
    if kind == "regex":
        return _of_regex(spec)
    deepest = level = 0
    for token in _TOKENS.get(kind, _TOKENS["json"]).finditer(spec):
        text = token.group()
        if text in "([{":
            level += 1
            deepest = max(deepest, level)
        elif text in ")]}":
            level = max(0, level - 1)
        elif token.lastgroup == "regex":
            deepest = max(deepest, level + _of_regex(text[1:]))
    return deepest


def _of_regex(spec: str) -> int:
    deepest = level = 0
    for change in _changes(spec):
        level = max(0, level + change)
        deepest = max(deepest, level)
    return deepest


def _changes(spec: str) -> Iterator[int]:
    """+1 for what opens a group or a class, -1 for what ends it in every dialect.

    In `[[a])]` and `[])]` the parenthesis is an item of a class in some dialects, and ends a group in others.
    """
    classes = 0
    verbose = _VERBOSE.search(spec) is not None
    for token in _REGEX.finditer(spec):
        text = token.group()
        if text in ("(", "[", "[]", "[^]"):
            classes += text != "("
            yield 1
        elif text == "]" and classes:
            classes -= 1
            yield -1
        elif text == ")" and not classes and not verbose:
            yield -1
        elif len(text) > 2 and text[0] == "[":
            yield 1
            yield -1
