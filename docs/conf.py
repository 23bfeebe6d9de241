"""The site: Sphinx renders these documents and results/ (make site). No cell is run, and no page asks another host for anything."""

from importlib.util import find_spec
from pathlib import Path

from docutils import nodes
from myst_nb import sphinx_ext
from myst_nb.core.render import NbElementRenderer

project = html_title = "alignlab"
extensions = ["myst_nb", "sphinx.ext.githubpages"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # a cell marks its claim with <a id=...>, unknown to MyST: tests/test_site.py follows each link

nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}  # outputs hold pictures in place of widgets
sphinx_ext.OUTPUT_FOLDER = "build/site"  # beside site/, where MyST-NB keeps the pictures that it extracts

html_theme = "furo"
pygments_dark_style = "github-dark"
html_copy_source = False
html_show_copyright = False
html_use_index = False
html_css_files = ["site.css"]
mathjax_path = "tex-svg.js"  # MathJax in one file that needs no fonts
mathjax3_config = {"options": {"enableMenu": False}}  # the menu would load more files
html_static_path = ["_static", str(Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax" / mathjax_path)]

render_image = NbElementRenderer.render_image


def render_image_with_alt(self, data):
    """MyST-NB drops the alt text that an output stores with its picture."""
    (image,) = render_image(self, data)
    image["alt"] = data.output_metadata.get(data.mime_type, {}).get("alt", "")
    return [image]


NbElementRenderer.render_image = render_image_with_alt


def name_badges(app, doctree):
    """A fork's badge becomes its words: its picture lies on another host (make colab)."""
    for image in list(doctree.findall(nodes.image)):
        if "://" in image["uri"]:
            image.replace_self(nodes.Text(image["alt"]))


def setup(app):
    app.connect("doctree-read", name_badges)
