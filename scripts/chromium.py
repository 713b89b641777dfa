"""The browser that scripts and tests drive."""

import os

CHROMIUM = os.environ.get("PWL_CHROMIUM", "/usr/bin/chromium")
# Only loopback resolves, and Chromium's own background traffic stays off.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
