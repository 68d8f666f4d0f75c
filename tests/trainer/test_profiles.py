"""Device profiles: what is built in, what a file may say, and what each mistake is told."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from edgedistill import profiles
from edgedistill.errors import SettingsError
from edgedistill.profiles import DeviceProfile

BUILT_IN = [
    "beaglebone-black",
    "beagleplay",
    "coral-dev",
    "host",
    "imx8mp",
    "jetson-nano",
    "n100",
    "orangepi-zero-2",
    "orin-nano",
    "rk3566",
    "rk3588",
    "rpi-cm4",
    "rpi-zero-2w",
    "rpi3b-plus",
    "rpi4",
    "rpi5",
    "stm32mp157",
]

GOOD = """
[board]
name = "A board"
soc = "SoC"
arch = "aarch64"
flags = ["fp", "asimd"]
models = ["Maker Board"]

[[cluster]]
core = "Cortex-A53"
count = 4
mhz = 1000

[memory]
total_mib = 1000
available_mib = 800

[[os]]
name = "Old OS"
arch = "armv7l"
note = "no wheels"

[[os]]
name = "Debian 12"
arch = "aarch64"
python = "3.11"
glibc = "2.36"
engines = [{ name = "onnxruntime", version = "1.32.0" }]

[power]
idle_w = 2
load_w = 5.5

[budget]
latency_ms = 20
peak_ram_mib = 128

[[published]]
engine = "ncnn"
model = "resnet-18"
precision = "int8"
threads = 4
latency_ms = 82.0
source = "a table"

[sources]
cluster.count = "a data sheet"
cluster.0.mhz = "a measurement"
memory.total_mib = "free -m"
memory.available_mib = "free -m"
power.idle_w = "a meter"
power.load_w = "a meter"
"""

RATES = """
[[rates]]
engine = "onnxruntime"
versions = "{versions}"
threads = {threads}
precision = "{precision}"
date = 2026-11-24
file = "{file}"
sha256 = "{sha256}"
"""


def rates(
    versions: str = ">=1.24,<2",
    threads: int = 1,
    precision: str = "float32",
    file: str = "board/rates.json",
    sha256: str = "0" * 64,
) -> str:
    return RATES.format(**locals())


@pytest.fixture(autouse=True)
def config_home(tmp_path, monkeypatch):
    """A user without profiles of their own, unless a test writes some."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config"


@pytest.fixture
def load(tmp_path):
    def load(text: str, name: str = "board.toml") -> DeviceProfile:
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return DeviceProfile.load(file)

    return load


@pytest.fixture
def refusal(load, tmp_path):
    """The sentence with which a changed profile is refused, without the file's name."""

    def refusal(old: str, new: str, text: str = GOOD) -> str:
        assert old in text
        with pytest.raises(SettingsError) as caught:
            load(text.replace(old, new, 1))
        message = str(caught.value)
        start = f"{tmp_path / 'board.toml'}: "
        assert message.startswith(start)
        assert "\n" not in message
        return message.removeprefix(start)

    return refusal


def write_own(config_home: Path, name: str, text: str = GOOD) -> Path:
    folder = config_home / "edgedistill" / "profiles"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder / f"{name}.toml"


# Built-in profiles


def test_the_built_in_profiles_are_these():
    assert profiles.names() == BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_profile_loads_and_is_named_by_its_file(name):
    profile = DeviceProfile.load(name)
    assert profile.name == name
    assert Path(profile.path).name == f"{name}.toml"
    assert profile.isa
    assert profile.budget.latency_ms
    assert profile.budget.peak_ram_mib
    assert profile.budget.percentile == 95


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_number_of_a_built_in_profile_has_a_source(name):
    profile = DeviceProfile.load(name)
    text = Path(profile.path).read_text(encoding="utf-8")
    numbers = []

    def collect(value, path):
        if isinstance(value, dict):
            for key, below in value.items():
                collect(below, [*path, key])
        elif isinstance(value, list):
            for place, below in enumerate(value):
                collect(below, [*path, str(place)])
        elif isinstance(value, int | float):
            numbers.append(".".join(path))

    for table, value in tomllib.loads(text).items():
        if table not in ("budget", "published", "rates"):
            collect(value, [table])
    assert [path for path in numbers if not profile.source(path)] == []
    assert all(row.source for row in profile.published)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_system_without_an_engine_says_why(name):
    for system in DeviceProfile.load(name).os:
        assert system.engines or len(system.note) > 20


