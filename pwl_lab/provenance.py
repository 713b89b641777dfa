"""From which state of the checkout a result was made."""

import subprocess

from pwl_lab import paths


def commit() -> str | None:
    """The checkout's commit, marked where files differ from it; None outside a git checkout or without git."""
    command = ["git", "-C", str(paths.root()), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
