"A page in a headless browser, where there is one."

import json
import re
import shutil
import subprocess


def browser():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def seen_by_browser(page, folder):
    "What the page's script put into its title. Nothing is loaded from elsewhere, and nothing complains."
    file, log = folder / "page.html", folder / "log"
    file.write_text(f'<!doctype html><html><head><meta charset="utf-8"><title></title></head><body>{page}</body></html>', encoding="utf-8")
    command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", "--host-resolver-rules=MAP * 0.0.0.0",
               f"--user-data-dir={folder / 'user'}", "--dump-dom", file.as_uri()]
    with open(log, "w") as err:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=err, text=True, timeout=60)
    assert not re.findall(r".*(?:CONSOLE|ERR_|Failed to load).*", log.read_text())
    return json.loads(re.search(r"<title>(.*?)</title>", done.stdout, re.S)[1])
