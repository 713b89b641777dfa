"""What the dashboard takes from the store: it reads, never trains, and names the command for what is not there."""

import json
import shlex
import socket

import pytest
from scored import scored_pair, some_predictions

from pwl_lab import distill, training, widgets
from pwl_lab.runner import dashboard
from pwl_lab.runner.parameters import parse_parameters, read_notebook, resolve_notebook, resolve_parameters
from pwl_lab.study import cases, crossing, recipes, store, stored_pairs, verbs
from pwl_lab.study.settings import DashboardSettings
from pwl_lab.support.errors import InvalidValueError, UnknownNameError

SETTINGS = DashboardSettings.load("smoke", device="cpu", seeds=(5,))


@pytest.fixture
def no_training(monkeypatch):
    """Whoever trains fails the test."""
    for place, name in (
        (verbs, "fit"),
        (verbs, "train_pairs_together"),
        (verbs, "distil_members"),
        (cases, "side_by_side"),
    ):
        monkeypatch.setattr(place, name, lambda *_, **__: pytest.fail("something was trained"))
    assert verbs.fit.__name__ == verbs.train_pairs_together.__name__ == "<lambda>"
    assert training.fit is not verbs.fit
    assert distill.students.distil_members is not verbs.distil_members


def test_an_empty_store_is_left_empty_and_every_command_is_named(store_folder, no_training):
    found, curricula = stored_pairs.stored_pairs(SETTINGS), stored_pairs.stored_curricula(SETTINGS)
    assert list(found.pairs) == list(found.samples) == [stored_pairs.SHIPPED], "the pair that ships"
    assert len(found.missing.commands) == 6  # three families of 04, three of 05
    assert list(curricula.commands) == ["students of notebook 02"]
    assert not store_folder.exists()


def test_the_commands_named_are_ones_that_run(store_folder):
    commands = {
        **stored_pairs.stored_pairs(SETTINGS).missing.commands,
        **stored_pairs.stored_curricula(SETTINGS).commands,
    }
    outs = []
    for command in commands.values():
        program, run, notebook, *options = shlex.split(command)
        assert (program, run) == (".venv/bin/pwl-lab", "run")
        named = dict(zip(options[::2], options[1::2], strict=True))
        given = parse_parameters([named["-p"]] if "-p" in named else [])
        assert resolve_parameters(read_notebook(resolve_notebook(notebook)), named["--preset"], given).preset == "smoke"
        outs.append(named["--out"])
    assert len(set(outs)) == len(outs)


def test_what_is_there_is_offered_and_the_rest_named(monkeypatch):
    pair = scored_pair()

    def only(*there):
        def recipe(sizes, seed, *which):
            assert seed == 5
            if (sizes.family, *which) not in there:
                raise store.NotMadeError
            return (None, pair) if not which else pair

        return recipe

    monkeypatch.setattr(recipes, "loading_pair", only(("vit",)))
    there = [("resnet", "none", "combined"), ("resnet", "one_shot", "followed")]
    monkeypatch.setattr(crossing, "crossed_pair", only(*there))
    for name in ("sample_predictions", "drawn_predictions"):
        monkeypatch.setattr(stored_pairs, name, lambda *_: some_predictions())
    found = stored_pairs.stored_pairs(SETTINGS)
    assert list(found.pairs) == [
        ("vit", "plain PWL (notebook 04)"),
        ("resnet", "plain PWL (notebook 05)"),
        ("resnet", "one-shot, then PWL (notebook 05)"),
    ]
    assert set(found.samples) == set(found.pairs)
    missing = [f"pairs of notebook {name}" for name in ("04, vgg", "04, resnet", "05, vgg", "05, vit")]
    assert list(found.missing.commands) == missing
    first = stored_pairs.stored_pairs(SETTINGS, at_most=1)
    assert list(first.pairs) == list(first.samples) == [("vit", "plain PWL (notebook 04)")]
    orders = {"prefix": ["SSS", "TSS", "TTS", "TTT"]}
    loader = widgets.layer_loader(found.pairs, found.samples, orders=orders)
    assert all(len(one["groups"]) == 2 for one in loader.data["pairs"])
    assert [one["name"] for one in loader.data["pairs"]] == [", ".join(label) for label in found.pairs]


def test_hints_are_text_and_not_markup():
    hint = stored_pairs.Missing({"a <b>": "make & run"})
    assert "<b>" not in hint._repr_html_()
    assert "make &amp; run" in hint._repr_html_()
    assert repr(hint) == "Not stored: a <b>. To make it, run: make & run"
    assert "Everything is stored" in stored_pairs.Missing()._repr_html_()


def test_the_servers_kernels_may_not_make_anything(store_folder, no_training, monkeypatch):
    for name, value in dashboard.environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(store.NotMadeError):
        recipes.loading_pairs(recipes.LoadingSettings.load("smoke", device="cpu", seeds=(0, 1)))
    assert not store_folder.exists()


def test_the_server_is_for_this_machine_and_behind_a_token(store_folder):
    with dashboard.prepared("smoke", port=9999) as folder:
        assert folder.is_relative_to(store_folder.parent)
        assert "preset = 'smoke'" in (folder / "dashboard.ipynb").read_text()
        options = json.loads((folder / "voila.json").read_text())
    assert options["Voila"]["ip"] == "127.0.0.1"
    assert options["Voila"]["auto_token"]
    assert options["VoilaExecutor"]["timeout"] > 0
    with pytest.raises(UnknownNameError, match="smoke"), dashboard.prepared("smok"):
        pass


def test_two_servers_leave_each_others_notebook_alone(store_folder):
    with dashboard.prepared("smoke") as first, dashboard.prepared("lesson", port=9999) as second:
        assert "preset = 'smoke'" in (first / "dashboard.ipynb").read_text()
        assert "preset = 'lesson'" in (second / "dashboard.ipynb").read_text()
        assert not (store_folder.parent / "dashboard").exists(), "a series may have that name"


def test_a_taken_port_is_said_and_nothing_is_started(store_folder):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(InvalidValueError, match=f"port = {port} .* free on this machine"):
            dashboard.serve("smoke", port)
    assert not store_folder.parent.exists()
    dashboard.refuse_taken(port)


def test_the_policy_names_the_servers_own_port_and_no_other_site():
    policy = dashboard.configuration(9999)["Voila"]["tornado_settings"]["headers"]["Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["connect-src"].split() == ["'self'", "ws://127.0.0.1:9999", "data:"]
    assert rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'self'"
    assert not any("*" in rule or "http" in rule for rule in rules.values())
