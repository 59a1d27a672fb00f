"""What is wrong with the input, as sentences that a terminal can show."""


class InputError(Exception):
    """Bad input: a file, a folder, a setting or an argument.

    The message is one sentence that names the file or setting and says what to do about it.
    """


class RunError(InputError):
    """Bad input that concerns a whole run, so that trying its next category would only say the same again."""


def printable(text: str) -> str:
    """Text from elsewhere on one line that a terminal only shows: everything unprintable as its escape.

    >>> print(printable("a\\x1b[31mb\\nc"))
    a\\x1b[31mb\\nc
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
