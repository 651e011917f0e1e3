"""What a stranger gets who installs the wheel: all of it works, or says what else to install."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.packaging.installed import FAULT, SPECTRAL, Installed, wait_until

MOST_MB = 230
"""What the base may add to an empty environment on the disk."""
MODULES = """
import importlib, json, pkgutil
import echo_stream
found = {}
for module in pkgutil.walk_packages(echo_stream.__path__, "echo_stream."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except Exception as error:
            found[module.name] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""
OF_EXTRAS = {
    "cli.plant_page": "web",
    "encode.echo_torch": "torch",
    "encode.runtime_torch": "torch",
    "encode.runtime_openvino": "echo",
    "fit.cluster": "cluster",
    "mqtt.signed": "plant",
    "cli.plant_transfer": "plant",
    "daemon.transfers": "plant",
    "web.access": "web",
    "web.api": "web",
    "web.app": "web",
    "web.asked": "web",
    "web.connections": "web",
    "web.plant": "web",
}
"""The modules that need an extra, which they name."""
WEIGHTS = """
from safetensors.numpy import save_file
from echo_stream.encode.echo import EchoWeights
save_file(dict(EchoWeights.random("tiny", seed=1).tensors), "model.safetensors")
"""
FIT = ("fit-normal", "--machine", "pump3", "--minutes", "3")
ECHO = "{kind: echo, size: tiny, weights: model.safetensors}"


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel alone, without extras."""
    installed = Installed(tmp_path_factory.mktemp("base"))
    installed.install(str(wheel))
    return installed


@pytest.fixture(scope="module")
def echo(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel with [echo], and made-up weights of ECHO tiny."""
    installed = Installed(tmp_path_factory.mktemp("echo"))
    installed.install(f"{wheel}[echo]")
    made = installed.python("-c", WEIGHTS)
    assert made.returncode == 0, made.stderr
    return installed


def has(installed: Installed, library: str) -> bool:
    return installed.python("-c", f"import {library}").returncode == 0


def listens_to_an_alarm(installed: Installed, encoder: str) -> None:
    """The whole way of a new user: check, learn, score, listen until a fault is an alarm, ask."""
    installed.configure(encoder)
    assert "no bank yet" in installed.command("check-config")
    assert "b1" in installed.command(*FIT)
    assert "* b1" in installed.command("bank", "list", "--machine", "pump3")
    (installed.work / "sound.py").write_text(SOUND, encoding="utf-8")
    assert installed.python("sound.py").returncode == 0
    scored = installed.command("score", "--machine", "pump3", "sound.wav").splitlines()
    assert len(scored) == 9  # windows of 2 s, one a second, of 10 s
    assert all(json.loads(line)["score"] > 0 for line in scored)
    installed.configure(encoder, pace="realtime", start_s=1000, fault=FAULT)
    with installed.daemon() as log:
        wait_until(
            lambda: installed.status().get("alarms", {}).get("alarm", {}).get("state") == "UNACK",
            180,
            lambda: f"no alarm: {installed.status()}\n{log.read_text(encoding='utf-8')}",
        )
        assert "pump3" in installed.command("status")


def names_the_extra(installed: Installed, command: tuple[str, ...], extra: str) -> None:
    done = installed.attempt(*command)
    assert done.returncode == 1, done
    assert f"pip install 'echo-stream[{extra}]'" in done.stderr, done
    assert "Traceback" not in done.stderr


SOUND = """
import numpy, soundfile
noise = numpy.random.default_rng(1).standard_normal(160_000) * 0.05
soundfile.write("sound.wav", noise, 16_000)
"""


@pytest.mark.timeout(900)
def test_the_base_is_small(base: Installed) -> None:
    print(f"base: {base.added_mb:.0f} MB beside {base.empty_mb:.0f} MB of venv, {base.install_s:.0f} s")
    assert base.added_mb <= MOST_MB
    assert not has(base, "torch")
    assert not has(base, "openvino")
    assert not has(base, "scipy")


def test_the_base_has_what_is_no_python(base: Installed) -> None:
    files = base.python("-c", "import echo_stream, pathlib; print(pathlib.Path(echo_stream.__file__).parent)")
    package = Path(files.stdout.strip())
    assert package.is_relative_to(base.venv)
    assert list(package.rglob("*.service"))
    assert (package / "py.typed").exists()


@pytest.mark.parametrize("command", [(), ("fit-normal",), ("bank",), ("mqtt",), ("bench",)])
def test_the_base_answers_help(base: Installed, command: tuple[str, ...]) -> None:
    assert "Usage:" in base.command(*command, "--help")


@pytest.mark.timeout(900)
def test_the_base_listens_to_an_alarm(base: Installed) -> None:
    listens_to_an_alarm(base, SPECTRAL)


def test_every_module_is_in_the_base_or_of_an_extra(base: Installed) -> None:
    done = base.python("-c", MODULES)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {module: said.split()[0] for module, said in found.items()} == {
        f"echo_stream.{module}": "MissingExtra:" for module in OF_EXTRAS
    }
    for module, extra in OF_EXTRAS.items():
        assert f"pip install 'echo-stream[{extra}]'" in found[f"echo_stream.{module}"]


@pytest.mark.parametrize("command", [("fetch-model", "echo-tiny"), FIT, ("run",)])
def test_the_base_names_the_extra_of_echo(base: Installed, command: tuple[str, ...]) -> None:
    base.configure(ECHO)
    made = base.python("-c", WEIGHTS)
    assert made.returncode == 0, made.stderr
    names_the_extra(base, command, "echo")


def test_echo_names_the_extra_of_torch(echo: Installed) -> None:
    echo.configure(ECHO.replace("}", ", runtime: torch}"))
    names_the_extra(echo, FIT, "torch")


@pytest.mark.timeout(900)
def test_echo_without_torch_listens_to_an_alarm(echo: Installed) -> None:
    print(f"[echo]: {echo.added_mb:.0f} MB beside {echo.empty_mb:.0f} MB of venv, {echo.install_s:.0f} s")
    assert has(echo, "openvino")
    assert not has(echo, "torch")
    listens_to_an_alarm(echo, ECHO)