@pytest.mark.parametrize("name", [name for name in BUILT_IN if name != "host"])
def test_no_beginning_of_a_model_belongs_to_two_boards(name):
    mine = DeviceProfile.load(name).board.models
    for other in BUILT_IN:
        if other != name:
            theirs = DeviceProfile.load(other)
            assert not [model for model in mine if theirs.is_board(model)]


@pytest.mark.parametrize(
    ("name", "isa"),
    [
        ("beaglebone-black", "armv7-neon"),
        ("stm32mp157", "armv7-neon-vfpv4"),
        ("rpi-zero-2w", "armv8.0"),
        ("rpi4", "armv8.0"),
        ("rpi5", "armv8.2-dotprod"),
        ("rk3566", "armv8.2-dotprod"),
        ("n100", "x86-64-avx2"),
    ],
)
def test_the_instruction_set_class_follows_from_architecture_and_flags(name, isa):
    assert DeviceProfile.load(name).isa == isa


@pytest.mark.parametrize(
    ("name", "backend", "engine", "arch"),
    [
        ("rpi4", "onnx", "onnxruntime", "aarch64"),
        ("rpi4", "tflite", "ai-edge-litert", "aarch64"),
        ("n100", "onnx", "onnxruntime", "x86_64"),
        ("stm32mp157", "tflite", "tflite-runtime", "armv7l"),
    ],
)
def test_a_board_gets_the_engine_of_its_first_system_that_has_one(name, backend, engine, arch):
    choice = DeviceProfile.load(name).engine(backend)
    assert choice is not None
    assert (choice.name, choice.os.arch) == (engine, arch)
    assert {"name": choice.name, "version": choice.version} in msgspec.to_builtins(
        choice.os.engines
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("jetson-nano", "Python 3.6"),
        ("coral-dev", "Python 3.7"),
        ("beaglebone-black", "VFPv4"),
    ],
)
def test_a_board_without_any_engine_says_why(name, reason):
    profile = DeviceProfile.load(name)
    assert profile.engine("onnx") is None
    assert profile.engine("tflite") is None
    assert reason in profile.why_no_engine()


def test_a_32_bit_board_has_no_onnx_engine():
    assert DeviceProfile.load("stm32mp157").engine("onnx") is None


def test_a_raspberry_pi_with_32_bit_trixie_has_no_engine_and_says_why():
    reason = DeviceProfile.load("rpi4").why_no_engine()
    assert "Trixie" in reason
    assert "Python 3.13" in reason


def test_a_board_is_known_by_the_beginning_of_its_device_tree_model():
    profile = DeviceProfile.load("rpi4")
    assert profile.is_board("Raspberry Pi 4 Model B Rev 1.4")
    assert not profile.is_board("Raspberry Pi 5 Model B Rev 1.0")
    assert not DeviceProfile.load("n100").is_board("")


def test_host_is_this_machine():
    profile = DeviceProfile.load("host")
    assert profile.board.arch in ("aarch64", "armv7l", "x86_64")
    assert profile.os[0].arch == profile.board.arch
    assert profile.cores is None
    assert profile.memory.total_mib is None


