"""Which files are the project's own: what git tracks or would track, or without git all but build trees."""

import pathlib
import subprocess

CPP = (".cc", ".h", ".c")
CODE = CPP + (".proto", ".py", ".sh")


def source_files(root, suffixes):
    """Paths relative to `root` of the project's files that end in one of `suffixes`, sorted."""
    root = pathlib.Path(root)
    git = ["git", "-c", "safe.directory=*", "-C", str(root)]
    listing = subprocess.run(
        git + ["ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, text=True, check=False)
    if listing.returncode == 0:
        paths = [pathlib.PurePosixPath(name) for name in listing.stdout.split("\0") if name]
    else:
        paths = [pathlib.PurePosixPath(p.relative_to(root).as_posix()) for p in root.rglob("*")]
        paths = [p for p in paths if not p.parts[0].startswith("build")]
    return sorted({p for p in paths if p.suffix in suffixes and (root / p).is_file()})
