"""What messages must name: options, values and files, in whatever words."""

import re


def naming(*parts: str) -> str:
    """A pattern for `pytest.raises(match=)`: each part stands somewhere, as a whole word."""
    return "(?s)" + "".join(rf"(?=.*(?<!\w){re.escape(part)}(?!\w))" for part in parts)
