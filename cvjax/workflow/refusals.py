"""What the system refuses, in one line: a full disk, a read-only folder, a file where a folder is due."""

import contextlib
import errno
import os
from collections.abc import Iterator

from cvjax.errors import CvjaxError, RefusedError

# The disk's own: a write fails by them without saying which file it was.
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
_OF_A_FILE = {*_OF_THE_DISK, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
              errno.ELOOP}


@contextlib.contextmanager
def refusals(place: str) -> Iterator[None]:
    """Within this context an OSError by which the system refuses a file becomes a RefusedError.

    Any other, such as a missing file, is a mistake of the program and stays as it is. place: what is named where the
    system names no file.
    """
    try:
        yield
    except OSError as error:
        named = error.filename2 or error.filename  # of a change of name, the new one
        if isinstance(error, CvjaxError) or error.errno not in (_OF_THE_DISK if named is None else _OF_A_FILE):
            raise
        where = place if named is None else os.fsdecode(named) if isinstance(named, str | bytes) else place
        raise RefusedError(f"{where}: {os.strerror(error.errno)}") from None
