"""How the documentation is built: ``python -m sphinx -W --keep-going -b html docs docs/_build``. Nothing is downloaded."""

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "backends"), str(HERE / "_extensions")]

import tinynet  # noqa: E402 - found by the line above

project = "tinynet"
author = "tinynet contributors"
copyright = author
version = release = tinynet.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_parser",
    "operations",
    "speed",
]
exclude_patterns = ["_build", "generated"]  # what is generated is included by a page
myst_enable_extensions = ["colon_fence", "attrs_inline"]
myst_heading_anchors = 3
highlight_language = "none"
default_role = "py:obj"

autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_type_aliases = {"Array": "Array", "Params": "Params", "Backprop": "Backprop", "Schedule": "Schedule"}
python_maximum_signature_line_length = 90
python_use_unqualified_type_names = True
add_module_names = False
numpydoc_show_class_members = False

html_theme = "pydata_sphinx_theme"
html_title = "tinynet"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {"index": [], "architecture": [], "speed": [], "promised": [], "operations": []}
html_theme_options = {
    "logo": {"text": "tinynet"},
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
    "header_links_before_dropdown": 7,
    "pygments_light_style": "tango",
    "pygments_dark_style": "github-dark",
}


def escape_shapes(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """In place: ``(n, *shape)`` in running text is a shape, and to reStructuredText the beginning of an emphasis."""
    parts = "\n".join(lines).split("``")
    parts[::2] = [re.sub(r"(?<=[( ])\*(?=\w[\w ]*[,)])", r"\\*", part) for part in parts[::2]]
    lines[:] = "``".join(parts).split("\n")


def name_aliases(app: Any, what: str, name: str, thing: Any, options: Any, signature: str, returns: str) -> Any:
    """Sphinx leaves its own wrapping around an alias that stands within another type."""
    return tuple(text and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", text) for text in (signature, returns))


def setup(app: Any) -> None:
    app.connect("autodoc-process-signature", name_aliases)
    app.connect("autodoc-process-docstring", escape_shapes)
