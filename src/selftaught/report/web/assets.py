"""The files of the page, and the one file that holds them together with data.

The page is plain ES modules, which a browser does not load from disk. So for one file each module becomes a function
that returns what it exports, in the order of imports: that is all that is changed, and it is done when a report is
written.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

MODULES = (
    "dom",
    "diff",
    "route",
    "source",
    "charts",
    "accuracy",
    "comparison",
    "runs",
    "problems",
    "problem",
    "samples",
    "main",
)
"""Each imports from those before it."""
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}

_IMPORT = re.compile(r'^import \{ ([\w, ]+) \} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async function|function|const|class) (\w+))", re.MULTILINE)


@cache
def files() -> Mapping[str, str]:
    """The texts of the page by file name."""
    folder = resources.files("selftaught") / "report" / "web" / "page"
    names = ("index.html", "page.css", *(f"{name}.js" for name in MODULES))
    return {name: (folder / name).read_text(encoding="utf-8") for name in names}


def one_file(data: Mapping[str, Any]) -> str:
    """A page that needs nothing but itself. What it may do is fixed by hashes of its own style and code."""
    style, code = files()["page.css"], bundle()
    policy = (
        f"default-src 'none'; script-src '{_hash(code)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    page = files()["index.html"]
    for old, new in (
        ('<meta charset="utf-8">\n', f'\\g<0><meta http-equiv="Content-Security-Policy" content="{policy}">\n'),
        ('<link rel="stylesheet" href="page.css">', f"<style>{_as_replacement(style)}</style>"),
        (
            '<script type="module" src="main.js"></script>',
            f'<script type="application/json" id="data">{_as_replacement(embedded(data))}</script>\n'
            f'<script type="module">{_as_replacement(code)}</script>',
        ),
    ):
        page, count = re.subn(re.escape(old), new, page)
        assert count == 1, old
    return page


def embedded(data: Mapping[str, Any]) -> str:
    """JSON that ends no element and begins no comment wherever it stands in a page; the same values for every reader.

    Half of a surrogate pair, which no UTF-8 file can hold, stays as its escape.
    """
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&\u2028\u2029\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def bundle() -> str:
    """The modules as one, which imports nothing."""
    parts = []
    for name in MODULES:
        code = files()[f"{name}.js"]
        exported = [found[2] for found in _EXPORT.finditer(code)]
        code = _EXPORT.sub(r"\1", _IMPORT.sub(r"const { \1 } = from_\2;" + "\n", code))
        parts.append(f"const from_{name} = (() => {{\n{code}return {{ {', '.join(exported)} }};\n}})();\n")
    return "".join(parts)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def _as_replacement(text: str) -> str:
    return text.replace("\\", "\\\\")