def test_host_on_a_machine_of_another_kind_is_refused(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(SettingsError, match=r"host\.toml: no architecture named 'riscv64'"):
        DeviceProfile.load("host")


# What a profile says


def test_a_good_profile_is_read_whole(load):
    profile = load(GOOD)
    assert profile.name == "board"
    assert profile.cores == 4
    assert profile.memory.available_mib == 800
    assert profile.os[1].engines[0].version == "1.32.0"
    assert profile.power.idle_w == 2
    assert (profile.budget.latency_ms, profile.budget.percentile, profile.budget.threads) == (
        20,
        95,
        1,
    )
    assert profile.published[0].latency_ms == 82
    assert profile.rates == ()


def test_a_source_may_stand_for_one_cluster_or_for_all(load):
    profile = load(GOOD)
    assert profile.source("cluster.0.mhz") == "a measurement"
    assert profile.source("cluster.0.count") == "a data sheet"
    assert profile.source("cluster.0.l2_kib") is None


def test_a_source_may_be_written_as_a_quoted_path(load):
    text = GOOD.replace("memory.total_mib =", '"memory.total_mib" =')
    assert load(text).source("memory.total_mib") == "free -m"


def test_a_board_of_32_bits_may_lie_in_a_64_bit_one_but_not_the_reverse(refusal):
    message = refusal('arch = "aarch64"', 'arch = "armv7l"')
    assert message == (
        "os 'Debian 12': arch 'aarch64' does not run on board.arch 'armv7l' (it runs armv7l)"
    )


def test_the_preferred_engine_wins_within_a_system(load):
    engines = (
        '{ name = "tflite-runtime", version = "2.14.0" }, '
        '{ name = "ai-edge-litert", version = "2.3.0" }'
    )
    profile = load(GOOD.replace('{ name = "onnxruntime", version = "1.32.0" }', engines))
    choice = profile.engine("tflite")
    assert choice is not None
    assert (choice.os.name, choice.name, choice.version) == ("Debian 12", "ai-edge-litert", "2.3.0")
    assert profile.engine("onnx") is None


def test_an_unknown_backend_is_refused(load):
    with pytest.raises(SettingsError, match="no backend named 'onxx'; did you mean 'onnx'"):
        load(GOOD).engine("onxx")


# Rates


@pytest.mark.parametrize(
    ("versions", "version", "found"),
    [
        (">=1.24,<2", "1.24", True),
        (">=1.24,<2", "1.24.0", True),
        (">=1.24,<2", "1.32.1", True),
        (">=1.24,<2", "1.3", False),
        (">=1.24,<2", "2", False),
        (">=1.24,<2", "2.0.0", False),
        ("<1.10", "1.9.9", True),
        ("==1.32.0", "1.32", True),
        ("==1.32.0", "1.32.0.1", False),
        (">=1.24", "1.33.0rc1", False),
        (">=1.24", "1.32.0+cpu", False),
    ],
)
def test_rates_hold_for_the_versions_of_their_range(load, versions, version, found):
    profile = load(GOOD + rates(versions=versions))
    row = profile.rates_for("onnxruntime", version, threads=1, precision="float32")
    assert (row is not None) is found


@pytest.mark.parametrize(
    ("engine", "threads", "precision"),
    [
        ("ai-edge-litert", 1, "float32"),
        ("onnxruntime", 2, "float32"),
        ("onnxruntime", 1, "int8"),
    ],
)
def test_rates_of_another_engine_threads_or_precision_do_not_count(
    load, engine, threads, precision
):
    profile = load(GOOD + rates())
    assert profile.rates_for(engine, "1.32.0", threads, precision) is None


def test_the_matching_rates_are_found_among_several(load):
    profile = load(
        GOOD
        + rates(versions="<1.30", file="old.json")
        + rates(versions=">=1.30", file="new.json")
        + rates(versions=">=1.30", file="new8.json", precision="int8")
    )
    row = profile.rates_for("onnxruntime", "1.32.0", 1, "float32")
    assert row is not None
    assert row.file == "new.json"
    assert row.date.year == 2026


def test_rates_for_overlapping_versions_are_refused(refusal):
    message = refusal(
        'versions = "<2"',
        'versions = ">=1.30"',
        text=GOOD + rates() + rates(versions="<2"),
    )
    assert message.startswith("rates: onnxruntime, 1 threads, float32 stands twice for versions")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (">=1.24,<2", "~=1.24", "is not a range such as"),
        (">=1.24,<2", ">=2,<1.24", "holds no version"),
        ("board/rates.json", "../rates.json", "must lie beside the profile"),
        ("board/rates.json", "/srv/rates.json", "must lie beside the profile"),
        ("0" * 64, "0" * 63, "is not 64 hexadecimal digits"),
        ("2026-11-24", '"yesterday"', "rates[0].date: "),
        ("float32", "fp32", "no precision named 'fp32'"),
        ('"onnxruntime"\nversions', '"onxruntime"\nversions', "did you mean 'onnxruntime'"),
    ],
)
def test_rates_of_the_wrong_shape_are_refused(refusal, old, new, sentence):
    assert sentence in refusal(old, new, text=GOOD + rates())


