"""Templates of the HTML pages that the pipeline writes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2


def page_template(folder: Path, filters: Mapping[str, Callable[..., Any]] | None = None) -> jinja2.Template:
    """The template `page.html.jinja` of a folder, in which everything is escaped: names of files and classes come from
    users."""
    loader = jinja2.FileSystemLoader(folder)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= filters or {}
    return environment.get_template("page.html.jinja")
