# SPDX-License-Identifier: Apache-2.0
"""One HTML page that shows the figures of a folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2


@dataclass(frozen=True)
class Shown:
    """A figure on the page: its files lie in the page's folder."""

    title: str
    caption: str
    files: tuple[Path, ...]

    @property
    def images(self) -> list[str]:
        return [file.name for file in self.files if file.suffix == ".png"]

    @property
    def films(self) -> list[str]:
        return [file.name for file in self.files if file.suffix == ".mp4"]


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font-family: sans-serif; margin: 2em; color: #222 }
img, video { max-width: 100%; display: block; margin: 0.5em 0 }
code { background: #f2f2f2 }
</style></head><body>
<h1>{{ title }}</h1>
<p>Made by <code>{{ command }}</code></p>
{% for figure in figures %}
<h2>{{ figure.title }}</h2>
<p>{{ figure.caption }}</p>
{% for name in figure.films %}<video src="{{ name }}" controls loop muted></video>{% endfor %}
{% for name in figure.images %}<img src="{{ name }}" alt="{{ figure.title }}">{% endfor %}
{% endfor %}
</body></html>
"""


def write_page(folder: Path, title: str, command: str, figures: Sequence[Shown]) -> Path:
    """Write figures.html into `folder`."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string(_PAGE).render(title=title, command=command, figures=figures)
    path = folder / "figures.html"
    path.write_text(text)
    return path
