"""What notebook 08 trains is kept: the same settings are found again, and any other setting is another entry."""

import pytest
from pandas.testing import assert_frame_equal

from pwl_lab.study.complexity import over_sizes, over_widths, two_phase_table
from pwl_lab.study.settings import ComplexitySettings
from pwl_lab.study.store import load_if_stored, only_stored

SMALL = {
    "seeds": [0, 1], "size_seeds": 2, "k_sparse": 2, "sizes": [6], "width_n_bits": 6, "widths": [4, 8], "teacher_width": 64,
    "teacher_max_steps": 600, "budget_steps": 600, "two_phase_bits": 6, "two_phase_k": 2, "two_phase_width": 8,
    "two_phase_label_samples": [40, 80], "two_phase_hidden_samples": [40], "two_phase_seeds": 2,
}  # fmt: skip
OTHER = {
    "seeds": [1, 0], "k_sparse": 3, "teacher_width": 65, "teacher_lr": 0.1, "teacher_momentum": 0.8, "teacher_batch_size": 64,
    "teacher_max_steps": 700, "student_lr": 0.1, "batch_size": 16, "stage_steps": 9, "budget_steps": 700, "threshold": 0.8,
}  # fmt: skip
OF_SIZES = {name: OTHER[name] for name in OTHER} | {"size_seeds": 1, "sizes": [7], "student_width": 9}
OF_WIDTHS = {name: OTHER[name] for name in OTHER if name != "k_sparse"} | {"width_n_bits": 7, "widths": [4, 9]}
OF_PHASES = {name: OTHER[name] for name in OTHER if name.startswith("teacher")} | {
    "eval_samples": 128, "two_phase_bits": 7, "two_phase_k": 3, "two_phase_width": 9, "two_phase_label_samples": [40, 81],
    "two_phase_hidden_samples": [41], "two_phase_seeds": 1, "seeds": [1, 0],
}  # fmt: skip
TABLES = [(over_sizes, OF_SIZES), (over_widths, OF_WIDTHS), (two_phase_table, OF_PHASES)]


def settings(**changed: object) -> ComplexitySettings:
    """The small settings, but for these."""
    return ComplexitySettings.load("smoke", **SMALL | changed)


@pytest.mark.parametrize(("table", "others"), TABLES, ids=[table.__name__ for table, _ in TABLES])
def test_a_table_is_made_once_and_again_for_any_other_setting(store_folder, table, others):
    made = table(settings())
    assert len(made)
    with only_stored():
        assert_frame_equal(table(settings()), made, check_exact=True)
    found = [name for name, value in others.items() if load_if_stored(table, settings(**{name: value})) is not None]
    assert found == []


def test_every_setting_of_the_notebook_belongs_to_a_table_or_to_no_result():
    named = {*OF_SIZES, *OF_WIDTHS, *OF_PHASES}
    assert set(ComplexitySettings.model_fields) - named == {"preset", "device", "interactive"}


@pytest.mark.filterwarnings("ignore:.*teachers did not learn")
def test_teachers_that_did_not_learn_are_named_each_time(store_folder):
    hopeless = settings(teacher_max_steps=1)
    for _ in range(2):
        with pytest.warns(UserWarning, match="2 teachers did not learn"):
            table = over_sizes(hopeless)
        assert not table["reached"].any()
        assert (table["steps"] == hopeless.budget_steps).all()
