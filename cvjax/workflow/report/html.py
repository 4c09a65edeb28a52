"""The parts that all report pages share: escaped text, tables, and the document with its style.

A page is one file without any address that a browser would load. A content security policy says so, and allows no
script but the page's own, whose hash it names. So a name that were not escaped could not run.
"""

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from typing import Any

from cvjax.text import printable

STYLE = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#1b1f24;--soft:#59636e;--line:#d9dee4;--accent:#0a58ca;
--good:#1a7f37;--wait:#9a6700;--c0:#0a58ca;--c1:#c2410c;--c2:#15803d;--c3:#8b2fc9;--c4:#b91c1c;--c5:#0e7490;
--c6:#8a6100;--c7:#be185d;--c8:#4d7c0f;--c9:#475569}
@media(prefers-color-scheme:dark){:root{--page:#0f1318;--card:#171c22;--ink:#e4e8ed;--soft:#9aa5b1;--line:#2d353e;
--accent:#7ab2ff;--good:#56d27a;--wait:#e3b341;--c0:#7ab2ff;--c1:#ff9a62;--c2:#63d68b;--c3:#c9a2ff;--c4:#ff8f8f;
--c5:#5cd0e4;--c6:#e3b341;--c7:#ff8fc0;--c8:#a8d65c;--c9:#a9b6c6}}
*{box-sizing:border-box}[hidden]{display:none!important}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
sans-serif;overflow-wrap:break-word}
header,main,footer{max-width:76rem;margin:0 auto;padding:0 1rem}
header{padding-top:1.75rem}footer{padding-bottom:2.5rem;color:var(--soft);font-size:.875rem}
h1{font-size:1.6rem;line-height:1.25;margin:.1rem 0 .4rem}h2{font-size:1.15rem;margin:0 0 .7rem}
h3{font-size:1rem;margin:1rem 0 .4rem}p{margin:.3rem 0 .7rem;max-width:46rem}
a{color:var(--accent)}:focus-visible{outline:3px solid var(--accent);outline-offset:2px;border-radius:4px}
.skip{position:absolute;left:-999rem}.skip:focus{left:1rem;top:.5rem;background:var(--card);padding:.4rem .8rem}
.over,.note,figcaption,.key{color:var(--soft);font-size:.875rem}.over{margin:0}
.state{display:inline-block;padding:.1rem .7rem;border:1px solid;border-radius:1rem;font-size:.875rem;font-weight:600}
.complete{color:var(--good)}.training,.stopped,.unfinished{color:var(--wait)}
nav ul{display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;list-style:none;margin:.6rem 0 1.2rem;padding:0;font-size:.925rem}
nav a{display:inline-block;padding:.2rem 0}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:1.1rem 1.2rem;margin:0 0 1rem;
min-width:0}
.tiles{display:flex;flex-wrap:wrap;gap:.8rem 2.4rem;margin:0 0 .9rem}.tiles div{min-width:7rem}
.tiles dt{color:var(--soft);font-size:.875rem}.tiles dd{margin:0;font-size:1.75rem;font-weight:650;line-height:1.2;
font-variant-numeric:tabular-nums}.tiles small{font-size:.875rem;font-weight:400;color:var(--soft);display:block}
progress{width:100%;height:.8rem;accent-color:var(--accent)}
.pictures{columns:2 27rem;column-gap:1.2rem}.pictures>*{break-inside:avoid;margin-bottom:1.2rem}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:1.2rem}
figure{margin:0;min-width:0}svg.plot{display:block;width:100%;height:auto;max-width:34rem}
svg text{fill:var(--soft);font:11px system-ui,sans-serif}svg .line{stroke:var(--line)}
figcaption b{color:var(--ink);font-weight:600}.key{display:inline-flex;align-items:center;gap:.35rem;margin-right:1rem}
.key svg{width:26px;height:10px;flex:none}
.picture img{max-width:100%;height:auto;display:block;background:#fff;border-radius:6px;border:1px solid var(--line)}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.925rem}
th,td{padding:.32rem .9rem .32rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
thead th{color:var(--soft);font-weight:600;white-space:nowrap}td.n,th.n{text-align:right;white-space:nowrap}
tbody tr:last-child>*{border-bottom:0}tbody th{font-weight:400}
td.v,tbody th{overflow-wrap:anywhere;min-width:5rem}tbody th{min-width:min(13rem,30vw)}
th small{font-weight:400;color:var(--soft)}
th button{all:unset;cursor:pointer;color:var(--accent);padding:.1rem 0}
th button:focus-visible{outline:3px solid var(--accent)}
th[aria-sort=ascending] button::after{content:" ↑"}th[aria-sort=descending] button::after{content:" ↓"}
pre{margin:0 0 .4rem;padding:.65rem .8rem;background:var(--page);border:1px solid var(--line);border-radius:6px;
overflow-x:auto;font:.85rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre.command{white-space:pre-wrap;overflow-wrap:anywhere}code{font:.9em ui-monospace,Menlo,Consolas,monospace}
details{border-top:1px solid var(--line);padding:.35rem 0}details[open]{padding-bottom:.7rem}
summary{cursor:pointer;padding:.25rem 0;font-weight:600}
.alarm{border-left:4px solid var(--wait);padding:.2rem .8rem;margin:.6rem 0}
label{display:inline-flex;gap:.4rem;align-items:center}input{width:1.1rem;height:1.1rem;accent-color:var(--accent)}
@media(max-width:30rem){section{padding:.9rem}.tiles{gap:.7rem 1.6rem}h1{font-size:1.35rem}}
@media print{body{background:#fff}nav,.skip{display:none}section{break-inside:avoid}}
"""


def text(value: Any) -> str:
    """A value as text in a page or an attribute; nothing in it is markup or steers the direction of writing."""
    return html.escape(printable(str(value)))


def lines(content: str) -> str:
    """`text` of each line of a text."""
    return "\n".join(map(text, content.splitlines()))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[int] = (), caption: str,
          keys: Sequence[Sequence[str]] | None = None) -> str:
    """A table that scrolls sideways within itself. The cells are markup; the first of each row is its heading.

    numbers: columns that are aligned to the right. caption: its name, for those who hear it. keys: what each cell is
    sorted by, of a table that a script of the page sorts.
    """
    kind = ["n" if i in numbers else "v" for i in range(len(head))]
    titles = "".join(f'<th scope="col" class="{k}">{cell}</th>' for k, cell in zip(kind, head, strict=True))
    body = ""
    for i, row in enumerate(rows):
        marks = [""] * len(row) if keys is None else [f' data-value="{text(key)}"' for key in keys[i]]
        cells = [f'<td class="{k}"{mark}>{cell}</td>' for k, mark, cell in zip(kind, marks, row, strict=True)]
        body += f'<tr><th scope="row"{marks[0]}>{row[0]}</th>{"".join(cells[1:])}</tr>'
    return (f'<div class="scroll" role="region" tabindex="0" aria-label="{text(caption)}">'
            f'<table{"" if keys is None else " class=sorted"}><thead><tr>{titles}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>")


def section(name: str, title: str, content: str) -> str:
    """A part of the page; `name` is its address in it."""
    return (f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{text(title)}</h2>{content}'
            "</section>")


def details(name: str, title: str, content: str) -> str:
    """A part that is folded until a reader asks for it, by mouse or keyboard."""
    return f'<details id="{name}"><summary>{text(title)}</summary>{content}</details>'


def document(title: str, header: str, sections: Sequence[tuple[str, str, str]], footer: str, *, script: str = "",
             head: str = "") -> str:
    """A whole page of `(name, title, content)` sections, whose empty ones are left out; all but titles is markup.

    head: more of the document's head.
    """
    shown = [each for each in sections if each[2]]
    links = "".join(f'<li><a href="#{name}">{text(title)}</a></li>' for name, title, _ in shown)
    allowed = ""
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        allowed, script = f"; script-src 'sha256-{digest}'", f"<script>{script}</script>"
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:{allowed}"
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">{head}<style>{STYLE}</style></head>\n'
            f'<body><a class="skip" href="#main">Skip to the results</a>\n<header>{header}'
            f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>\n<main id="main" tabindex="-1">\n'
            + "\n".join(section(*each) for each in shown)
            + f"\n</main>\n<footer>{footer}</footer>{script}</body></html>\n")
