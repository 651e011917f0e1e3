"""The Debian package on a real dpkg and systemd, in a container: from its installation to its purge."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.installed import REPOSITORY
from tests.support.container import Container, missing, wait_until

CONFIG = "/etc/echo-stream/config.yaml"
BANKS = "/var/lib/echo-stream/banks"
MACHINE = f"""\
node: pc7
state_dir: /var/lib/echo-stream
mqtt: {{host: 127.0.0.1, port: 1}}
machines:
  - id: pump3
    source: {{kind: simulated, seed: 3, pace: PACE}}
    bank: {BANKS}/pump3.safetensors
"""
LEFT = "find / /usr /run /var/lib/dpkg -xdev -name '*echo-stream*' -not -path '/var/log/*'"


class DebianPc(Container):
    """A PC with all packages of this one: its /usr and its package database, on which it may write."""

    def __init__(self, root: Path, packages: Path) -> None:
        super().__init__(root)
        self._packages = packages
        shutil.rmtree(root / "opt")
        for name in ("opt", "packages", "var/lib/dpkg"):
            (root / name).mkdir()

    def dpkg(self, *words: str) -> str:
        """Nobody is there to answer a question: standard input is closed."""
        # Not synced to the disk after each file, which this container does not outlive.
        return self.run("sh", "-c", f"dpkg --force-unsafe-io {' '.join(words)} </dev/null", timeout_s=120)

    def _mounts(self) -> list[str]:
        # An empty upper layer is a folder that systemd-nspawn makes and removes again.
        layers = [f"--overlay={folder}::{folder}" for folder in ("/usr", "/var/lib/dpkg")]
        return [*layers, f"--bind-ro={self._packages}:/packages"]


@pytest.fixture(scope="module")
def packages(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with old.deb and new.deb: the package of this checkout, and a later version of it."""
    if why := missing():
        pytest.skip(f"DEBIAN PACKAGE NOT TESTED: {why}")
    if shutil.which("dh") is None:
        pytest.skip("DEBIAN PACKAGE NOT TESTED: there is no debhelper (apt-get install debhelper)")
    folder = tmp_path_factory.mktemp("packages")
    build = [str(REPOSITORY / "scripts" / "build-deb"), "--wheel", str(wheel), "--extras", ""]
    build += ["--version", "1.0", "--into", str(folder)]
    quick = {**os.environ, "DEB_COMPRESSION": "none"}
    subprocess.run(build, check=True, capture_output=True, timeout=400, env=quick)
    (old,) = folder.glob("*.deb")
    old.rename(folder / "old.deb")
    tree = folder / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", str(folder / "old.deb"), str(tree)], check=True)
    control = tree / "DEBIAN" / "control"
    control.write_text(control.read_text().replace("Version: 1.0\n", "Version: 1.1\n"))
    (example,) = tree.rglob("config.example.yaml")  # a new example must not touch what somebody wrote
    example.write_text(example.read_text() + "# A later version has more to say.\n")
    pack = ["dpkg-deb", "-Znone", "--root-owner-group", "--build", str(tree), str(folder / "new.deb")]
    subprocess.run(pack, check=True, capture_output=True)
    shutil.rmtree(tree)
    return folder


@pytest.fixture
def computer(packages: Path, tmp_path: Path) -> Iterator[DebianPc]:
    pc = DebianPc(tmp_path / "root", packages)
    try:
        pc.boot()
        # Images of containers forbid packages to start services; a PC does not.
        pc.run("rm", "-f", "/usr/sbin/policy-rc.d")
        yield pc
    finally:
        pc.shut_down()


def status(pc: DebianPc) -> dict[str, object]:
    done = pc.attempt("echo-stream", "status", "--json")
    found: dict[str, object] = json.loads(done.stdout)["machines"][0] if done.returncode == 0 else {}
    return found


