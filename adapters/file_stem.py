"""Names of layers and workers as names of files."""

from __future__ import annotations

import hashlib
import re
import urllib.parse

#: Bytes of a name in file names, which have 255: endings follow.
_LONGEST_NAME = 200


def file_stem(name: str) -> str:
    """A name as the beginning of a file's name, a different one for each.

    Letters, digits and `_.-~` stay; everything else becomes %XX, as in web addresses.
    """
    safe = urllib.parse.quote(name, safe="", errors="surrogatepass") or "%"
    # Another name's assignment and certificate end in these.
    safe = re.sub(r"\.(assignment|cert)$", r"%2E\1", safe)
    if len(safe) <= _LONGEST_NAME:
        return safe
    # No quoted name holds "%h".
    return f"{safe[:_LONGEST_NAME]}%h{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:32]}"
