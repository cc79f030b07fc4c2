"""Time in which a browser opens and filters a report of 1,000 questions; needs Debian's chromium and chromium-driver.

    python -m tests.benchmarks.page_1000
    python -m tests.benchmarks.page_1000 --items 5000

The questions are those of evaluation_10k. Opening lasts until the page has been laid out and painted; a filter until the
frame behind it has been.
"""

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from evaluate import summarize
from gaokao.report import write_report
from gaokao.results import Generated
from tests.benchmarks.evaluation_10k import predictions

ROUNDS = 5
# What a user does, as the page's own events; each is undone behind it.
ACTIONS = {
    "search": ('document.getElementById("search").value = "细胞"', 'document.getElementById("search").value = ""'),
    "subject": ('document.getElementById("subject").value = "历史"', 'document.getElementById("subject").value = ""'),
    "usable": ('document.getElementById("state").value = "usable"', 'document.getElementById("state").value = ""'),
}
# Two frames: the first callback runs before the frame with the change is painted.
TIMED = """
const done = arguments[arguments.length - 1], began = performance.now();
ACT; filter();
requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - began)));
"""


def browser() -> Any:
    """Chromium without a window."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(argument)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(str(shutil.which("chromedriver"))))


def main() -> None:
    """Write the page, open it several times, filter it, print medians."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.page_1000", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--items", metavar="N", type=int, default=1000, help="default: %(default)s")
    chosen = parser.parse_args()
    items = [Generated.from_dict(entry) for entry in predictions(chosen.items, 1)]
    driver = browser()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        write_report(path, items, summarize(items))
        opened, taken = [], {name: [] for name in ACTIONS}  # type: ignore[var-annotated]
        for _ in range(ROUNDS):
            driver.get(path.as_uri())
            driver.execute_async_script(TIMED.replace("ACT", ""))
            opened.append(
                driver.execute_script("return performance.getEntriesByName('first-contentful-paint')[0].startTime")
            )
            for name, (act, undo) in ACTIONS.items():
                taken[name].append(driver.execute_async_script(TIMED.replace("ACT", act)))
                driver.execute_async_script(TIMED.replace("ACT", undo))
        loaded = driver.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd")
        size = path.stat().st_size / 2**20
    driver.quit()
    print(
        f"{chosen.items:,} questions, {size:.1f} MB: first paint {statistics.median(opened):.0f} ms, loaded {loaded:.0f} ms; "
        + ", ".join(f"{name} {statistics.median(times):.0f} ms" for name, times in taken.items())
    )


if __name__ == "__main__":
    main()
