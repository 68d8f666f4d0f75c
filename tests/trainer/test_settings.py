"""TOML that people write: every mistake is told with its file, its key and what would be right."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from msgspec import Meta

from edgedistill import settings
from edgedistill.errors import EdgeDistillError, SettingsError


class Wheel(settings.Settings, frozen=True):
    diameter_mm: float = 20.0
    material: Literal["rubber", "steel"] = "rubber"

    def __post_init__(self) -> None:
        if not self.diameter_mm:
            raise ValueError("a wheel of 0 mm is none")


class Cart(settings.Settings, frozen=True):
    name: str
    load_kg: Annotated[float, Meta(gt=0)] | None = None
    size: Literal[1, 2] | None = None
    front: Wheel = Wheel()
    wheels: tuple[Wheel, ...] = ()
    spare: Wheel | None = None
    named: dict[str, Wheel] = {}  # noqa: RUF012, msgspec copies it

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a cart needs a name")


@pytest.fixture
def load(tmp_path):
    def load(text: str | bytes) -> Cart:
        file = tmp_path / "cart.toml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return settings.load(file, Cart)

    return load


@pytest.fixture
def refusal(load, tmp_path):
    """The sentence with which a text is refused, without the file's name."""

    def refusal(text: str | bytes) -> str:
        with pytest.raises(SettingsError) as caught:
            load(text)
        message, start = str(caught.value), f"{tmp_path / 'cart.toml'}: "
        assert message.startswith(start)
        assert "\n" not in message
        return message.removeprefix(start)

    return refusal


def test_a_file_is_read_and_what_it_leaves_out_has_its_default(load):
    cart = load('name = "a"\nwheels = [{ diameter_mm = 3 }, {}]\n[front]\nmaterial = "steel"')
    assert cart.front == Wheel(material="steel")
    assert cart.wheels == (Wheel(diameter_mm=3.0), Wheel())
    assert cart.load_kg is None


def test_what_was_read_cannot_be_changed(load):
    with pytest.raises(AttributeError):
        load('name = "a"').name = "b"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('nam = "a"', "unknown key 'nam'; did you mean 'name'?"),
        ('name = "a"\nzzz = 1', "unknown key 'zzz'"),
        (
            'name = "a"\n[front]\ndiameter = 3',
            "unknown key 'front.diameter'; did you mean 'front.diameter_mm'?",
        ),
        (
            'name = "a"\n[spare]\nmaterail = "steel"',
            "unknown key 'spare.materail'; did you mean 'spare.material'?",
        ),
        (
            'name = "a"\n[[wheels]]\n[[wheels]]\nmateriel = "steel"',
            "unknown key 'wheels[1].materiel'; did you mean 'wheels[1].material'?",
        ),
    ],
)
def test_a_misspelt_key_is_told_with_the_nearest_one(refusal, text, sentence):
    assert refusal(text) == sentence


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name = 3", "name is 3; expected str, got int"),
        ('name = "a"\nload_kg = "much"', "load_kg is 'much'; expected float | null, got str"),
        ('name = "a"\nload_kg = true', "load_kg is True; expected float | null, got bool"),
        ('name = "a"\nload_kg = -1', "load_kg is -1; expected float > 0.0"),
        ('name = "a"\nload_kg = nan', "load_kg is nan; expected float > 0.0"),
        ('name = "a"\nfront = 1', "front is 1; expected object, got int"),
        ('name = "a"\nsize = 3', "size is 3; expected one of: 1, 2"),
        (
            'name = "a"\n[front]\nmaterial = "wood"',
            "front.material is 'wood'; expected one of: rubber, steel",
        ),
        (
            'name = "a"\n[[wheels]]\n[[wheels]]\ndiameter_mm = "big"',
            "wheels[1].diameter_mm is 'big'; expected float, got str",
        ),
        ("load_kg = 3", "key 'name' is missing"),
    ],
)
def test_a_wrong_value_is_told_with_its_key_and_what_was_expected(refusal, text, sentence):
    assert refusal(text) == sentence


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[[wheels]]", "wheels[0].material is 'wood'; expected one of: rubber, steel"),
        ("[spare]", "spare.material is 'wood'; expected one of: rubber, steel"),
        ("[named.left]", "named[...].material: expected one of: rubber, steel"),
        ('[named."the.left"]', "named[...].material: expected one of: rubber, steel"),
    ],
)
def test_a_wrong_choice_is_told_with_the_right_ones_however_deep_it_stands(refusal, text, sentence):
    assert refusal(f'name = "a"\n{text}\nmaterial = "wood"') == sentence


def test_a_structs_own_refusal_is_told_in_its_own_words(refusal):
    assert refusal('name = ""') == "a cart needs a name"
    assert refusal('name = "a"\n[front]\ndiameter_mm = 0') == "front: a wheel of 0 mm is none"


def test_toml_that_is_none_is_told_with_its_place(refusal):
    assert refusal("name = ").startswith("not valid TOML: ")
    assert "line 2" in refusal('name = "a"\nname = = 3')


def test_a_key_that_stands_twice_is_refused(refusal):
    assert refusal('name = "a"\nname = "b"').startswith("not valid TOML: ")


def test_a_file_that_is_not_utf_8_is_told_so(refusal):
    assert refusal('name = "Käse"'.encode("latin-1")) == "not UTF-8 text; save it as UTF-8"


def test_a_missing_file_and_a_folder_are_told_by_name(tmp_path):
    for path, reason in ((tmp_path / "no.toml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(SettingsError, match=reason) as caught:
            settings.load(path, Cart)
        assert str(caught.value).startswith(f"{path}: cannot be read")


def test_a_settings_error_is_one_that_users_can_catch_and_means_cannot_run():
    assert issubclass(SettingsError, EdgeDistillError)
    assert SettingsError.exit_code == 2
