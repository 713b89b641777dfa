"""The browser that scripts and tests drive."""

import os
from pathlib import Path

# The same engine; the shell has no windows of its own to draw, and takes half of the processor time.
PLACES = ("/usr/bin/chromium-headless-shell", "/usr/bin/chromium")
CHROMIUM = os.environ.get("PWL_CHROMIUM") or next((place for place in PLACES if Path(place).exists()), PLACES[-1])
# Only loopback resolves, and Chromium's own background traffic stays off.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