def is_installed_and_waits(pc: DebianPc) -> None:
    pc.dpkg("--install", "/packages/old.deb")
    assert "audio" in pc.run("id", "--groups", "--name", "echo-stream")
    assert pc.run("stat", "--format=%a %U", CONFIG, "/etc/echo-stream/mqtt-password", BANKS).splitlines() == [
        "644 root",
        "600 root",
        "750 echo-stream",
    ]
    pc.run("echo-stream", "check-config")
    for unit in ("echo-stream.service", "echo-stream.path"):
        assert pc.run("systemctl", "is-enabled", unit).strip() == "enabled"
    assert pc.property("ActiveState") == "inactive"
    assert pc.property("ConditionResult") == "no"  # it was tried, and there is no bank
    assert pc.property("ActiveState", "echo-stream.path") == "active"


def starts_by_itself_once_it_is_fitted(pc: DebianPc) -> None:
    (pc.root / CONFIG[1:]).write_text(MACHINE.replace("PACE", "realtime"))
    (pc.root / "etc/fit.yaml").write_text(MACHINE.replace("PACE", "fast"))
    fit = ("echo-stream", "fit-normal", "--config", "/etc/fit.yaml", "--machine", "pump3", "--minutes", "2")
    pc.run("runuser", "-u", "echo-stream", "--", *fit, timeout_s=120)
    wait_until(lambda: status(pc).get("windows_scored", 0) != 0, 60, lambda: str(pc.journal()))
    assert pc.property("User") == "echo-stream"


def is_upgraded_with_all_that_it_has(pc: DebianPc) -> None:
    before = pc.run("sh", "-c", f"sha256sum {CONFIG} {BANKS}/pump3.safetensors")
    pid = pc.property("MainPID")
    pc.dpkg("--install", "/packages/new.deb")
    assert pc.run("dpkg-query", "--show", "--showformat=${Version} ${Status}", "echo-stream") == (
        "1.1 install ok installed"
    )
    assert pc.run("sh", "-c", f"sha256sum {CONFIG} {BANKS}/pump3.safetensors") == before
    wait_until(lambda: status(pc).get("windows_scored", 0) != 0, 60, lambda: str(pc.journal()))
    assert pc.property("MainPID") != pid
    assert pc.property("NRestarts") == "0"


def stays_down_when_it_is_stopped(pc: DebianPc) -> None:
    pc.run("systemctl", "stop", "echo-stream")
    pc.run("systemctl", "restart", "echo-stream.path")  # looks at the folder anew
    wait_until(lambda: "echo-stream" not in pc.run("systemctl", "list-jobs"), 20, "there are still jobs")
    assert pc.property("ActiveState") == "inactive"
    pc.run("systemctl", "start", "echo-stream")


def is_removed_and_keeps_what_is_yours(pc: DebianPc) -> None:
    pc.dpkg("--remove", "echo-stream")
    assert not (pc.root / "opt/echo-stream").exists()
    assert pc.attempt("systemctl", "is-active", "echo-stream").returncode != 0
    assert (pc.root / CONFIG[1:]).read_text() == MACHINE.replace("PACE", "realtime")
    assert list((pc.root / BANKS[1:]).glob("*.safetensors"))


def is_purged_without_a_trace(pc: DebianPc) -> None:
    pc.dpkg("--purge", "echo-stream")
    assert pc.run("sh", "-c", LEFT) == ""
    assert pc.attempt("id", "echo-stream").returncode != 0
    assert pc.run("dpkg", "--get-selections", "echo-stream", check=False) == ""
    assert pc.run("systemctl", "--failed", "--plain", "--no-legend") == ""


@pytest.mark.timeout(900)
def test_from_installation_to_purge(computer: DebianPc) -> None:
    is_installed_and_waits(computer)
    starts_by_itself_once_it_is_fitted(computer)
    is_upgraded_with_all_that_it_has(computer)
    stays_down_when_it_is_stopped(computer)
    is_removed_and_keeps_what_is_yours(computer)
    is_purged_without_a_trace(computer)
