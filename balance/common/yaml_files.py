"""Reading YAML: by libyaml where PyYAML has it, which is many times as fast on long lists."""

from pathlib import Path
from typing import Any

import yaml

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> Any:
    """What a YAML file holds, as plain data.

    Raises:
        yaml.YAMLError: it is no YAML.
        UnicodeDecodeError: it is no UTF-8.
        OSError: it can't be read.
    """
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
