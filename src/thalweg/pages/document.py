"""From a template to a file."""

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

__all__ = ["render", "write"]


def render(package: str, template: str, **values: Any) -> str:
    """A page from a template that extends `base.html.j2`.

    Args:
        package: the package that the template lies in.
        template: its file name.
        values: what it shows. `charts`, plain data without NaN, is what its script draws.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(p, ".") for p in (package, "thalweg.pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    # A package without type stubs; read as data it costs no import either.
    plotly = files("plotly").joinpath("package_data/plotly.min.js").read_text(encoding="utf-8")
    return environment.get_template(template).render(
        **values, plotly=plotly.replace("</script", "<\\/script")
    )


def write(page: str, path: Path) -> None:
    """Write a page; whoever opens `path` meanwhile sees the old one or the new, never a part.

    Args:
        page: the HTML.
        path: the file to write; its folder is made if need be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(page, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
