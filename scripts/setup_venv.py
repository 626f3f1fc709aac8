"""Make the virtual environment: locked dependencies, checked by hash, then Trivet itself.

Runs on the system's Python with nothing installed. Debian's python3 may lack ensurepip (the package
python3-venv); that is said in one line instead of a traceback.
"""

import subprocess
import sys
from pathlib import Path

OLDEST = (3, 11)


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"setup failed: {' '.join(command)}\n{done.stdout}{done.stderr}")


def main(target: Path) -> None:
    if sys.version_info < OLDEST:
        sys.exit(f"Trivet needs Python {OLDEST[0]}.{OLDEST[1]} or newer; this is {sys.version.split()[0]}")
    python = target / "bin" / "python"
    if not python.exists():
        try:
            import ensurepip  # noqa: F401 - only asked whether it is there
        except ImportError:
            sys.exit(
                "this Python has no ensurepip: install the package python3-venv (Debian) and run make again"
            )
        run(sys.executable, "-m", "venv", str(target))
    root = Path(__file__).resolve().parent.parent
    pip = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--require-hashes", "-r", str(root / "requirements-dev.lock"))
    run(*pip, "setuptools>=68", "wheel")
    run(*pip, "--no-deps", "--no-build-isolation", "-e", str(root))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
