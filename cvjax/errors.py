"""The errors that a command tells in one line, without a traceback."""


class CvjaxError(Exception):
    """Something a person can put right. The message is one line: what was received, and what is allowed."""


class ConfigError(CvjaxError):
    """A configuration that cannot be."""


class DataError(CvjaxError):
    """Data that cannot be used as asked."""


class CheckpointError(CvjaxError):
    """A checkpoint that is missing, damaged, or does not fit."""


class TrainingError(CvjaxError):
    """Training cannot go on."""


class ProcessError(CvjaxError):
    """One of several processes is missing, was lost, or cannot start."""


class RefusedError(CvjaxError):
    """The system refuses to read or write a file: the disk is full, the folder is read-only."""


class StorageError(CvjaxError):
    """An address that cannot be reached, or used as asked."""


class MissingError(StorageError, FileNotFoundError):
    """There is no such file at an address."""


class ForbiddenError(StorageError, PermissionError):
    """A file at an address must not be read, or written."""
