"""Types that the settings of several notebooks share."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from pwl_lab.config import MOST_BLOCKS


def _each_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) != len(values):
        raise ValueError("each of them once: the same measured twice would be taken for two")
    return values


EachOnce = AfterValidator(_each_once)
Width = Annotated[int, Field(ge=1, le=1_000_000)]
Sizes = Annotated[tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...], Field(min_length=1, max_length=64), EachOnce]
Epochs = Annotated[int, Field(ge=1, le=1_000)]
Channels = Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=1, max_length=MOST_BLOCKS)]
Layers = Annotated[tuple[Annotated[int, Field(ge=1, le=16)], ...], Field(min_length=1, max_length=MOST_BLOCKS)]
Megabytes = Annotated[float, Field(gt=0.0, le=100_000.0)]
