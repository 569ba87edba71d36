"""Pickles of weights can't reach memory, whatever they say, and make no more of it than they are long."""

from __future__ import annotations

import io
import pickle
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzzing import check_script

from convmae.backbones.weights import contents
from convmae.backbones.weights.pickles import read_pickle, read_zip
from convmae.backbones.weights.stand_ins import Refused
from convmae.backbones.weights.weight_files import CheckpointError, read_weights

FUZZ = Path(__file__).parent / "fuzz_weights.py"
OBJECTS = b"\x80\x02cnumpy\ndtype\n(X\x02\x00\x00\x00O8K\x00K\x01tR"
STATE_OF_OBJECTS = b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
POINTER = b"X\x08\x00\x00\x00AAAAAAAA"


def text(words: str) -> bytes:
    return b"X" + struct.pack("<I", len(words)) + words.encode()


@pytest.mark.parametrize(
    "program",
    [
        # the bytes of a number that are taken for the address of an object
        b"\x80\x02cnumpy.core.multiarray\nscalar\n" + OBJECTS[2:] + STATE_OF_OBJECTS + POINTER + b"\x86R.",
        # an array of such
        b"\x80\x02cnumpy.core.numeric\n_frombuffer\n("
        + POINTER
        + OBJECTS[2:]
        + STATE_OF_OBJECTS
        + b"K\x01\x85"
        + text("C")
        + b"tR.",
        OBJECTS + b".",
        b"\x80\x02cnumpy\ndtype\n" + text("V8") + b"\x85R.",
        b"\x80\x02cnumpy\ndtype\n" + text("i4,O8") + b"\x85R.",
    ],
)
def test_objects_of_numpy_are_refused_by_name(program: bytes) -> None:
    with pytest.raises(Refused, match=r"names numpy\.dtype '(O8|V8|i4,O8)'"):
        read_pickle(io.BytesIO(program))


def test_the_state_of_a_dtype_changes_its_byte_order_alone() -> None:
    """A number's dtype whose state claims objects, and flags that hide them, stays that of a number."""
    number = b"cnumpy\ndtype\n(X\x02\x00\x00\x00i8K\x00K\x01tR(K\x03X\x01\x00\x00\x00>NNNK\x08K\x08K?tb"
    program = b"\x80\x02cnumpy.core.multiarray\nscalar\n" + number + text("\0" * 7 + "\x05") + b"\x86R."
    assert read_pickle(io.BytesIO(program)) == 5


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (b"\x80\x04\x96" + struct.pack("<Q", 1 << 40) + b".", "cut off"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".", "cut off"),
        (b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.", None),
        (b"\x80\x02]r\xff\xff\xff\x7f.", None),
        (b"\x80\x02ctorch\nUntypedStorage\nJ\xff\xff\xff\x7f\x85R.", "calls a"),
        (b"\x80\x02ctorch\nTensor\nJ\xff\xff\xff\x7f\x85R.", "calls a"),
        (b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.", "names os.system"),
    ],
)
def test_no_command_makes_room_that_the_file_does_not_fill(program: bytes, reason: str | None) -> None:
    tracemalloc.start()
    try:
        if reason is None:
            read_pickle(io.BytesIO(program))
        else:
            with pytest.raises((Refused, EOFError, pickle.UnpicklingError), match=reason):
                read_pickle(io.BytesIO(program))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_part_that_is_copied_again_and_again_is_refused() -> None:
    many = b"(" + b"K\x01" * 10000 + b"l" + b"q\x00"  # a list, kept as number 0
    program = b"\x80\x02]" + many + b"0" + b"(" + b"cbuiltins\nset\nh\x00\x85R" * 1000 + b"e."
    started = time.process_time()
    with pytest.raises(Refused, match="again and again"):
        read_pickle(io.BytesIO(program))
    assert time.process_time() - started < 5


def test_numbers_of_a_long_list_are_passed_through(monkeypatch: pytest.MonkeyPatch) -> None:
    made, make = [], contents._make
    monkeypatch.setattr(contents, "_make", lambda *args: made.append(1) or make(*args))
    content = {"sizes": [*range(1000), 0.5, "a", None, True], "deep": [{"a": 1}] * 2}
    assert contents.plain(content) == content
    assert len(made) == 5  # the containers, each time one stands there


def saved(changed: dict[bytes, bytes]) -> io.BytesIO:
    """Returns a file of PyTorch's with a tensor [3, 4], parts of whose program are replaced."""
    whole, file = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.arange(12.0).view(3, 4)}, whole)
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(file, "w") as other:
        for name in archive.namelist():
            content = archive.read(name)
            for old, new in changed.items() if name.endswith("data.pkl") else ():
                assert content.count(old) == 1
                content = content.replace(old, new)
            other.writestr(name, content)
    return file


