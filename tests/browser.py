"""Open a page in headless Chromium, run a script in it, and hear what it says."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def browse(folder: Path, page: str, script: str, width: int) -> dict[str, Any]:
    """What `script` passes to `report({...})` in a page, `errors`, what the page threw, and `wide`, what sticks out.

    Chromium's window is never narrower than 500 pixels: the page is told its width, as wide as a phone if need be.

    Skips the test where there is no Chromium.
    """
    browser = next((path for name in NAMES if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    before = (
        "<script>window.errors = []; window.onerror = function (what) { window.errors.push(String(what)); };</script>"
    )
    after = f"""<pre id="heard"></pre><script>
      function report(found) {{
        found.errors = window.errors; found.wide = [];
        document.documentElement.style.width = "{width}px";
        document.querySelectorAll("body *").forEach(function (one) {{
          if (one.getBoundingClientRect().right > {width} + 1 && !one.closest(".scroll, svg *, details:not([open])"))
            found.wide.push(one.tagName + " " + one.textContent.slice(0, 40));
        }});
        document.getElementById("heard").textContent = JSON.stringify(found);
      }}
      window.addEventListener("load", function () {{ {script} }});
    </script>"""
    path = folder / "page.html"
    path.write_text(before + page.replace("</body>", after + "</body>"), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    flags += [f"--window-size={width},900", "--virtual-time-budget=3000"]
    done = subprocess.run([browser, *flags, path.as_uri()], capture_output=True, text=True, timeout=300, check=True)
    heard = re.search(r'<pre id="heard">(.*?)</pre>', done.stdout, re.DOTALL)
    assert heard, "the page lost what it was to report into"
    assert heard[1], "the page never reported"
    return dict(json.loads(html.unescape(heard[1])))
