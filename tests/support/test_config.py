"""Settings: every preset loads for every notebook; what is refused says field, value, what is allowed, nearest name."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pwl_lab.models import MLPConfig
from pwl_lab.study.settings import SETTINGS, CrossingSettings, CurriculaSettings, LoadingSettings
from pwl_lab.support import config, paths
from pwl_lab.support.config import content_hash
from pwl_lab.support.errors import InvalidValueError, MissingDataError, UnknownNameError
from pwl_lab.support.yaml12 import read_yaml

PRESETS = ["smoke", "lesson", "paper"]
VIT = {"family": "vit", "teacher_channels": [8] * 4, "student_channels": [8] * 4}
RESNET = {"family": "resnet"}


@pytest.fixture
def presets(tmp_path, monkeypatch):
    """A project whose preset files the test writes."""
    (tmp_path / "presets").mkdir()
    monkeypatch.setenv("PWL_LAB_HOME", str(tmp_path))

    def write(name, content):
        (tmp_path / "presets" / f"{name}.yaml").write_text(content)

    return write


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("section", SETTINGS)
def test_every_preset_loads_for_every_notebook_with_its_own_values(preset, section):
    loaded = SETTINGS[section].load(preset)
    assert loaded.preset == preset
    content = read_yaml((paths.presets() / f"{preset}.yaml").read_text())
    written = content[section]
    if SETTINGS[section].split_by is not None:
        written |= content.get(f"{section}.{getattr(loaded, SETTINGS[section].split_by)}", {})
    for name, value in written.items():
        found = getattr(loaded, name)
        assert (list(found) if isinstance(found, tuple) else found) == value
    defaults = SETTINGS[section](preset=preset)
    for name in SETTINGS[section].model_fields:
        if name not in written:
            assert getattr(loaded, name) == getattr(defaults, name)


def test_presets_are_the_known_ones_and_grow():
    assert sorted(path.stem for path in paths.presets().glob("*.yaml")) == sorted(PRESETS)
    steps = [CurriculaSettings.load(preset).budget_steps for preset in PRESETS]
    assert steps == sorted(steps)


def test_overrides_win_and_none_keeps_the_presets_value():
    loaded = CurriculaSettings.load("smoke", n_bits=9, support=None, seeds=[5])
    assert (loaded.n_bits, loaded.k_sparse, loaded.seeds) == (9, 2, (5,))


def test_unknown_preset_names_the_nearest():
    with pytest.raises(
        UnknownNameError, match=r"unknown preset 'leson'. Did you mean 'lesson'\? Known: .*paper, smoke"
    ):
        CurriculaSettings.load("leson")


def test_unknown_parameter_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown parameter 'n_bit'. Did you mean 'n_bits'\? Known: batch_size"):
        CurriculaSettings.load("smoke", n_bit=9)
    with pytest.raises(UnknownNameError, match="unknown parameter 'n_bit'"):
        CurriculaSettings.load("smoke", n_bit=None)
    with pytest.raises(InvalidValueError, match=r"unknown parameter 'zzz'. Known"):
        CurriculaSettings.checked({"zzz": 1})


REFUSED = [
    (CurriculaSettings, "n_bits", 1, "whole number from 2 to 10000"),
    (CurriculaSettings, "n_bits", 10_001, "whole number from 2 to 10000"),
    (CurriculaSettings, "n_bits", "many", "whole number from 2 to 10000"),
    (CurriculaSettings, "n_bits", 9.5, "whole number from 2 to 10000"),
    (CurriculaSettings, "teacher_lr", 0.0, "number above 0.0 to 10.0"),
    (CurriculaSettings, "teacher_lr", math.nan, "number above 0.0 to 10.0"),
    (CurriculaSettings, "teacher_lr", math.inf, "number above 0.0 to 10.0"),
    (CurriculaSettings, "threshold", 1.5, "number from 0.0 to 1.0"),
    (CurriculaSettings, "saturation", 0.9, "number from 1.0 to 100.0"),
    (CurriculaSettings, "device", "gpu", "one of auto, cpu, cuda"),
    (CurriculaSettings, "interactive", "perhaps", "true or false"),
    (CurriculaSettings, "seeds", [], "list of whole numbers from 0 to 2147483647, at least 1 of them"),
    (CurriculaSettings, "seeds", 3, "list of whole numbers from 0"),
    (LoadingSettings, "masks", "random", "one of prefix, alternating, mixture, all"),
    (LoadingSettings, "masks", 3, "one of prefix, alternating, mixture, all or mapping of masks to weights"),
    (LoadingSettings, "family", "mlp", "one of vgg, resnet, vit"),
    (LoadingSettings, "n_train", 99, "whole number or none from 100 to 60000"),
    (LoadingSettings, "crop_padding", -1, "whole number from 0 to 8"),
    (LoadingSettings, "pair_epochs", 0, "whole number from 1 to 1000"),
]


@pytest.mark.parametrize(("cls", "field", "value", "allowed"), REFUSED)
def test_bad_values_are_refused_with_field_value_and_what_is_allowed(cls, field, value, allowed):
    with pytest.raises(InvalidValueError) as refusal:
        cls.load("smoke", **{field: value})
    assert str(refusal.value).startswith(f"{field} = {value!r} is not allowed: {allowed}")


def test_a_bad_entry_of_a_list_is_named_by_its_place():
    with pytest.raises(InvalidValueError, match=r"^seeds\[1\] = -4 is not allowed: list of whole numbers from 0 to"):
        CurriculaSettings.load("smoke", seeds=[0, -4])
    with pytest.raises(InvalidValueError, match=r"^teacher_channels\[0\] = 0 .*from 1 to 4096"):
        LoadingSettings.load("smoke", teacher_channels=[0, 8])


def test_all_refused_values_are_named_at_once():
    with pytest.raises(InvalidValueError, match=r"n_bits = 1 .*; .*threshold = 2 "):
        CurriculaSettings.load("smoke", n_bits=1, threshold=2)


def test_the_same_seed_twice_is_refused():
    # the spread over seeds would be too small, and two students would answer to one name
    with pytest.raises(InvalidValueError, match="seeds = "):
        CurriculaSettings.load("smoke", seeds=[1, 1])


@pytest.mark.parametrize(
    ("cls", "values", "words"),
    [
        (CurriculaSettings, {"n_bits": 5, "k_sparse": 6}, "k_sparse = 6 .*n_bits = 5"),
        (CurriculaSettings, {"n_bits": 5, "support": [1, 7]}, r"support = \(1, 7\) .*outside: \[7\]"),
        (CurriculaSettings, {"n_bits": 5, "support": [1, 1]}, r"support = \(1, 1\) .*distinct"),
        (CurriculaSettings, {"stage_steps": 600}, "stage_steps = 600 .*budget_steps = 600"),
        (LoadingSettings, {"n_train": 127}, "batch_size = 128 .*127"),
        (LoadingSettings, {"batch_size": 1025}, "batch_size = 1025 .*1024"),
        (LoadingSettings, {"dataset": "mnist"}, "mnist"),
        (LoadingSettings, {"teacher_depths": [1]}, r"teacher_depths = \(1,\) .*4 numbers"),
        (LoadingSettings, {"student_channels": [4, 4]}, r"student_channels = \(4, 4\) .*4 numbers"),
        (LoadingSettings, {"masks": {"TSS": 1.0}}, "masks = 'TSS' .*words of 4 letters"),
        (LoadingSettings, {"masks": {"TSSS": 1.0, "TxSS": 1.0}}, "masks = 'TxSS' .*words of 4 letters"),
        (LoadingSettings, {"masks": {"SSSS": 1.0}}, "masks = 'SSSS' .*both in each"),
        (LoadingSettings, {"masks": {"TTTT": 1.0}}, "masks = 'TTTT' .*both in each"),
        (LoadingSettings, {"masks": {}}, "masks = {} .*at least one mixed mask"),
        (
            LoadingSettings,
            VIT | {"student_channels": [8, 8, 8, 4]},
            r"student_channels = .*same number for every block",
        ),
        (LoadingSettings, VIT | {"teacher_heads": 3}, "teacher_heads = 3 .*a divisor of teacher_channels = 8"),
        (LoadingSettings, VIT | {"student_heads": 5}, "student_heads = 5 .*a divisor of student_channels = 8"),
        (LoadingSettings, VIT | {"patch": 6}, "patch = 6 .*a power of 2"),
        (CrossingSettings, {"n_train": 127, "batch_size": 32}, "n_train = 127 .*at least 128.*calibrated"),
        (CrossingSettings, {"early_share": 0.96}, r"early_share = 0.96 .*12 steps: the last stage needs one"),
        (CrossingSettings, {"early_share": 0.3}, r"budget_steps = 12 .*a step per block"),
        (CrossingSettings, {"parity_k_sparse": 9}, "k_sparse = 9 .*n_bits = 8"),
        (CrossingSettings, {"student_channels": [4, 4]}, r"student_channels = \(4, 4\) .*4 numbers"),
    ],
)
def test_values_that_do_not_fit_together_are_refused_before_a_kernel_starts(cls, values, words):
    with pytest.raises(InvalidValueError, match=words):
        cls.load("smoke", **values)


def test_few_training_images_do_where_calibration_has_a_batch():
    assert CrossingSettings.load("smoke", n_train=128, batch_size=32, early_share=0.95).n_train == 128


def test_masks_may_be_weighted_one_by_one():
    loaded = LoadingSettings.load("lesson", masks={"TSSS": 1.0, "TTSS": 2})
    assert loaded.masks == {"TSSS": 1.0, "TTSS": 2.0}
    assert not loaded.stock
    assert LoadingSettings.load("smoke", **VIT).patch == 8


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf, "many", "2", True, None])
def test_a_weight_of_a_mask_that_is_no_number_above_0_is_refused(weight):
    with pytest.raises(InvalidValueError, match=r"^masks = .*mapping of masks to weights"):
        LoadingSettings.load("smoke", masks={"TSSS": 1.0, "TTSS": weight})


def test_one_block_is_refused():
    names = ("teacher_channels", "teacher_depths", "student_channels", "student_depths")
    with pytest.raises(InvalidValueError, match=r"teacher_channels = .*at least 2 blocks"):
        LoadingSettings.load("smoke", **{name: [1] for name in names})


def test_from_notebook_reads_its_names_and_nothing_else():
    names = {"preset": "smoke", "n_bits": 9, "seeds": [7], "k_sparse": None, "np": object(), "__name__": "x"}
    assert CurriculaSettings.from_notebook(names) == CurriculaSettings.load("smoke", n_bits=9, seeds=[7])
    assert CurriculaSettings.from_notebook({}) == CurriculaSettings.load("lesson")
    with pytest.raises(InvalidValueError, match="n_bits = 1 "):
        CurriculaSettings.from_notebook({"n_bits": 1})
    with pytest.raises(UnknownNameError, match="unknown preset 'huge'"):
        CurriculaSettings.from_notebook({"preset": "huge"})


@pytest.mark.parametrize("cls", SETTINGS.values())
def test_stock_is_the_presets_own_sizes_but_never_smoke(cls):
    assert cls.load("lesson").stock
    assert cls.load("paper").stock
    assert not cls.load("smoke").stock
    assert cls.load("lesson", device="cpu", interactive=False).stock
    assert not cls.load("lesson", seeds=[98, 99]).stock
    assert cls.load("lesson", seeds=list(cls.load("lesson").seeds)).stock


def test_settings_cannot_be_changed():
    with pytest.raises(InvalidValueError, match="frozen"):
        CurriculaSettings.load("smoke").n_bits = 3


def test_preset_files_are_checked_too(presets):
    presets("odd", "distillation_curricula: {n_bits: 1}")
    with pytest.raises(InvalidValueError, match="n_bits = 1 is not allowed"):
        CurriculaSettings.load("odd")
    presets("odd", "distillation_curicula: {n_bits: 9}")
    with pytest.raises(UnknownNameError, match=r"section in preset odd.*Did you mean 'distillation_curricula'"):
        CurriculaSettings.load("odd")
    presets("odd", "- a list")
    with pytest.raises(MissingDataError, match="preset odd: expected one mapping"):
        CurriculaSettings.load("odd")
    presets("empty", "")
    assert CurriculaSettings.load("empty") == CurriculaSettings(preset="empty")


SPLIT = """
progressive_weight_loading: {batch_size: 32, teacher_epochs: 2, seeds: [4]}
progressive_weight_loading.resnet: {teacher_epochs: 9, stem_stride: 1}
progressive_weight_loading.vgg: {cross_passes: 3}
"""


def test_a_preset_lays_the_section_of_the_family_over_the_notebooks_own(presets):
    presets("odd", SPLIT)
    written = {"preset": "odd", "batch_size": 32, "teacher_epochs": 2, "seeds": (4,)}
    assert LoadingSettings.load("odd") == LoadingSettings(**written, cross_passes=3)  # vgg unless asked for
    resnet = written | {"family": "resnet", "teacher_epochs": 9, "stem_stride": 1}
    assert LoadingSettings.load("odd", family="resnet") == LoadingSettings(**resnet)
    assert LoadingSettings.load("odd", family="resnet", teacher_epochs=5).teacher_epochs == 5
    assert LoadingSettings.from_notebook({"preset": "odd", "family": "resnet"}) == LoadingSettings(**resnet)
    vit = LoadingSettings.load("odd", **VIT)  # no section of its own
    assert (vit.batch_size, vit.teacher_epochs, vit.cross_passes) == (32, 2, 2)


def test_a_preset_may_name_the_family_itself(presets):
    presets("odd", SPLIT.replace("seeds: [4]", "family: resnet"))
    assert LoadingSettings.load("odd").teacher_epochs == 9
    assert LoadingSettings.load("odd", family="vgg").cross_passes == 3


def test_the_presets_own_sizes_of_another_family_are_stock_too(presets):
    presets("odd", SPLIT)
    for family in ("vgg", "resnet"):
        assert LoadingSettings.load("odd", family=family).stock
        assert LoadingSettings.load("odd", family=family, device="cpu").stock
        assert not LoadingSettings.load("odd", family=family, pair_epochs=77).stock
    assert not LoadingSettings.load("odd", family="vgg", teacher_epochs=9, stem_stride=1).stock


@pytest.mark.parametrize(
    "section",
    ["progressive_weight_loading.renset", "progressive_weight_loading.", "distillation_curricula.vgg", "resnet"],
)
def test_a_section_of_no_notebook_or_no_family_is_refused(presets, section):
    presets("odd", f"{section}: {{teacher_epochs: 3}}")
    with pytest.raises(UnknownNameError, match=rf"section in preset odd: '{section}'.*weight_loading.resnet"):
        LoadingSettings.load("odd", family="resnet")


def test_what_stands_in_the_section_of_a_family_is_checked(presets):
    presets("odd", "progressive_weight_loading.vgg: {teacher_epoch: 3}")
    with pytest.raises(InvalidValueError, match=r"unknown parameter 'teacher_epoch'. Did you mean 'teacher_epochs'"):
        LoadingSettings.load("odd")


@pytest.mark.parametrize("section", SETTINGS)
def test_describe_has_a_whole_row_for_every_parameter(section):
    cls = SETTINGS[section]
    rows = {row["name"]: row for row in config.describe(cls, "smoke")}
    assert set(rows) == set(cls.model_fields)
    loaded = cls.load("smoke").model_dump()
    for name, row in rows.items():
        assert row["default"] == loaded[name]
        assert row["description"]
        assert row["range"] == config.allowed(cls, name)
        assert row["type"]
    assert rows["preset"]["range"] == "one of lesson, paper, smoke"


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def reversed_keys(value):
    if isinstance(value, dict):
        return {name: reversed_keys(value[name]) for name in reversed(value)}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


@settings(max_examples=30)
@given(value=st.dictionaries(st.text(max_size=3), plain, max_size=4))
def test_content_hash_does_not_go_by_the_order_of_keys_but_by_everything_else(value):
    assert content_hash(value) == content_hash(reversed_keys(value))
    assert content_hash(value) != content_hash(value | {"one more": 1})


def test_content_hash_of_configurations():
    one = MLPConfig(n_inputs=3, widths=(4, 5))
    assert content_hash({"m": one}) == content_hash({"m": one.model_dump(mode="json")})
    assert content_hash({"m": one}) != content_hash({"m": MLPConfig(n_inputs=3, widths=(5, 4))})
    with pytest.raises(TypeError, match="object cannot be part of a configuration hash"):
        content_hash({"m": object()})


def test_device(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv("PWL_LAB_DEVICE", raising=False)
    assert config.device() == config.device("cpu") == "cpu"
    with pytest.raises(InvalidValueError, match="device = 'cuda' is not allowed"):
        config.device("cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert config.device() == "cuda"
    monkeypatch.setenv("PWL_LAB_DEVICE", "cpu")
    assert config.device() == "cpu"
    assert config.device("cuda") == "cuda"


def test_a_device_that_the_environment_names_is_checked(monkeypatch):
    monkeypatch.setenv("PWL_LAB_DEVICE", "gpu")
    with pytest.raises(InvalidValueError, match="gpu"):
        config.device()


@pytest.mark.parametrize(
    ("name", "value"),
    [("n_bits", True), ("n_bits", "16"), ("threshold", True), ("seeds", [0, True]), ("interactive", 1), ("preset", 3)],
)
def test_a_value_of_another_kind_is_not_read_as_something_else(name, value):
    values = {"preset": "smoke"} | {name: value}
    with pytest.raises(InvalidValueError, match=name):
        CurriculaSettings.checked(values)
