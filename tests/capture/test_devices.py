"""Names that stay, from trees as /proc/asound and /sys have them, and the matching of what people write."""

from __future__ import annotations

from pathlib import Path

import pytest

from echo_stream.capture.devices import Input, find_input, identify
from echo_stream.core.errors import SourceError

USB = "USB PnP Sound Device: Audio (hw:{},0)"


def plug_in(
    root: Path, number: int, card_id: str, port: str | None = None, serial: str | None = None
) -> None:
    """A card as Linux shows it; USB where it has a port."""
    (root / "proc" / f"card{number}").mkdir(parents=True)
    (root / "proc" / f"card{number}" / "id").write_text(card_id + "\n")
    device = root / "devices" / (port or "pci0") / (f"{port}:1.0" if port else "audio")
    (device / "sound" / f"card{number}").mkdir(parents=True)
    (device / "sound" / f"card{number}" / "device").symlink_to(device)
    (root / "sys").mkdir(exist_ok=True)
    (root / "sys" / f"card{number}").symlink_to(device / "sound" / f"card{number}")
    if port:
        (device.parent / "idVendor").write_text("0d8c\n")
    if serial:
        (device.parent / "serial").write_text(serial + "\n")


def identified(root: Path, *names: str) -> list[Input]:
    return identify(((name, 2, 48_000) for name in names), root / "proc", root / "sys")


def test_a_usb_microphone_has_every_name_that_stays(tmp_path: Path) -> None:
    plug_in(tmp_path, 1, "Device", "1-1.2", "A00123")
    (found,) = identified(tmp_path, USB.format(1))
    assert found.names == ("USB PnP Sound Device: Audio", "serial:A00123", "usb:1-1.2", "card:Device,0")
    assert found.write == "USB PnP Sound Device: Audio"
    assert found.pcm == "hw:CARD=Device,DEV=0"
    assert not found.resamples


def test_its_number_does_not_matter(tmp_path: Path) -> None:
    plug_in(tmp_path, 3, "Device", "1-1.2", "A00123")
    (found,) = identified(tmp_path, USB.format(3))
    for name in ("USB PnP Sound Device: Audio", "serial:A00123", "usb:1-1.2", "card:Device,0"):
        assert find_input(name, [found]) is found


@pytest.mark.parametrize(
    ("serials", "written"),
    [
        (("A1", "A2"), ["serial:A1", "serial:A2"]),
        (("same", "same"), ["usb:1-1.2", "usb:1-1.3"]),
        ((None, None), ["usb:1-1.2", "usb:1-1.3"]),
    ],
)
def test_two_of_one_kind_are_told_apart(
    tmp_path: Path, serials: tuple[str | None, str | None], written: list[str]
) -> None:
    plug_in(tmp_path, 1, "Device", "1-1.2", serials[0])
    plug_in(tmp_path, 2, "Device_1", "1-1.3", serials[1])
    found = identified(tmp_path, USB.format(1), USB.format(2))
    assert [one.write for one in found] == written
    assert [find_input(name, found) for name in written] == found
    with pytest.raises(SourceError, match="2 inputs have this name") as error:
        find_input("USB PnP", found)
    assert all(name in error.value.hint for name in written)


def test_a_card_on_the_board(tmp_path: Path) -> None:
    plug_in(tmp_path, 0, "PCH")
    found = identified(
        tmp_path, "HDA Intel PCH: ALC892 Analog (hw:0,0)", "HDA Intel PCH: ALC892 Alt (hw:0,2)"
    )
    assert [one.write for one in found] == ["HDA Intel PCH: ALC892 Analog", "HDA Intel PCH: ALC892 Alt"]
    assert [one.names[1:] for one in found] == [("card:PCH,0",), ("card:PCH,2",)]
    assert found[1].pcm == "hw:CARD=PCH,DEV=2"


def test_without_proc_the_number_of_this_moment_opens_it(tmp_path: Path) -> None:
    (found,) = identified(tmp_path, "Loopback: PCM - (hw:4,1)")
    assert (found.pcm, found.names) == ("hw:4,1", ("Loopback: PCM",))


@pytest.fixture
def inputs(tmp_path: Path) -> list[Input]:
    plug_in(tmp_path, 1, "Device", "1-1.2")
    return identified(tmp_path, USB.format(1), "mic1", "mic10", "default", "sysdefault")


def test_a_part_or_another_case_is_enough_when_only_one_has_it(inputs: list[Input]) -> None:
    assert find_input("usb pnp", inputs) is inputs[0]
    assert find_input("1-1.2", inputs) is inputs[0]
    assert find_input("MIC1", inputs) is inputs[1]  # exactly, though mic10 begins so too


def test_the_default_is_for_those_who_ask_for_it(inputs: list[Input]) -> None:
    assert find_input("default", inputs) is inputs[3]
    with pytest.raises(SourceError, match="no such input"):
        find_input("defa", inputs)


@pytest.mark.parametrize("device", ["0", "12", "hw:1,0", "plughw:1", "USB PnP Sound Device: Audio (hw:1,0)"])
def test_numbers_are_refused(inputs: list[Input], device: str) -> None:
    with pytest.raises(SourceError, match="expected a name"):
        find_input(device, inputs)


@pytest.mark.parametrize("device", ["", "  "])
def test_nothing_is_no_name(inputs: list[Input], device: str) -> None:
    with pytest.raises(SourceError, match="expected a name"):
        find_input(device, inputs)


def test_no_such_device_lists_what_there_is_and_the_nearest(inputs: list[Input]) -> None:
    with pytest.raises(SourceError, match="'micc1': no such input") as error:
        find_input("micc1", inputs)
    assert "Did you mean 'mic1'?" in error.value.hint
    assert "'USB PnP Sound Device: Audio', 'mic1', 'mic10'" in error.value.hint


def test_no_input_at_all() -> None:
    with pytest.raises(SourceError, match="no such input") as error:
        find_input("mic", [])
    assert "group audio" in error.value.hint
