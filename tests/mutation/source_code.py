"""As much of C++ as it takes to find places to break: what is code, what is inside a function, what is a statement."""

import bisect
import dataclasses
import re

_TOKEN = re.compile(r"""
    //[^\n]* | /\*.*?\*/                      # comments
  | R"(?P<fence>[^()\s\\]*)\(.*?\)(?P=fence)"  # raw strings
  | "(?:\\.|[^"\\\n])*"                       # strings
  | (?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'       # characters, but not the marks within numbers
  | ^[ \t]*\#(?:\\\n|[^\n])*                  # the preprocessor's lines
""", re.VERBOSE | re.DOTALL | re.MULTILINE)

_OPENING = {"(": ")", "[": "]", "{": "}"}
_CONTROL = re.compile(r"(if|while|for|switch)\b(\s+constexpr\b)?\s*(?=\()")
_SKIPPED = re.compile(r"(else|do|try)\b|(case\b[^;{}]*?|default)\s*:(?!:)")


def mask(text):
    """The text with comments, strings and the preprocessor's lines blanked out, at the same positions."""
    blank = lambda found: re.sub(r"[^\n]", " ", found.group(0))
    # A string stays a value: a call without arguments would look different.
    keep_quotes = lambda found: (found.group(0)[0] + " " * (len(found.group(0)) - 2) + found.group(0)[-1]
                                 if found.group(0)[0] in "\"'" else blank(found))
    return _TOKEN.sub(keep_quotes, text)


@dataclasses.dataclass(frozen=True)
class Statement:
    begin: int
    end: int  # past its semicolon
    guarded: bool  # it is the body of an if, without braces


@dataclasses.dataclass(frozen=True)
class Condition:
    keyword: str
    begin: int
    end: int


class SourceCode:
    """One file: its statements and conditions inside functions, by position in its text.

    Of a header, templates are left out: they are compiled where they are used, and nowhere else.
    """

    def __init__(self, text, is_header=False):
        self.text = text
        self._is_header = is_header
        self.code = mask(text)
        self.statements = []
        self.conditions = []
        self.bodies = []  # (begin, end) of each function
        self._line_starts = [0] + [found.end() for found in re.finditer("\n", text)]
        self._find_functions()

    def line_of(self, position):
        return bisect.bisect_right(self._line_starts, position)

    def line_text(self, position):
        start = self._line_starts[self.line_of(position) - 1]
        return self.text[start:].split("\n", 1)[0].strip()

    def outside_functions(self):
        """The code without what its functions do: two texts that agree in this declare the same."""
        kept, at = [], 0
        for begin, end in self.bodies:
            kept.append(self.code[at:begin])
            at = end
        return " ".join("".join(kept + [self.code[at:]]).split())

    def in_function(self, position):
        return any(begin <= position < end for begin, end in self.bodies)

    def closing(self, position):
        """The position of what closes the bracket at `position`; the end of the text if nothing does."""
        stack = []
        for at in range(position, len(self.code)):
            char = self.code[at]
            if char in _OPENING:
                stack.append(_OPENING[char])
            elif stack and char == stack[-1]:
                stack.pop()
                if not stack:
                    return at
        return len(self.code) - 1

    def _find_functions(self):
        at, head = 0, 0
        while at < len(self.code):
            char = self.code[at]
            if char in ";}":
                head = at + 1
            elif char == "{":
                before = self.code[head:at]
                is_template = self._is_header and re.search(r"\btemplate\s*<", before)
                is_type = re.search(r"\b(class|struct|union|enum)\b[^()]*$", before)
                if is_template:
                    at = self.closing(at)
                    head = at + 1
                elif re.search(r"\bnamespace\b|\bextern\b\s*\"", before) or is_type:
                    head = at + 1
                elif "(" in before and not re.search(r"=\s*$", before):
                    end = self.closing(at)
                    self.bodies.append((at + 1, end))
                    self._scan_block(at + 1, end)
                    at, head = end, end + 1
                else:
                    at = self.closing(at)
            at += 1

    def _scan_block(self, at, end):
        guarded = False
        while at < end:
            char = self.code[at]
            if char.isspace():
                at += 1
            elif char in "{};":
                at, guarded = at + 1, False
            elif control := _CONTROL.match(self.code, at):
                close = self.closing(control.end())
                if not control.group(2):
                    self.conditions.append(self._condition(control.group(1), control.end() + 1, close))
                at, guarded = close + 1, control.group(1) == "if"
            elif skipped := _SKIPPED.match(self.code, at):
                at, guarded = skipped.end(), False
            else:
                stop = self._end_of_statement(at, end)
                self.statements.append(Statement(at, stop, guarded))
                at, guarded = stop, False

    def _condition(self, keyword, begin, end):
        """Of what stands between the parentheses: an if's initialiser and a for's other parts are left out."""
        parts = [begin - 1] + [p for p in self._at_top_level(begin, end) if self.code[p] == ";"] + [end]
        which = {"for": 1}.get(keyword, len(parts) - 2)
        if which + 1 >= len(parts):  # for (x : xs)
            return Condition("range", end, end)
        return Condition(keyword, parts[which] + 1, parts[which + 1])

    def _at_top_level(self, begin, end):
        at = begin
        while at < end:
            yield at
            at = self.closing(at) + 1 if self.code[at] in _OPENING else at + 1

    def _end_of_statement(self, begin, end):
        at = begin
        while at < end and self.code[at] != ";":
            if self.code[at] in _OPENING:
                close = self.closing(at)
                self._scan_lambdas(at, close)
                at = close
            at += 1
        return min(at + 1, end)

    def _scan_lambdas(self, begin, end):
        at = begin
        while at < end:
            # A body follows its parameters or its captures; the braces of a value follow a name or a comma.
            if self.code[at] == "{" and re.search(r"(\)|\]|\bmutable|->\s*[\w:<>&*]+)\s*$", self.code[:at][-80:]):
                close = self.closing(at)
                self._scan_block(at + 1, close)
                at = close
            at += 1
