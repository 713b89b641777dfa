"""Timing of loading: how soon each baseline can predict, each measured in its own process."""

from typing import Any

import pandas as pd

__all__ = ["nested"]


def nested(values: pd.Series) -> dict[str, Any]:
    """A series over several index levels as mappings in mappings, for JSON; what is missing is left out."""
    if values.index.nlevels == 1:
        return {str(key): float(value) for key, value in values.dropna().items()}
    return {str(key): nested(part.droplevel(0)) for key, part in values.groupby(level=0, sort=False)}
