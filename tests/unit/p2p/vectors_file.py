"""What the programs that make vectors share."""

import sys


def print_or_check(text):
    """Prints the vectors; or, called with --check FILE, says whether they are what the file holds. The exit code."""
    if sys.argv[1:2] != ["--check"]:
        sys.stdout.write(text)
        return 0
    with open(sys.argv[2], encoding="utf-8") as file:
        if file.read() == text:
            return 0
    print(f"{sys.argv[2]} is not what {sys.argv[0]} makes")
    return 1