# Mistakes in a file


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("memory.total_mib", "memory.copy_mb_s", "memory.total_mib has no source; add one"),
        ('cluster.0.mhz = "a measurement"\n', "", "cluster.0.mhz has no source"),
        (
            'cluster.0.mhz = "a measurement"',
            'cluster.0.mhz = "a measurement"\nboard.throttle_c = "a guess"',
            "sources: there is no number 'board.throttle_c' in the file",
        ),
        (
            "cluster.count",
            'power.load = "a meter"\ncluster.count',
            "there is no number 'power.load' in the file; did you mean 'power.load_w'?",
        ),
        ('power.idle_w = "a meter"', "power.idle_w = 3", "sources.power.idle_w must be a text"),
        ('power.idle_w = "a meter"', 'power.idle_w = " "', "sources.power.idle_w must be a text"),
        ("cluster.count =", 'board.name = "x"\ncluster.count =', "no number 'board.name'"),
    ],
)
def test_every_number_has_a_source_and_every_source_a_number(refusal, old, new, sentence):
    assert sentence in refusal(old, new)


@pytest.mark.parametrize("value", ["0", "-5", "2.5", '"1000"', "true"])
def test_a_size_that_is_no_positive_whole_number_is_refused(refusal, value):
    message = refusal("total_mib = 1000", f"total_mib = {value}")
    assert message.startswith("memory.total_mib is ")


@pytest.mark.parametrize("value", ["0", "-1.5", "nan", "inf"])
def test_an_amount_that_is_not_positive_and_finite_is_refused(refusal, value):
    assert refusal("load_w = 5.5", f"load_w = {value}").startswith("power.load_w is ")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("available_mib = 800", "available_mib = 1001", "memory.available_mib (1001) is more than"),
        ("peak_ram_mib = 128", "peak_ram_mib = 801", "budget.peak_ram_mib (801) is more than"),
        ("latency_ms = 20", "threads = 5", "budget.threads (5) is more than the board's cores"),
        ("idle_w = 2", "idle_w = 6", "power.idle_w (6) is more than power.load_w (5.5)"),
        ("latency_ms = 20", "percentile = 90", "percentile must be 50, 95 or 99, not 90"),
        ("latency_ms = 20", "min_retention = 1.5", "budget.min_retention is "),
        ('name = "Debian 12"', 'name = "Old OS"', "two systems have the same name"),
        ('note = "no wheels"\n', "", "'Old OS' has no engine; add a 'note' that says why"),
        (
            '{ name = "onnxruntime", version = "1.32.0" }',
            '{ name = "onnxruntime", version = "1" }, { name = "onnxruntime", version = "2" }',
            "engines names one engine twice",
        ),
    ],
)
def test_fields_that_contradict_each_other_are_refused(refusal, old, new, sentence):
    assert sentence in refusal(old, new)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("total_mib = 1000", "totl_mib = 1000", "did you mean 'memory.total_mib'?"),
        (
            "mhz = 1000",
            "mzh = 1000",
            "unknown key 'cluster[0].mzh'; did you mean 'cluster[0].mhz'?",
        ),
        ("version =", "versoin =", "did you mean 'os[1].engines[0].version'?"),
        ("[power]", "[powr]", "unknown key 'powr'; did you mean 'power'?"),
        ('soc = "SoC"\n', "", "key 'board.soc' is missing"),
        ('name = "A board"', 'name = ""', "board.name is "),
        ('name = "onnxruntime"', 'name = "onnx-runtime"', "did you mean 'onnxruntime'?"),
        ('arch = "aarch64"', 'arch = "arm64"', "no architecture named 'arm64'"),
        ('version = "1.32.0"', 'version = ">=1.32"', "os[1].engines[0]: version '>=1.32' must be"),
        ('python = "3.11"', 'python = "three"', "os[1]: python 'three' must be numbers with dots"),
        ('precision = "int8"', 'precision = "int9"', "no precision named 'int9'"),
        ('source = "a table"\n', "", "key 'published[0].source' is missing"),
        ("\n[board]", 'name = "x"\n[board]', "unknown key 'name'; a profile is named by its file"),
        ("\n[board]", "os = []\n[board]", "not valid TOML"),
    ],
)
def test_misspelt_and_missing_keys_are_refused(refusal, old, new, sentence):
    assert sentence in refusal(old, new)


