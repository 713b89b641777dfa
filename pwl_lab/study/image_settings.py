"""What the image notebooks can be asked: data, teacher, student and how both are trained."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pwl_lab.support.config import (
    MOST_BLOCKS,
    EachOnce,
    Epochs,
    Family,
    Fraction,
    LearningRate,
    MaskDistribution,
    OtherSeeds,
    Products,
    Settings,
    Steps,
)
from pwl_lab.support.errors import invalid
from pwl_lab.tasks.checks import CALIBRATION_BATCH, check_batch_size, check_bits, check_crop, check_n_train

Channels = Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=1, max_length=MOST_BLOCKS)]
Layers = Annotated[tuple[Annotated[int, Field(ge=1, le=16)], ...], Field(min_length=1, max_length=MOST_BLOCKS)]


class ImageSettings(Settings):
    """The sizes that the image notebooks share: data, teacher, student and how both are trained."""

    split_by: ClassVar[str | None] = "family"
    other_seeds: OtherSeeds = "trained"
    family: Family = Field("vgg", description="the architecture of teacher and student")
    dataset: str = Field("fashion-mnist-small", description="which images")
    n_train: int | None = Field(None, ge=100, le=60_000, description="use only this many training images")
    teacher_channels: Channels = Field((16, 32, 64, 64), description="channels of the teacher's blocks")
    teacher_depths: Layers = Field(
        (3, 2, 2, 2), description="layers in each teacher block: convolutions, basic blocks or transformer layers"
    )
    teacher_heads: int = Field(4, ge=1, le=64, description="attention heads of the teacher (vit)")
    student_channels: Channels = Field((4, 8, 12, 16), description="channels of the student's blocks")
    student_depths: Layers = Field((1, 1, 1, 1), description="layers in each student block")
    student_heads: int = Field(4, ge=1, le=64, description="attention heads of the student (vit)")
    stem_stride: int = Field(2, ge=1, le=4, description="2 halves the resolution before the first block (resnet)")
    patch: int = Field(8, ge=2, le=32, description="side of the square of pixels that becomes a token (vit)")
    batch_size: int = Field(128, ge=2, le=8192, description="images per step")
    optimiser: Literal["sgd", "adam"] = Field("sgd", description="of teacher and student")
    products: Products = Field(
        "float32", description="number type of matrix products in training; bfloat16 is faster on some processors"
    )
    teacher_epochs: Epochs = Field(6, description="passes over the images for the teacher")
    teacher_lr: LearningRate = Field(0.1, description="peak learning rate of the teacher")
    pair_lr: LearningRate = Field(0.1, description="peak learning rate of the student")
    crop_padding: int = Field(0, ge=0, le=8, description="largest shift of training images, in pixels")
    rotation_degrees: float = Field(0.0, ge=0.0, le=45.0, description="largest rotation of training images, in degrees")
    sync_weight: float = Field(1.0, ge=0.0, le=1e6, description="weight of the synchronisation loss")
    cross_weight: float = Field(2.0, ge=0.0, le=1e6, description="weight of the cross loss")
    cross_passes: int = Field(2, ge=1, le=16, description="passes of the batch through mixed networks, per step")
    cross_groups: int = Field(4, ge=1, le=64, description="masks per pass: each for a part of the batch")
    masks: MaskDistribution = Field("all", description="which swap masks the cross loss draws")
    converters: Literal["always", "if_different"] = Field(
        "always", description="learned at every boundary, or the identity where the channels agree"
    )

    def check_together(self) -> None:
        """Teacher and student need the same number of blocks, and a batch has to fit into the images."""
        self._check_images()
        n_blocks = len(self.teacher_channels)
        for name in ("teacher_depths", "student_channels", "student_depths"):
            if len(getattr(self, name)) != n_blocks:
                raise invalid(name, getattr(self, name), f"{n_blocks} numbers, one per block as in teacher_channels")
        if n_blocks < 2:
            raise invalid(
                "teacher_channels", self.teacher_channels, "at least 2 blocks: with one there is nothing to mix"
            )
        self._check_masks(n_blocks)
        if self.family == "vit":
            self._check_vit()

    def _check_images(self) -> None:
        """Raise UnknownNameError or InvalidValueError where there is no such dataset, too few images in it, or too small ones.

        Of a bundled dataset the files are checked as well (MissingDataError); others may still have to be downloaded.
        """
        from pwl_lab.tasks import datasets  # imports numpy, which parities do without

        entry = datasets.dataset(self.dataset)
        check_n_train(self.n_train, entry.sizes["train"], self.dataset)
        check_batch_size(self.batch_size, self.n_train or entry.sizes["train"])
        check_crop(self.crop_padding, *entry.image_shape[1:])
        if entry.files.bundled:
            datasets.load(self.dataset)

    def _check_masks(self, n_blocks: int) -> None:
        """Masks that are named one by one have a letter per block, and mix."""
        if self.masks == {}:
            raise invalid("masks", self.masks, "a weight for at least one mixed mask")
        for mask in () if isinstance(self.masks, str) else self.masks:
            if len(mask) != n_blocks or set(mask) != {"S", "T"}:
                there = f"words of {n_blocks} letters, S (student) or T (teacher), one per block; both in each"
                raise invalid("masks", mask, there)

    def _check_vit(self) -> None:
        """A residual stream has one width, and its heads divide it."""
        for who in ("teacher", "student"):
            channels, heads = getattr(self, f"{who}_channels"), getattr(self, f"{who}_heads")
            if len(set(channels)) > 1:
                raise invalid(
                    f"{who}_channels", channels, "the same number for every block of a vit: tokens keep theirs"
                )
            if channels[0] % heads:
                raise invalid(f"{who}_heads", heads, f"a divisor of {who}_channels = {channels[0]}")
        if self.patch & (self.patch - 1):
            raise invalid("patch", self.patch, "a power of 2: the stem halves the resolution step by step")


class LoadingSettings(ImageSettings):
    """04_progressive_weight_loading: student, teacher and converters on images."""

    section: ClassVar[str] = "progressive_weight_loading"
    pair_epochs: Epochs = Field(6, description="passes over the images for student and converters")
    test_images: Literal["auto", "bundled", "all"] = Field(
        "auto", description="all: the 10,000 of full Fashion-MNIST, not the bundled 2,000; auto: if they are here"
    )

    def check_together(self) -> None:
        """As for all image notebooks; test images that are asked for have to be here."""
        super().check_together()
        if self.test_images == "all":
            from pwl_lab.study.testing import all_test_images

            all_test_images(self.dataset, required=True)


class CrossingSettings(ImageSettings):
    """05_curricula_meet_loading: curricula on images, alone, followed by PWL training and combined with it."""

    section: ClassVar[str] = "curricula_meet_loading"
    budget_steps: Steps = Field(400, description="optimiser steps of each student, for every curriculum")
    loadings: Annotated[tuple[Literal["alone", "followed", "combined"], ...], EachOnce] = Field(
        ("alone", "combined"),
        min_length=1,
        description="when PWL reaches the student: alone (never), followed (from half time), combined (at once)",
    )
    curricula: Annotated[tuple[Literal["one_shot", "progressive", "extracted"], ...], EachOnce] = Field(
        ("one_shot", "extracted"), min_length=1, description="which curricula meet loading on images"
    )
    early_share: Fraction = Field(
        0.4, gt=0.0, lt=1.0, description="fraction of the budget for the stages before the final teacher's output"
    )
    checkpoint_accuracy: Fraction = Field(0.8, description="progressive's checkpoint: the first that reaches this")
    eval_every: Steps = Field(20, description="steps between evaluations of the students")
    parity_n_bits: int = Field(20, ge=4, le=10_000, description="bits of the parity task of the smallest pair")
    parity_k_sparse: int = Field(3, ge=1, le=20, description="how many of them the label depends on")
    parity_steps: Steps = Field(1_500, description="optimiser steps of the smallest pair")

    def check_together(self) -> None:
        """As for all image notebooks; the parity task has to exist, and every stage needs a step."""
        super().check_together()
        check_bits(self.parity_n_bits, self.parity_k_sparse, None)
        if self.n_train is not None and self.n_train < CALIBRATION_BATCH:
            what = f"at least {CALIBRATION_BATCH}: the extracted curriculum is calibrated on them"
            raise invalid("n_train", self.n_train, what)
        if round(self.early_share * self.budget_steps) >= self.budget_steps:
            raise invalid(
                "early_share", self.early_share, f"less of {self.budget_steps} steps: the last stage needs one"
            )
        if self.early_share * self.budget_steps < len(self.teacher_channels):
            raise invalid(
                "budget_steps",
                self.budget_steps,
                f"enough for a step per block in its early share ({self.early_share})",
            )
