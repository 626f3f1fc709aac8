"""Tools of the operating system that the ground stands on. What is missing is said by its name."""

from __future__ import annotations

import os
import shutil
import subprocess

PACKAGES = {  # tool → Debian package
    "gcc": "gcc",
    "losetup": "mount",
    "mkfs.ext4": "e2fsprogs",
    "mount": "mount",
    "nft": "nftables",
    "ss": "iproute2",
    "strace": "strace",
}


class Unavailable(Exception):
    """This machine cannot do it; the text says why and what to install."""


class CommandFailed(Exception):
    """A command of the system ended badly. The text has the command and what it said."""


def find(tool: str) -> str | None:
    """The tool's path, also from the directories that a plain user's PATH leaves out."""
    return shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def missing(*tools: str, root: bool = True) -> str | None:
    """Why these tools cannot be used here, or None."""
    if root and os.geteuid() != 0:
        return "needs root"
    absent = [f"{tool} (Debian: {PACKAGES[tool]})" for tool in tools if find(tool) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def run(*command: str, text: str = "") -> str:
    """Run it to its end with `text` on its input; its output. Raises `CommandFailed`."""
    path = find(command[0])
    if path is None:
        raise CommandFailed(f"{command[0]} is not installed")
    done = subprocess.run([path, *command[1:]], input=text, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise CommandFailed(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout
