"""Pages opened in headless Chromium, which reaches no network."""

import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


def in_chromium(
    page: Path, milliseconds: int, *flags: str, reachable: str = "", timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """A page after some virtual time: the document is on stdout, what the console said on stderr.

    Args:
        reachable: the one host that is not cut off.
        timeout: real seconds.
    """
    common = (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync "
        "--disable-component-update --enable-logging=stderr --dump-dom"
    )
    hosts = f"MAP * ~NOTFOUND{f', EXCLUDE {reachable}' if reachable else ''}"
    own = (f"--virtual-time-budget={milliseconds}", f"--user-data-dir={page.parent}/profile")
    command = [str(CHROMIUM), *common.split(), *own, f"--host-resolver-rules={hosts}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)
