"""Waits for ever, as soon as it is looked at, beside a process that holds its output open."""

from __future__ import annotations

import subprocess
import sys
import time

subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
time.sleep(3600)
