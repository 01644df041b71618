"""What people read: chapters and their notebooks, `prose`, `plots`, `book`, committed results."""

import sys

# The check of notebooks would else build a grammar of web addresses, for seconds in each process, and use it nowhere.
sys.modules.setdefault("rfc3987_syntax", None)
