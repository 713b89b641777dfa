"""Any transformer of Hugging Face whose layers are given the state and nothing else; what others are told."""

import pytest
import torch
from bundles import expected
from opened_elsewhere import answers_elsewhere
from toys import ToyImages, ToyStrings

from pwl_lab.loading.bundle import check_folder
from pwl_lab.models import BlockNet
from pwl_lab.study.verbs import train_or_load, train_pair
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.support.rows import evaluating
from pwl_lab.swap.masks import all_masks
from pwl_lab.training import TrainPlan

transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
from hf_networks import LENGTH, MASKED, TOKENS, VISION, HFMasked, HFVision, layers_of, made, sizes  # noqa: E402

PLAN = TrainPlan(steps=4, batch_size=8, eval_every=2, optimiser="adam", lr=0.01)
TASKS = {HFVision: ToyImages(size=8), HFMasked: ToyStrings()}
# Four patches and the class token; DeiT has a second such token.
POSITIONS = {"vit": 5, "deit": 6, "dinov2": 5} | dict.fromkeys(MASKED, LENGTH)


@pytest.mark.parametrize(
    ("config", "kind"), [(HFVision, kind) for kind in VISION] + [(HFMasked, kind) for kind in MASKED]
)
def test_every_kind_is_cut_at_its_layers_and_learns(config, kind):
    net, task = config(kind=kind, width=8).make(), TASKS[config]
    assert net.state_shapes(task.input_shape) == [(8, POSITIONS[kind])] * 3
    with evaluating(net):
        states, logits = net.hidden_states(task.split("test").inputs)
    assert logits.shape[-1] == 3
    logits.sum().backward()
    for block in net.blocks:
        assert all(parameter.grad is not None for parameter in block.parameters())
    assert not torch.equal(states[0], states[-1])


@pytest.mark.usefixtures("store_folder")
@pytest.mark.parametrize(("config", "teacher", "student"), [(HFVision, "dinov2", "vit"), (HFMasked, "roberta", "bert")])
def test_every_mask_of_a_pair_answers_the_same_in_another_process(config, teacher, student, tmp_path):
    task = TASKS[config]
    trained = train_or_load(config(kind=teacher, width=8), task, PLAN, device="cpu")
    pair = train_pair(trained, config(kind=student, width=4), task, PLAN, device="cpu", to_export=True)
    assert set(pair.masks["mask"]) == set(all_masks(3))
    index = pair.export(tmp_path / "bundle")
    assert check_folder(tmp_path / "bundle") == index
    assert index.modules == {config.model_fields["family"].default: "hf_networks"}
    inputs = task.split("test").inputs
    found, wanted = answers_elsewhere(tmp_path / "bundle", inputs), expected(pair.net, inputs)
    for mask, logits in (wanted | {"predicted": wanted["TTT"]}).items():
        assert torch.equal(found[mask], logits), mask


def test_layers_that_are_given_more_than_the_state_are_refused():
    special = dict.fromkeys(["eos_token_id", "bos_token_id", "cls_token_id", "sep_token_id"])
    net = made("ModernBert", "MaskedLM", **sizes(8), vocab_size=TOKENS, pad_token_id=4, **special)
    head = ["model.final_norm", "head", "decoder"]
    with pytest.raises(InvalidValueError, match=r"model\.rotary_emb is not among the parts"):
        BlockNet.of(
            net, (LENGTH,), stem="model.embeddings", blocks=layers_of(net), head=head, channels="last", n_tokens=TOKENS
        )


@pytest.mark.parametrize(("times", "words"), [(1, "runs more than once"), (3, "each submodule once")])
def test_layers_that_share_one_module_are_refused(times, words):
    net = made("Albert", "MaskedLM", **sizes(8), vocab_size=TOKENS, embedding_size=8)
    stem = ["albert.embeddings", "albert.encoder.embedding_hidden_mapping_in"]
    layers = ["albert.encoder.albert_layer_groups.0"] * times
    with pytest.raises(InvalidValueError, match=rf"albert_layer_groups\.0.*{words}"):
        BlockNet.of(net, (LENGTH,), stem=stem, blocks=layers, head="predictions", channels="last", n_tokens=TOKENS)
