"""The one exception that the command line shows as a sentence instead of a traceback."""


class InputError(Exception):
    """Bad input: a file, a folder, a setting or an argument.

    The message is one sentence that names the file or setting and says what to do about it.
    """
