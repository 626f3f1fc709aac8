"""What drills need of the operating system: nftables, strace, gcc. Installs what is missing (Debian, root).

`make drill` and CI run it first. What could not be had is said by name, and the drill then refuses the
faults that need it. Runs on the system's Python with nothing installed. Exit code 1 if something is missing.
"""

import os
import shutil
import subprocess
import sys

TOOLS = {  # tool → (Debian packages, what a drill cannot do without it)
    "nft": (("nftables",), "no partition, no pulled cable"),
    "strace": (("strace",), "no kill at a system call, no slow or failing fsync"),
    "gcc": (("gcc", "libc6-dev"), "no clock jump"),
    "ss": (("iproute2",), "no connection reset"),
    "mkfs.ext4": (("e2fsprogs",), "no power loss, no full disk"),
    "losetup": (("mount",), "no power loss, no full disk"),
}
SECONDS_MAX = 180


def missing() -> list[str]:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [tool for tool in TOOLS if shutil.which(tool, path=path) is None]


def install(packages: list[str]) -> str:
    """Why it did not work, or nothing."""
    if os.geteuid() != 0:
        return "not root"
    if shutil.which("apt-get") is None:
        return "no apt-get here"
    for words in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", *packages]):
        try:
            done = subprocess.run(
                ["apt-get", *words],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                capture_output=True,
                text=True,
                timeout=SECONDS_MAX,
            )
        except subprocess.TimeoutExpired:
            return f"apt-get {words[0]} took longer than {SECONDS_MAX} s"
        if done.returncode:
            return f"apt-get {words[0]}: {' '.join((done.stderr or done.stdout).split())[-300:]}"
    return ""


def main() -> int:
    absent = missing()
    if not absent:
        return 0
    why = install(sorted({package for tool in absent for package in TOOLS[tool][0]}))
    left = missing()
    for tool in absent:
        packages, loss = TOOLS[tool]
        if tool in left:
            print(f"drill tools: {tool} is MISSING ({loss}); install {' '.join(packages)}", file=sys.stderr)
        else:
            print(f"drill tools: installed {' '.join(packages)}")
    if left and why:
        print(f"drill tools: could not install: {why}", file=sys.stderr)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
