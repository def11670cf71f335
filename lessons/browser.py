"""Runs lessons in a real JupyterLab in a headless Chromium: python lessons/browser.py [00 13 …] (default: all).

Needs `pip install playwright` and a Chromium: the system's, or the one of `playwright install chromium`. It opens
copies without outputs, so that nothing here is changed and every picture is one of this run; chooses Run All Cells;
waits; and fails on an error, on anything on stderr, and when there are not as many pictures as in the committed
notebook. Screenshots stay in the folder that it prints: look at them. MINCLIP_FAST=1 makes it short.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import build
import nbformat
from playwright.sync_api import Page, sync_playwright

PATIENCE = 30 * 60  # seconds for one lesson
# Every cell is in the page, not only those in view; no toast asks about news.
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
ERRORS = "[data-mime-type='application/vnd.jupyter.error'], [data-mime-type='application/vnd.jupyter.stderr']"
PICTURES = ".jp-CodeCell .jp-OutputArea-output img"


def prepare(folder: Path) -> dict[str, int]:
    """Copies the lessons without outputs to folder/lessons; the number of pictures that each notebook had."""
    shutil.copytree(build.FOLDER.parent / "kernels" / "results", folder / "kernels" / "results")
    shutil.copytree(
        build.FOLDER, folder / "lessons", ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    )
    pictures = {}
    for path in sorted((folder / "lessons").glob("*.ipynb")):
        notebook, pictures[path.name] = nbformat.read(path, as_version=4), 0
        for cell in notebook.cells:
            if cell.cell_type == "code":
                pictures[path.name] += sum("image/png" in output.get("data", {}) for output in cell.outputs)
                cell.outputs, cell.execution_count = [], None
        build.write(notebook, path)
    for name, content in SETTINGS.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return pictures


def start_server(folder: Path, token: str) -> tuple[subprocess.Popen[bytes], str]:
    """JupyterLab on a free port, with its files under `folder`; returns once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
    command += [
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--notebook-dir={folder / 'lessons'}",
    ]
    if os.name == "posix" and os.geteuid() == 0:
        command.append("--allow-root")
    own = {f"JUPYTERLAB_{name.upper()}_DIR": str(folder / name) for name in ("settings", "workspaces")}
    own |= {f"JUPYTER_{name.upper()}_DIR": str(folder / name) for name in ("config", "runtime")}
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env={**os.environ, **own}, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    for _ in range(120):
        try:
            urllib.request.urlopen(f"{url}/api?token={token}")
            return server, url
        except urllib.error.URLError:
            time.sleep(0.5)
    server.terminate()
    raise TimeoutError(f"JupyterLab does not answer; see {folder / 'server.log'}")


def run_all(page: Page, url: str) -> None:
    """Opens a notebook, chooses Run All Cells, and waits until every code cell has run or one has failed."""
    page.goto(url)
    page.wait_for_selector(".jp-NotebookPanel .jp-CodeCell", timeout=120_000)
    page.get_by_text(re.compile(r"Python 3.*\| Idle")).wait_for(timeout=120_000)  # earlier, it asks which kernel to use
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    # A cell whose code is hidden shows no number, so the kernel has to have come to rest, too.
    finished = """errors => document.querySelector(errors) ||
        [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].every(cell => !/[* ]\\]/.test(cell.innerText))
        && / Idle/.test(document.querySelector('#jp-main-statusbar').innerText)"""
    page.wait_for_function(finished, arg=ERRORS, timeout=1000 * PATIENCE, polling=500)


def look(page: Page, lesson: str, expected: int, out: Path) -> list[str]:
    """Screenshots of the top and of every picture; what is wrong with the page."""
    problems = [f"error output: {text[-500:]}" for text in page.locator(ERRORS).all_inner_texts()]
    page.locator(".jp-Cell").first.scroll_into_view_if_needed()
    page.screenshot(path=out / f"{lesson}-top.png")
    pictures = page.locator(PICTURES).all()
    if len(pictures) != expected:
        problems.append(f"{len(pictures)} pictures; the committed notebook has {expected}")
    for number, picture in enumerate(pictures):
        picture.scroll_into_view_if_needed()
        if not picture.is_visible() or not picture.evaluate("image => image.complete && image.naturalWidth"):
            problems.append(f"picture {number} is not visible")
        page.screenshot(path=out / f"{lesson}-{number}.png")
    return problems


def main() -> None:
    out = Path(tempfile.mkdtemp(prefix="minclip-lessons-"))
    expected, token, failed = prepare(out), secrets.token_hex(16), False
    chosen = [name for name in expected if not sys.argv[1:] or name[:2] in sys.argv[1:]]
    server, address = start_server(out, token)
    try:
        with sync_playwright() as playwright:
            chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for name in chosen:
                page = browser.new_page(viewport={"width": 1280, "height": 1000})
                start = time.perf_counter()
                run_all(page, f"{address}/lab/workspaces/{name[:2]}/tree/{name}?token={token}")
                seconds = time.perf_counter() - start
                problems = look(page, name[:2], expected[name], out)
                print(
                    f"{name}: {seconds:.0f} s, {expected[name]} pictures, {'; '.join(problems) or 'no error'}",
                    flush=True,
                )
                failed = failed or bool(problems)
                page.close()
            browser.close()
    finally:
        server.terminate()
        server.wait()
    print(f"screenshots: {out}")
    if failed or not chosen:
        sys.exit(1)


if __name__ == "__main__":
    main()
