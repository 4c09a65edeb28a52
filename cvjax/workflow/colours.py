"""Which changes of colours images of any number of channels may have."""

from collections.abc import Mapping
from typing import Any

from cvjax.errors import ConfigError


def check_colours(config: Any, channels: int, none: Mapping[str, Any]) -> None:
    """ConfigError if options ask for changes of colours that images of other than one channel or three lack.

    none: the option's name -> the value that asks for nothing.
    """
    if channels in (1, 3):
        return
    for name, value in none.items():
        if getattr(config, name) != value:
            words = " ".join(map(str, value)) if isinstance(value, tuple) else value
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(config, name)}: images of {channels} channels have "
                              f"no colours that it could change; give --{name.replace('_', '-')} {words}")
