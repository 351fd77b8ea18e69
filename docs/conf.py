"""Settings of the documentation site: ``make docs``."""

from __future__ import annotations

from sphinx_gallery.sorting import ExplicitOrder

import sinkhorn_ot

project = "sinkhorn_ot and selfsup"
author = "the sinkhorn_ot developers"
release = version = sinkhorn_ot.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
    "sphinx_copybutton",
]
exclude_patterns = ["gallery/*"]
templates_path = ["_templates"]
html_theme = "pydata_sphinx_theme"
html_title = "sinkhorn_ot"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_sidebars = {page: [] for page in ("start", "algorithm", "benchmarks", "changelog")}
html_show_sourcelink = False
html_theme_options = {
    "navbar_align": "left",
    "header_links_before_dropdown": 8,
    "show_nav_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
copyright = "the sinkhorn_ot developers, MIT licence"

myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
#: All of numpydoc's checks, as warnings and so as errors, but for these.
numpydoc_validation_checks = {
    "all",
    "GL01", "GL02",  # the summary stands on the first line, as ruff checks
    "ES01", "EX01", "SA01",  # no section is there for its own sake
    "PR06", "PR08", "RT02", "RT04",  # types and descriptions are English: "integer", "(N, K) array"
    "SS05", "SS06",  # "Labels of ..." is no third person
}  # fmt: skip
#: The fields of dataclasses are documented beside them, as attributes.
numpydoc_validation_exclude = {
    r"\.(SinkhornResult|BalancedResult|Trained)$",
    r"Progress(\.|$)",
    r"^selfsup\.config\.",
    # sela.py is the paper on a page, whose docstrings are short
    r"^selfsup\.(sela\.|SelfLabels|(labellers\.)?equipartition$|multi_head_loss$|update_times$)",
}

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

#: What a newcomer sees first stands first.
GALLERY = (
    "idea", "points", "embeddings", "epsilon", "digits", "image_colours", "router",
    "semantic_ids", "large_file", "codes", "frozen_features", "own_loop",
)  # fmt: skip
sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "within_subsection_order": ExplicitOrder([f"plot_{name}.py" for name in GALLERY]),
    "filename_pattern": "/plot_",
    "abort_on_example_error": True,
    "capture_repr": (),
    "remove_config_comments": True,
    "write_computation_times": False,
    "show_memory": False,
    "show_signature": False,
}
