"""The ablation script: every variant is allowed and is a comparison of its own; what it measures is in the table."""

from itertools import combinations

import pytest
from script_modules import load_script
from toys import as_pair

from pwl_lab.plots.curricula import ABLATED
from pwl_lab.study.recipes import pair_losses
from pwl_lab.study.settings import LoadingSettings
from pwl_lab.support.config import content_hash
from pwl_lab.swap.pair_training import PairLossConfig

pair_ablation = load_script("pair_ablation")
VARIANTS = {
    (group, name): changes for group, variants in pair_ablation.VARIANTS.items() for name, changes in variants.items()
}


def configured(losses, changes, preset="lesson"):
    """Settings and losses of a variant, both checked (the script's own copy is not)."""
    settings = LoadingSettings.load(preset, family="resnet", **changes)
    return settings, PairLossConfig.model_validate(pair_losses(settings).model_dump() | losses)


@pytest.mark.parametrize("key", VARIANTS, ids=": ".join)
@pytest.mark.parametrize("preset", ["smoke", "lesson"])
def test_every_variant_is_allowed_and_is_what_the_script_trains(key, preset):
    losses, changes = VARIANTS[key]
    settings, checked = configured(losses, changes, preset)
    assert pair_losses(settings).model_copy(update=losses) == checked


def test_no_two_variants_are_the_same_pair():
    found = {key: content_hash(dict(enumerate(configured(*changes)))) for key, changes in VARIANTS.items()}
    assert not [pair for pair in combinations(found, 2) if found[pair[0]] == found[pair[1]]]


def test_every_variant_but_those_of_equal_channels_has_the_students_of_the_default():
    default = configured(*VARIANTS["default", "default"])[0]
    for (group, _), (losses, changes) in VARIANTS.items():
        assert (configured(losses, changes)[0] == default) == (group != "equal channels")
        assert losses != {} or group in ("default", "equal channels")


def test_what_is_left_out_has_no_weight():
    default = PairLossConfig()
    for name in ("sync", "recon", "cross"):
        changed = configured(*VARIANTS["leave out", name])[1]
        assert (getattr(default, name) > 0, getattr(changed, name)) == (True, 0.0)
    assert configured(*VARIANTS["leave out", "hard"])[1].alpha == 0.0
    assert configured(*VARIANTS["leave out", "soft"])[1].alpha == 1.0


def test_students_of_equal_channels_need_a_converter_at_one_boundary_alone():
    variants = {name: configured(*changes) for (group, name), changes in VARIANTS.items() if group == "equal channels"}
    assert list(variants) == [
        "converters always",
        "only where different",
    ]  # the first is what the other is compared with
    for settings, _ in variants.values():
        pairs = zip(settings.teacher_channels[:-1], settings.student_channels[:-1], strict=True)
        assert [teacher == student for teacher, student in pairs] == [True, True, False]
    assert [losses.converters for _, losses in variants.values()] == ["always", "if_different"]


def test_measures_are_read_from_the_validation_split():
    on_validation = {"SSS": 0.5, "TSS": 0.8, "STS": 0.31, "SST": 0.22, "TTS": 0.6, "TST": 0.63, "STT": 0.54, "TTT": 0.9}
    on_test = dict.fromkeys(on_validation, 0.01)
    found = pair_ablation.measures(as_pair(on_test, seed=5, validation=on_validation))
    assert found == pytest.approx(
        {
            "student": 0.5,
            "prefix_area": (0.5 * 10 + 0.8 * 200 + 0.6 * 3_000) / 3_210,
            "prefix_mean": 0.7,
            "largest_fall": 0.2,
            "mixed_mean": (0.8 + 0.31 + 0.22 + 0.6 + 0.63 + 0.54) / 6,
            "worst": 0.22,
        }
    )
    assert set(ABLATED) <= set(found)


@pytest.mark.parametrize(
    ("curve", "dip"),
    [([0.5, 0.6, 0.9], 0.0), ([0.5, 0.4, 0.9, 0.7], 0.2), ([0.9, 0.8, 0.6, 0.6], 0.2), ([0.4], 0.0), ([], 0.0)],
)
def test_largest_dip(curve, dip):
    assert pair_ablation.largest_dip(iter(curve)) == pytest.approx(dip)
