"""What the site's builder does besides: pages from the root, links out of the site, formulas.

Formulas become MathML, which browsers draw by themselves, so that no script has to be loaded.
"""

import html
import logging
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

log = logging.getLogger("mkdocs.hooks.formulas")
ROOT_PAGES = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s:#]+)(?:#[^)\s]*)?\)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that stand in the root of the repository."""
    root = Path(config.docs_dir).parent
    for page, source in ROOT_PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(root / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Keeps the text alone of links to folders, and to files of the repository outside the site.

    Links to what does not exist stay, for the strict build to complain of.
    """
    if page.file.src_uri in ROOT_PAGES:
        markdown = markdown.replace("](docs/", "](")
    folder = (Path(config.docs_dir) / page.file.src_uri).parent

    def shown(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        inside = target.is_relative_to(config.docs_dir)
        outside = target.is_dir() or (target.exists() and not inside)
        return link[1] if outside else link[0]

    return LINK.sub(shown, markdown)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Draws the formulas; a mean and its interval stay on one line."""

    def drawn(formula: re.Match[str]) -> str:
        display = "block" if formula[1] == "div" else "inline"
        mathml = convert(html.unescape(formula[2]).strip(), display=display)
        if re.search(r"<m[io]>(\\|&amp;)", mathml):  # what the converter does not know
            log.warning("%s: a formula is not understood: %s", page.file.src_uri, formula[2])
        return f'<{formula[1]} class="formula">{mathml}</{formula[1]}>'

    return FORMULA.sub(drawn, content).replace(" ± ", "&nbsp;±&nbsp;")
