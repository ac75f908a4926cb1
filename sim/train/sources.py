"""Where the text comes from: nine domains, each a few Debian packages, and how a file becomes documents.

A document is a name, a group and a text. Everything of one group lands on the same side of the held-out split,
so that no held-out document has a neighbour from the same file (or Bible book, or manual page in another language)
in the training text.
"""

import gzip
import html
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Document = tuple[str, str, str]
"""(name, group, text)"""


@dataclass(frozen=True)
class Source:
    """One Debian package of a domain. `kind` is "deb" (binary package) or "dsc" (source package)."""

    package: str
    kind: str
    licence: str
    reader: str
    glob: str
    exclude: str = "(?!)"


RUST = "MIT or Apache-2.0, the Rust project developers"
PYTHON = "PSF-2.0, Python Software Foundation"
MAN_PAGES = "the Linux man-pages project; per page: Linux-man-pages-copyleft, GPL-2.0-or-later, BSD-3-Clause, MIT"
TRANSLATION = "translation GPL-3.0-or-later, the manpages-l10n team; originals under the free licence of each page"
CODE_TABLES = r"/encodings/|/pydoc_data/|/lib2to3/tests/data|/unicode|tables\.|/cjkencodings|_data\.|badsyntax"

DOMAINS: dict[str, list[Source]] = {
    "rust": [
        Source(
            "rust-src",
            "deb",
            RUST,
            "code",
            "**/*.rs",
            r"/src/test/|unicode_data|/core_arch/|/stdsimd/|tables\.rs|/vendor/",
        )
    ],
    "python": [
        Source("libpython3.11-stdlib", "deb", PYTHON, "code", "**/*.py", CODE_TABLES),
        Source("libpython3.11-minimal", "deb", PYTHON, "code", "**/*.py", CODE_TABLES),
        Source("libpython3.11-testsuite", "deb", PYTHON, "code", "**/*.py", CODE_TABLES),
    ],
    "c": [
        Source("curl", "dsc", "curl (MIT-like), Daniel Stenberg and contributors", "code", "**/*.[ch]"),
        Source("nginx", "dsc", "BSD-2-Clause, Igor Sysoev and Nginx, Inc.", "code", "**/*.[ch]"),
        Source("lua5.4", "dsc", "MIT, Lua.org, PUC-Rio", "code", "**/*.[ch]"),
        Source("zlib", "dsc", "Zlib, Jean-loup Gailly and Mark Adler", "code", "**/*.[ch]", "/contrib/|crc32.h"),
        Source(
            "redis", "dsc", "BSD-3-Clause, Salvatore Sanfilippo and contributors", "code", "**/src/*.[ch]", "/deps/"
        ),
        Source("sqlite3", "dsc", "public domain, the SQLite authors", "code", "**/*.[ch]", "/autoconf/|sqlite3.c"),
    ],
    "man-en": [
        Source("manpages", "deb", MAN_PAGES, "man", "**/man[1-8]/*.gz"),
        Source("manpages-dev", "deb", MAN_PAGES, "man", "**/man[1-8]/*.gz"),
        Source("systemd", "deb", "LGPL-2.1-or-later, the systemd authors", "man", "**/man[1-8]/*.gz"),
        Source("git-man", "deb", "GPL-2.0-only, the Git authors", "man", "**/man[1-8]/*.gz"),
        Source("coreutils", "deb", "GPL-3.0-or-later and GFDL-1.3, the coreutils authors", "man", "**/man[1-8]/*.gz"),
    ],
    "man-de": [
        Source("manpages-de", "deb", TRANSLATION, "man", "**/man[1-8]/*.gz"),
        Source("manpages-de-dev", "deb", TRANSLATION, "man", "**/man[1-8]/*.gz"),
    ],
    "man-fr": [
        Source("manpages-fr", "deb", TRANSLATION, "man", "**/man[1-8]/*.gz"),
        Source("manpages-fr-dev", "deb", TRANSLATION, "man", "**/man[1-8]/*.gz"),
    ],
    "scripture": [
        # The program that decodes the package below; gives no text of its own.
        Source("bible-kjv", "deb", "free use with notice, Chip Chapin", "none", "*"),
        Source("bible-kjv-text", "deb", "public domain (King James Version, 1611)", "bible", "usr/lib/bible.data"),
    ],
    "handbook": [
        Source(
            "debian-handbook",
            "deb",
            "GPL-2.0-or-later or CC-BY-SA-3.0, Raphaël Hertzog and Roland Mas",
            "html",
            "**/html/en-US/*.html",
            "index.html|ix01",
        ),
        Source("debian-reference-en", "deb", "GPL-2.0-or-later, Osamu Aoki", "html", "**/*.en.html"),
        Source(
            "debian-policy",
            "deb",
            "GPL-2.0-or-later, the Debian policy authors",
            "html",
            "**/policy.html/*.html",
            "index|search",
        ),
        Source(
            "developers-reference",
            "deb",
            "GPL-2.0-or-later, the Debian developers' reference authors",
            "html",
            "**/developers-reference/*.html",
            "index|search",
        ),
        Source("debian-faq", "deb", "GPL-2.0-or-later, the Debian FAQ authors", "html", "**/*.en.html"),
    ],
    "dictionary": [
        Source(
            "dict-gcide",
            "deb",
            "GPL-3.0-or-later, Patrick J. Cassidy; text of Webster's dictionary of 1913",
            "dictionary",
            "**/gcide.dict.dz",
        ),
    ],
}


def read(source: Source, folder: Path) -> Iterator[Document]:
    """The documents of one unpacked package, in the order of the paths."""
    for path in sorted(folder.glob(source.glob)):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not path.is_symlink() and not re.search(source.exclude, "/" + name):
            yield from READERS[source.reader](path, f"{source.package}/{name}")