def test_a_profile_without_a_system_is_refused(load):
    text = re.sub(r"\[\[os\]\].*?(?=\[power\])", "", GOOD, flags=re.DOTALL)
    with pytest.raises(SettingsError, match="key 'os' is missing"):
        load(text)
    with pytest.raises(SettingsError, match=r"os is \[\]; expected"):
        load("os = []\n" + text)


def test_a_file_name_that_could_not_stand_in_a_manifest_is_refused(load):
    with pytest.raises(SettingsError, match="may have only a-z"):
        load(GOOD, name="My Board.toml")


# Where profiles are found


def test_an_unknown_name_is_told_the_nearest_and_all_known_ones():
    with pytest.raises(SettingsError) as caught:
        DeviceProfile.load("rpi44")
    message = str(caught.value)
    assert message.startswith("no device profile named 'rpi44'; did you mean 'rpi4'? (known: ")
    assert all(name in message for name in BUILT_IN)


def test_a_missing_file_is_refused_by_its_path(tmp_path):
    with pytest.raises(SettingsError, match=r"none\.toml: cannot be read \(No such file"):
        DeviceProfile.load(str(tmp_path / "none.toml"))


def test_a_name_with_a_separator_or_the_ending_is_a_path(tmp_path, monkeypatch):
    (tmp_path / "mine.toml").write_text(GOOD, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert DeviceProfile.load("mine.toml").name == "mine"
    assert DeviceProfile.load("./mine.toml").name == "mine"


def test_a_users_own_profile_is_found_by_name(config_home):
    path = write_own(config_home, "my-board")
    assert profiles.user_folder() == path.parent
    assert "my-board" in profiles.names()
    assert DeviceProfile.load("my-board").path == str(path)
    with pytest.raises(SettingsError, match="did you mean 'my-board'"):
        DeviceProfile.load("my-bord")


def test_without_xdg_config_home_profiles_lie_below_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert profiles.user_folder() == tmp_path / ".config" / "edgedistill" / "profiles"


def test_a_users_profile_cannot_hide_a_built_in_one(config_home):
    path = write_own(config_home, "rpi4")
    message = f"{path}: hides the built-in profile 'rpi4'; give the file another name"
    with pytest.raises(SettingsError, match=re.escape(message)):
        DeviceProfile.load("rpi4")
    with pytest.raises(SettingsError, match=re.escape(message)):
        profiles.names()
    assert DeviceProfile.load("rpi5").name == "rpi5"


def test_the_example_in_the_documentation_is_a_good_profile(load):
    page = Path(__file__).parents[2] / "docs" / "adding-a-board.md"
    example = re.search(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    profile = load(example[1])
    assert profile.engine("onnx") is not None
    assert "Python 3.13" in profile.why_no_engine()


def test_the_module_is_light():
    code = (
        "import sys; from edgedistill.profiles import DeviceProfile; DeviceProfile.load('rpi4');"
        "print([m for m in ('torch', 'numpy', 'onnx', 'onnxruntime') if m in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "[]"
