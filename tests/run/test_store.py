import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from steelyard.errors import RunError
from steelyard.run import open_run, store

DTYPES = st.sampled_from(["<f4", "<f8", "<i8", "?", "<f2", "<c16", "<U5", "u1"])
NAMES = st.text(min_size=1, max_size=20).filter(lambda name: name.isprintable() and "/" not in name)


@settings(max_examples=40, deadline=None)
@given(
    content=st.dictionaries(
        NAMES, arrays.arrays(DTYPES, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0)), max_size=4
    )
)
@pytest.mark.parametrize("mapped_from", [1, 2**30])
def test_what_is_read_is_what_was_kept(tmp_path_factory, content, mapped_from):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "MAPPED_BYTES", mapped_from)
        store.write_arrays(folder, "a/b.c", content)
        read = store.read_arrays(folder, "a/b.c")
    assert list(read) == list(content)
    for name, array in content.items():
        assert read[name].dtype == array.dtype
        assert read[name].shape == array.shape
        assert read[name].tobytes() == array.tobytes()
    with np.load(store.kept_path(folder, "a/b.c"), allow_pickle=False) as plain:
        assert set(plain.files) == set(content)


def test_mapped_arrays_are_aligned_and_private(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "MAPPED_BYTES", 1)
    content = {
        "odd": np.arange(3, dtype=np.uint8),
        "name of another length": np.arange(5.0),
        "x": np.ones((2, 3)),
    }
    store.write_arrays(tmp_path, "k", content)
    read = store.read_arrays(tmp_path, "k")
    for name, array in read.items():
        assert array.ctypes.data % 64 == 0, name
        array[...] = 0
    again = store.read_arrays(tmp_path, "k")
    np.testing.assert_array_equal(again["x"], np.ones((2, 3)))


def test_computed_and_read_arrays_have_the_same_layout(tmp_path):
    turned = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    with open_run(tmp_path / "run", {}, show="quiet") as run:
        first = run.keep("k", lambda: {"turned": turned, "strided": turned[:, ::2], "scalar": np.float64(3)})
        again = run.keep("k", dict)
        for name in first:
            assert first[name].flags.c_contiguous
            assert again[name].flags.c_contiguous
            assert first[name].shape == again[name].shape
            np.testing.assert_array_equal(first[name], again[name])


@pytest.mark.parametrize("array", [np.array([{}], dtype=object), np.zeros(2, dtype=[("a", "f4")])])
def test_what_cannot_be_kept_is_refused(tmp_path, array):
    with pytest.raises(RunError, match="k: array 'bad' has dtype .* which cannot be kept"):
        store.write_arrays(tmp_path, "k", {"bad": array})


def test_every_flipped_byte_is_found_or_harmless(tmp_path):
    content = {"values": np.arange(40.0)}
    store.write_arrays(tmp_path, "k", content)
    path = store.kept_path(tmp_path, "k")
    good = path.read_bytes()
    found = 0
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 0x41
        path.write_bytes(bad)
        read = store.read_arrays(tmp_path, "k")
        if isinstance(read, store.Damaged):
            found += 1
        else:
            # A flipped time stamp or attribute of the archive changes nothing that is read.
            np.testing.assert_array_equal(read["values"], content["values"])
    assert found > 0.85 * len(good)


def test_every_truncation_is_found(tmp_path):
    store.write_arrays(tmp_path, "k", {"values": np.arange(40.0)})
    path = store.kept_path(tmp_path, "k")
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        assert isinstance(store.read_arrays(tmp_path, "k"), store.Damaged)
