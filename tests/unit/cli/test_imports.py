"""`m3 --help`, and each tab that asks for a completion, start quickly: what is heavy is imported by the command that needs it."""

import subprocess
import sys

HEAVY = {"kubernetes", "urllib3", "pydantic", "yaml", "mlflow", "sklearn"}


def test_the_command_line_imports_nothing_heavy():
    code = "import sys, m3_trainer.cli.main; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & HEAVY
