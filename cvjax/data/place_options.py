"""Options after the place of a data set: `tar:PATH#label=FIELD&image=FIELD`."""

import os
from collections.abc import Mapping

from cvjax.errors import DataError
from cvjax.storage import is_address


def split_options(place: str, form: str, allowed: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The place without its options, and the options that are given. A path that is there as a whole has none.

    Args:
        form: the name of the form, for the message.
        allowed: name of an option -> what it takes, such as FIELD.

    Raises:
        DataError: for another option, or one without a `=`.
    """
    path, mark, options = place.rpartition("#")
    if not mark or not is_address(place) and os.path.exists(os.path.expanduser(place)):
        return place, {}
    given = [option.partition("=") for option in options.split("&")]
    if not all(name in allowed and equals for name, equals, _ in given):
        *most, last = (f"{name}={what}" for name, what in allowed.items())
        words = f"{', '.join(most)} and {last}, joined by &" if most else last
        raise DataError(f"{form}:{place}: after # there may be {words}, got {options!r}")
    return path, {name: value for name, _, value in given}
