"""Mutants that nobody thought of: every place in a source file where one small break is possible.

Breaks are: a condition negated, a statement deleted, a number or a comparison off by one, a lock or a sync dropped.
Constants are left alone, since another figure is no defect; so are texts, and aborts that nothing reaches.
"""

import dataclasses
import random
import re

from source_code import SourceCode

_LOCK = re.compile(r"(const\s+)?std::(lock_guard|unique_lock|scoped_lock|shared_lock)\b")
# What is called or assigned to. A declaration has two names in a row.
_EXPRESSION = re.compile(r"(\+\+|--|\*|\()*(std::|absl::|::)?\w[\w:]*(<[^;<>]*>)?(\(|\.|->|\[|\+\+|--|\s*[-+|&^*/]?=[^=])")
_NEVER_DELETED = re.compile(r"(std::abort|static_assert|assert|ABSL_\w+|case|default|using|goto)\b|\(void\)")
_COMPARISON = re.compile(r"(?<= )(<=|>=|<|>)(?= )")
_BOUNDARY = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
_NUMBER = re.compile(r"(?<![\w.'])(0|[1-9][0-9]*)(?![\w.'])")
_SYNC_CALL = re.compile(r"[\w.:>-]*\b(SyncData|SyncDirectory|fsync|fdatasync)(?=\()")
_SYNC_WRITE = re.compile(r"\bkSynced\b")


@dataclasses.dataclass(frozen=True)
class Site:
    """One possible break of a file: the text from begin to end becomes another."""
    kind: str
    begin: int
    end: int
    new: str

    def apply(self, text):
        return text[:self.begin] + self.new + text[self.end:]


def _negations(source):
    for condition in source.conditions:
        text = source.text[condition.begin:condition.end].strip()
        if condition.keyword in ("if", "while", "for") and text:
            yield Site("negated condition", condition.begin, condition.end, f" !({text})" if
                       source.text[condition.begin].isspace() else f"!({text})")


def _deletions(source):
    for statement in source.statements:
        code = source.code[statement.begin:statement.end]
        if _LOCK.match(code):
            yield Site("dropped lock", statement.begin, statement.end, ";")
        elif _NEVER_DELETED.match(code):
            continue
        elif re.match(r"return\b", code):
            # Without its last return a function's result is whatever lies about.
            if statement.guarded:
                yield Site("deleted statement", statement.begin, statement.end, ";")
        elif re.match(r"(break|continue)\s*;", code) or _EXPRESSION.match(code):
            yield Site("deleted statement", statement.begin, statement.end, ";")


def _inside_texts(source):
    """Where messages are put together."""
    return [(found.end(), source.closing(found.end())) for found in re.finditer(r"\bStr(Cat|Append|Format)(?=\()",
                                                                               source.code)]


def _off_by_one(source):
    texts = _inside_texts(source)

    def counts(position):
        return (source.in_function(position) and "constexpr" not in source.line_text(position)
                and not any(begin <= position < end for begin, end in texts))

    for found in _COMPARISON.finditer(source.code):
        if counts(found.start()):
            yield Site("off by one", found.start(), found.end(), _BOUNDARY[found.group(0)])
    for found in _NUMBER.finditer(source.code):
        if counts(found.start()):
            yield Site("off by one", found.start(), found.end(), str(int(found.group(0)) + 1))


def _dropped_syncs(source):
    for found in _SYNC_CALL.finditer(source.code):
        if source.in_function(found.start()):
            yield Site("dropped sync", found.start(), source.closing(found.end()) + 1, "0")
    for found in _SYNC_WRITE.finditer(source.code):
        if source.in_function(found.start()):
            yield Site("dropped sync", found.start(), found.end(), "kOrdered")


def sites(text, is_header=False):
    """Every possible break of a file, in the order of its text."""
    source = SourceCode(text, is_header)
    found = {site for find in (_negations, _deletions, _off_by_one, _dropped_syncs) for site in find(source)}
    return sorted(found, key=lambda site: (site.begin, site.end, site.kind, site.new))


def shuffled(files, seed):
    """All (file name, site) of `files`, a name's text each, in an order that only the seed and the texts decide."""
    drawn = [(name, site) for name in sorted(files) for site in sites(files[name], name.endswith(".h"))]
    random.Random(seed).shuffle(drawn)
    return drawn