def read_code(path: Path, name: str) -> Iterator[Document]:
    yield name, name, path.read_text("utf-8", errors="ignore").replace("\t", "    ").replace("\r", "")


def read_man(path: Path, name: str) -> Iterator[Document]:
    page = path.name.removesuffix(".gz")
    text = roff_to_text(gzip.decompress(path.read_bytes()).decode("utf-8", errors="ignore"))
    # The closing sections name the translators, the same in every page.
    yield name, page, re.split(r"\n(?:TRADUCTION|ÜBERSETZUNG|COLOPHON|KOLOPHON|AUTHORS?|AUTOREN|AUTEURS?)\n", text)[0]


def roff_to_text(source: str) -> str:
    """Plain text of a manual page: macros and font changes go, headings and paragraphs stay."""
    out = []
    for line in source.splitlines():
        if re.match(r"['.]\s*\\\"", line) or line.startswith("'\\\""):
            continue
        line = re.sub(r"\\\".*", "", line)
        macro = re.match(r"[.']\s*([A-Za-z]{1,3})\b\s*(.*)", line)
        if macro:
            line = apply_macro(macro[1], macro[2])
            if line is None:
                continue
        elif line[:1] in ".'":
            continue
        out.append(unescape_roff(line))
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(out))
    return text.strip() + "\n"


def apply_macro(name: str, arguments: str) -> str | None:
    words = [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', arguments)]
    if name in ("SH", "SS", "Sh", "Ss"):
        return "\n" + " ".join(words) + "\n"
    if name in ("B", "I", "SM", "SB"):
        return " ".join(words)
    if name in ("BR", "BI", "IB", "IR", "RB", "RI"):
        return "".join(words)
    if name in ("PP", "P", "LP", "TP", "IP", "HP", "sp", "Pp"):
        return "\n" + (words[0] if name == "IP" and words else "")
    return None


ROFF_CHARACTERS = {
    "aq": "'",
    "dq": '"',
    "lq": "“",
    "rq": "”",
    "oq": "‘",
    "cq": "’",
    "bu": "•",
    "em": "—",
    "en": "–",
    "ha": "^",
    "ti": "~",
    "rs": "\\",
    "co": "©",
    "Fo": "«",
    "Fc": "»",
    "mu": "×",
    "ga": "`",
    "<=": "≤",
    ">=": "≥",
}


def unescape_roff(line: str) -> str:
    line = re.sub(r"\\f(\[[^\]]*\]|\(..|.)", "", line)
    line = re.sub(r"\\s[-+]?\d", "", line)
    line = re.sub(r"\\m\[[^\]]*\]", "", line)
    line = re.sub(r"\\\((..)|\\\[([^\]]+)\]", lambda m: ROFF_CHARACTERS.get(m[1] or m[2], ""), line)
    line = line.replace("\\-", "-").replace("\\e", "\\").replace("\\ ", " ").replace("\\~", " ").replace("\\0", " ")
    return re.sub(r"\\[&|^/,:%c!]", "", line)


def read_bible(path: Path, name: str) -> Iterator[Document]:
    """One document per chapter; the group is the book."""
    program = path.parents[3] / "bible-kjv" / "usr/bin/bible"
    verses = subprocess.run([program, "-p", path.parent, "-f", "gen1:1-rev22:21"], capture_output=True, check=True)
    chapters: dict[tuple[str, str], list[str]] = {}
    for line in verses.stdout.decode("utf-8", errors="ignore").splitlines():
        verse = re.match(r"(\d?\s?[A-Za-z]+?)(\d+):(\d+) (.*)", line)
        if verse:
            chapters.setdefault((verse[1], verse[2]), []).append(f"{verse[3]} {verse[4]}")
    for (book, chapter), lines in chapters.items():
        yield f"{name}/{book}-{chapter}", book, f"{book} {chapter}\n\n" + "\n".join(lines) + "\n"


def read_html(path: Path, name: str) -> Iterator[Document]:
    text = path.read_text("utf-8", errors="ignore")
    body = re.search(r"<body.*</body>", text, re.S)
    text = re.sub(r"<(script|style|nav)\b.*?</\1>", "", body[0] if body else text, flags=re.S)
    text = re.sub(r"\s+", " ", re.sub(r"<pre\b.*?</pre>", keep_lines, text, flags=re.S))
    text = re.sub(r"<(p|div|h\d|li|tr|dt|dd|ul|ol|table|pre|br|section)\b[^>]*>", "\n", text)
    text = html.unescape(re.sub(r"<[^>]+>", "", text)).replace("\x00", "\n").replace("\xa0", " ")
    text = re.sub(r" +\n|\n +", "\n", text)
    yield name, name, re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def keep_lines(match: re.Match) -> str:
    return match[0].replace("\n", "\x00")


def read_dictionary(path: Path, name: str) -> Iterator[Document]:
    """Blocks of some 6,000 characters of whole entries; a block is a document and a group."""
    text = gzip.decompress(path.read_bytes()).decode("utf-8", errors="ignore")
    entries = re.split(r"\n(?=\S)", text)[200:]
    block, size, number = [], 0, 0
    for entry in entries:
        entry = "\n".join(line.strip() for line in entry.splitlines())
        entry = re.sub(r"\n{2,}", "\n", entry).replace("[1913 Webster]", "").strip()
        block.append(entry)
        size += len(entry)
        if size > 6000:
            yield f"{name}/{number}", f"{name}/{number}", "\n\n".join(block) + "\n"
            block, size, number = [], 0, number + 1


READERS = {"code": read_code, "man": read_man, "bible": read_bible, "html": read_html, "dictionary": read_dictionary}
READERS["none"] = lambda path, name: iter(())
