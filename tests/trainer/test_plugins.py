"""What other packages offer: found by name, loaded when named, and never in a built-in's place."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints

import pytest
from tests.training_support import run, trainer

from edgedistill import plugins
from edgedistill.errors import SettingsError
from edgedistill.recipe import Stage

GROUP = "edgedistill.losses"


@pytest.fixture
def install(monkeypatch):
    """Stands for installed packages that offer losses as name = value."""

    def install(*offers):
        points = EntryPoints(EntryPoint(name, value, GROUP) for name, value in offers)
        monkeypatch.setattr(plugins, "entry_points", lambda group: points.select(group=group))

    return install


def test_an_offered_object_is_loaded_when_it_is_named(install):
    install(("root", "math:sqrt"), ("broken", "no_such_module:loss"))
    assert plugins.offered(GROUP, "loss", "root", ())(9) == 3


def test_a_name_that_nobody_offers_is_told_with_the_nearest(install):
    install(("contrastive", "math:sqrt"))
    for name, nearest in (("contrastiv", "contrastive"), ("soft_target", "soft_targets")):
        with pytest.raises(SettingsError) as caught:
            plugins.offered(GROUP, "loss", name, ("soft_targets",))
        assert f"no loss named {name!r}; did you mean {nearest!r}?" in str(caught.value)


def test_a_name_offered_twice_is_refused_with_both_packages(install):
    install(("mine", "one:loss"), ("mine", "two:loss"))
    with pytest.raises(SettingsError) as caught:
        plugins.offered(GROUP, "loss", "mine", ())
    assert str(caught.value) == (
        "the loss 'mine' is offered 2 times (one:loss, two:loss); "
        "uninstall all but one of the packages"
    )


def test_an_offer_that_cannot_be_loaded_is_one_sentence(install):
    install(("mine", "no_such_module:loss"))
    with pytest.raises(SettingsError) as caught:
        plugins.offered(GROUP, "loss", "mine", ())
    assert str(caught.value) == (
        "the loss 'mine' (no_such_module:loss) cannot be loaded: No module named 'no_such_module'"
    )


def quarter(student, teacher, temperature):
    return (student - teacher).pow(2).mean() / 4


def test_a_stage_takes_a_loss_of_another_package(install, tmp_path):
    install(("quarter", f"{__name__}:quarter"))
    stages = (Stage(name="answers", soft="quarter"),)
    offered = run(trainer(tmp_path / "offered", stages=stages))
    given = run(trainer(tmp_path / "given", stages=stages, own_losses={"quarter": quarter}))
    assert offered == given


def test_a_loss_that_is_built_in_or_given_cannot_be_replaced_by_a_package(install, tmp_path):
    install(("soft_targets", "no_such_module:loss"), ("mine", "no_such_module:loss"))
    stages = (Stage(name="one"), Stage(name="two", soft="mine"))
    trainer(tmp_path, stages=stages, own_losses={"mine": quarter})
