"""The site has every document and notebook, and its links lead somewhere, as do those of the files from which it is made."""

import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

import alignlab

ROOT = Path(alignlab.__file__).parent.parent
BUILD = ROOT / ".venv-site" / "bin" / "sphinx-build"
NOTEBOOKS = sorted(ROOT.glob("docs/results/*.ipynb"))
DOCUMENTS = sorted(ROOT.glob("docs/*.md"))
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCUMENTS, *NOTEBOOKS, *sorted(ROOT.glob("notebooks/*.ipynb"))]


def text(path):
    """What a reader sees of a document or a notebook: no code."""
    if path.suffix != ".ipynb":
        return re.sub(r"^```.*?^```|`[^`\n]*`", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def anchors(path):
    titles = re.findall(r"^#+ (.*)$", text(path), re.MULTILINE)
    return {*re.findall(r'id="([^"]+)"', text(path)), *(re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_link_leads_somewhere_where_the_files_are_read_as_they_are(path):
    for link in re.findall(r'\]\(([^)\s]+)[^)]*\)|<a href="([^"]+)"', text(path)):
        name, _, anchor = unquote("".join(link)).partition("#")
        if "://" in name or name.startswith("mailto:"):
            continue
        target = path.parent / name if name else path
        assert target.exists(), f"{name} is not there"
        assert not anchor or anchor in anchors(target), f"{target.name} has no {anchor}"


class Page(HTMLParser):
    """What a page names: its own anchors, where it leads, what it loads, its pictures' alt texts."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loads, self.alts = set(), [], [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids.add(attrs.get("id"))
        if tag == "a":
            self.links.append(attrs.get("href", ""))
        elif tag == "img":
            self.alts.append(attrs.get("alt"))
        self.loads += [attrs[key] for key in ("src", "href") if attrs.get(key) and tag != "a" and attrs[key][:1] != "#"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if not BUILD.exists():
        pytest.skip("the site's tools are not installed: make .venv-site/.ready")
    folder = tmp_path_factory.mktemp("pages") / "site"
    options = ["--quiet", "--fail-on-warning", "--keep-going", "--doctree-dir", folder.parent / "doctrees"]
    done = subprocess.run([BUILD, *options, ROOT / "docs", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, {path: Page(path) for path in folder.rglob("*.html")}


def test_every_document_and_notebook_is_in_the_contents_and_in_the_search(site):
    folder, pages = site
    index = json.loads((folder / "searchindex.js").read_text().removeprefix("Search.setIndex(").removesuffix(")"))
    for path in [*DOCUMENTS, *NOTEBOOKS]:
        name = path.relative_to(ROOT / "docs").with_suffix("").as_posix()
        assert name in index["docnames"] and (name == "index" or f"{name}.html" in pages[folder / "index.html"].links)


def test_every_link_of_the_site_leads_somewhere(site):
    _, pages = site
    for path, page in pages.items():
        for link in page.links:
            name, _, anchor = unquote(link).partition("#")
            if "://" in name:
                continue
            target = (path.parent / name).resolve() if name else path
            if target.suffix == ".png":  # a picture that the page shows smaller
                assert target.is_file(), f"{path.name}: {link}"
                continue
            assert target in pages, f"{path.name}: {link}"
            assert not anchor or anchor in pages[target].ids, f"{path.name}: {link}"


def test_a_page_loads_nothing_from_elsewhere(site):
    folder, pages = site
    for path, page in pages.items():
        for name in page.loads:
            assert name.startswith("data:") or (path.parent / unquote(name).partition("?")[0]).exists(), f"{path.name}: {name}"
    for sheet in folder.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?(https?:)?//", sheet.read_text()), sheet.name


def test_outputs_are_shown_with_their_words(site):
    folder, pages = site
    for path in NOTEBOOKS:
        page = folder / "results" / f"{path.stem}.html"
        assert "Error displaying widget" not in page.read_text()
        outputs = [output for cell in json.loads(path.read_text())["cells"] for output in cell.get("outputs", [])]
        alts = [output.get("metadata", {}).get("image/png", {}).get("alt") for output in outputs]
        assert {alt for alt in alts if alt} <= set(pages[page].alts), path.name
