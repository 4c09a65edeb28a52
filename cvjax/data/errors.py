"""The error a person sees when their data cannot be used."""


class DataError(Exception):
    """Data that cannot be used as asked. One line, printed without a traceback."""