def test_a_tensor_stays_in_its_storage() -> None:
    assert torch.equal(read_zip(saved({}))["a"], torch.arange(12.0).view(3, 4))
    for old, new in ((b"K\x03K\x04\x86", b"K\x04K\x04\x86"), (b"K\x04K\x01\x86", b"K\x05K\x01\x86")):
        with pytest.raises(Refused, match="beyond its storage"):
            read_zip(saved({old: new}))
    with pytest.raises(Refused, match="of no known form"):
        read_zip(saved({b"K\x03K\x04\x86": b"J\xff\xff\xff\xffK\x04\x86"}))
    with pytest.raises(Refused, match=r"makes 1,099,511,627,776 values of the 12 in its storage"):  # no stride
        read_zip(saved({b"K\x03K\x04\x86": b"J\0\0\x10\0J\0\0\x10\0\x86", b"K\x04K\x01\x86": b"K\0K\0\x86"}))


def test_a_zip_file_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", pickle.dumps({"a": b"\0" * 50_000_000}, 2))
    with pytest.raises(CheckpointError, match=r"bomb\.pth unpacks to 500\d+ bytes"):
        read_weights(tmp_path / "bomb.pth")


def test_a_changed_byte_is_seen(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(1000.0)}, tmp_path / "a.pth")
    content = bytearray((tmp_path / "a.pth").read_bytes())
    place = content.index(np.float32(500).tobytes() + np.float32(501).tobytes())
    content[place] ^= 1
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged .*CRC"):
        read_weights(tmp_path / "a.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_every_dtype_and_view_is_read_as_pytorch_reads_it(legacy: bool) -> None:
    kinds = [
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
    ]
    base = torch.arange(24.0).view(4, 6)
    content = {str(kind): base.to(kind) for kind in [*kinds, torch.bool, torch.complex64, torch.complex128]}
    content |= {"columns": base.t(), "part": base[1:3, 2:], "one": base[2, 3], "none": torch.empty(0, 3), "again": base}
    content |= {"parameter": torch.nn.Parameter(base), "expanded": base[:1].expand(5, 6)}
    if not legacy:
        content |= {"uint16": base.to(torch.uint16), "float8": base.to(torch.float8_e4m3fn)}
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    read = (read_pickle if legacy else read_zip)(file)
    assert list(read) == list(content)
    for name, value in content.items():
        assert (read[name].dtype, read[name].stride()) == (value.dtype, value.stride()), name
        assert torch.equal(read[name].to(torch.complex128), value.detach().to(torch.complex128)), name
    assert read["columns"].untyped_storage().data_ptr() == read["again"].untyped_storage().data_ptr()


@pytest.mark.parametrize(
    "view",
    [
        torch.complex(torch.arange(4.0), torch.arange(4.0)).conj().imag,
        torch.complex(torch.arange(4.0), torch.arange(4.0)).conj(),
    ],
    ids=["neg", "conj"],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_values_that_stand_under_another_sign_are_refused(view: torch.Tensor, legacy: bool) -> None:
    for kept, values in ((view, False), (view.resolve_neg().resolve_conj(), True)):
        file = io.BytesIO()
        torch.save({"a": kept}, file, _use_new_zipfile_serialization=not legacy)
        if values:
            assert torch.equal((read_pickle if legacy else read_zip)(file)["a"], kept)
        else:
            with pytest.raises(Refused, match=r"with another sign.*resolve_neg"):
                (read_pickle if legacy else read_zip)(file)


def test_without_values_nothing_but_the_program_is_read() -> None:
    file = io.BytesIO()
    torch.save({"a": torch.ones(3, 4), "meta": {"step": 5}}, file)
    read = read_zip(file, values=False)
    assert (read["a"].device.type, read["a"].shape, read["meta"]) == ("meta", (3, 4), {"step": 5})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_are_read_as_numpy_reads_them(protocol: int) -> None:
    arrays = {
        kind: np.arange(12).reshape(3, 4).astype(kind)
        for kind in ("<f4", ">f4", "<f8", "f2", ">i4", "u1", "?", "c8", ">c16")
    }
    arrays |= {
        "columns": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "empty": np.zeros((0, 3)),
        "one": np.array(2.5),
    }
    read = read_pickle(io.BytesIO(pickle.dumps({"model": arrays, "best": np.float64(0.5)}, protocol)))
    assert read["best"] == 0.5
    for name, array in arrays.items():
        np.testing.assert_array_equal(read["model"][name], array)


def test_files_changed_at_random_end_in_a_refusal() -> None:
    check_script(FUZZ, 1500, 7, 1500)
