"""The page's files, as browsers get them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from lab import ROOT, Lab
from playwright._impl._driver import compute_driver_executable
from playwright.sync_api import Page, Response, expect

_WEB = ROOT / "scheduler" / "server" / "web"
_TYPESCRIPT = ROOT / ".tools" / "typescript" / "node_modules" / "typescript"

#: Prints where two files differ in what a program reads of them: everything but comments and the room between.
_COMPARE = """
const [typescript, ...pairs] = process.argv.slice(1);
const ts = require(typescript);
const fs = require("fs");
function words(file) {
  const source = ts.createSourceFile(file, fs.readFileSync(file, "utf8"), ts.ScriptTarget.Latest, true);
  if (source.parseDiagnostics.length) throw new Error(`${file} is no JavaScript`);
  const found = [];
  (function visit(node) {
    if (node.kind >= ts.SyntaxKind.FirstJSDocNode && node.kind <= ts.SyntaxKind.LastJSDocNode) return;
    const parts = node.getChildren(source);
    if (!parts.length) found.push(`${node.kind} ${node.getText(source)}`);
    parts.forEach(visit);
  })(source);
  return found;
}
for (let at = 0; at < pairs.length; at += 2) {
  const [written, loaded] = [words(pairs[at]), words(pairs[at + 1])];
  const where = written.findIndex((word, place) => word !== loaded[place]);
  if (where >= 0 || written.length !== loaded.length) console.log(pairs[at], written[where], "is", loaded[where]);
}
"""


def test_browsers_get_what_was_written_without_its_comments(page: Page, lab: Lab, tmp_path: Path) -> None:
    """Word by word, as TypeScript reads it."""
    page.goto(lab.url)
    address = page.locator("script[type=module]").get_attribute("src") or ""
    folder = re.sub("app.js$", "", address)
    pairs: list[str] = []
    for path in sorted(_WEB.rglob("*.js")):
        name = str(path.relative_to(_WEB))
        answer = page.request.get(lab.url + folder + name)
        assert answer.ok, name
        loaded = tmp_path / name.replace("/", "_")
        loaded.write_bytes(answer.body())
        pairs += [str(path), str(loaded)]
    assert len(pairs) > 60
    node, _ = compute_driver_executable()
    told = subprocess.run([node, "-e", _COMPARE, _TYPESCRIPT, *pairs], capture_output=True, text=True, check=True)
    assert told.stdout == ""


@pytest.mark.parametrize("address", ["/", "/jobs"])
def test_a_first_view_is_compressed_and_little(page: Page, lab: Lab, address: str) -> None:
    """By brotli, which browsers take from their own machine and by encrypted connections."""
    sizes: list[int] = []
    encodings: set[str | None] = set()

    def note(answer: Response) -> None:
        if "/assets/" in answer.url:
            sizes.append(int(answer.headers.get("content-length", 0)))
            encodings.add(answer.headers.get("content-encoding"))

    page.on("response", note)
    page.goto(lab.url + address)
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    print(sum(sizes), "bytes in", len(sizes), "files", file=sys.stderr)
    assert encodings == {"br"}
    assert 10_000 < sum(sizes) < 40_000


def test_styles_come_at_once(page: Page, lab: Lab) -> None:
    """As one file, which names no other."""
    page.goto(lab.url)
    styles = page.locator("link[rel=stylesheet]")
    expect(styles).to_have_count(1)
    answer = page.request.get(lab.url + (styles.get_attribute("href") or ""))
    assert "@import" not in answer.text()
    for rule in (".bar:is(header)", ".u-cursor-x", ".phases"):
        assert rule in answer.text(), rule
