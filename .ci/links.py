"""What the site makes of links that lead out of docs/, to code or to README: the words, and the name of the file.

On a code host such a link opens the file. The site has no page for it.
"""

import re
from typing import Any

_OUT = re.compile(r"\[([^\]]+)\]\((?:\.\./)+((?:cvjax|experiments|benchmarks|README|CONTRIBUTING)[^)#]*)\)")


def on_page_markdown(markdown: str, **others: Any) -> str:
    return _OUT.sub(r"\1 (`\2`)", markdown)
