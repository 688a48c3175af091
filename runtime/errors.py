"""The errors a user can meet. The command line prints one as a single line and exits 2."""


class CamscribeError(Exception):
    """Base of all errors caused by input or environment.

    The message says what is wrong, where, what was expected and what to do, in one line.
    """


class BundleError(CamscribeError):
    """Raised when a bundle is missing, altered, incomplete or of another schema."""


class EngineError(CamscribeError):
    """Raised when a graph cannot be compiled, loaded or run on the chosen device."""


class NoEngineError(EngineError):
    """Raised when nothing but a built engine is missing: another backend can do the work, or ``camscribe build``."""


class OptionError(CamscribeError):
    """Raised when an option, or a combination of options, has no meaning."""


class SourceError(CamscribeError):
    """Raised when an image, a folder, a camera or another source of frames cannot be read."""


class DataError(CamscribeError):
    """Raised when training data, a configuration or a checkpoint cannot be used."""


class SinkError(CamscribeError):
    """Raised when captions cannot be delivered to a file, a page or a topic."""
