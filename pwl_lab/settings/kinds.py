"""Types that the settings of several notebooks share."""

from typing import Annotated

from pydantic import Field

from pwl_lab.config import MOST_BLOCKS

Width = Annotated[int, Field(ge=1, le=1_000_000)]
Sizes = Annotated[tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...], Field(min_length=1, max_length=64)]
Epochs = Annotated[int, Field(ge=1, le=1_000)]
Channels = Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=1, max_length=MOST_BLOCKS)]
Layers = Annotated[tuple[Annotated[int, Field(ge=1, le=16)], ...], Field(min_length=1, max_length=MOST_BLOCKS)]
Megabytes = Annotated[float, Field(gt=0.0, le=100_000.0)]
