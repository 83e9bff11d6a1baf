"""The one exception for mistakes that the user can mend."""


class UserError(Exception):
    """A mistake in an input, an option or a folder.

    The message names the file or key and says how to mend it. Commands print it without a stack trace.
    """
